"""The judge's rules, and the data that it judges by."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from local_cloud import topology as topologies
from local_cloud.iam import OWNER, PREDICTOR, Bindings, BindingsError, Condition, Grant, Iam, Refused, agent
from local_cloud.iam.bindings import Binding, read_json
from local_cloud.iam.gate import asks
from support import permissions_page

REPOSITORY = Path(__file__).parents[3]
PROJECT = "demo-dualdeploy"
BUCKET = f"projects/_/buckets/{PROJECT}-models"
ANNA = "user:anna@example.com"


@pytest.fixture(scope="module")
def topology() -> topologies.Topology:
    return topologies.load(REPOSITORY / "infra" / "topology.json", project=PROJECT, region="us-central1")


@pytest.fixture
def iam(topology: topologies.Topology) -> Iam:
    return Iam.of(topology, Bindings.load(REPOSITORY / "infra" / "bindings.json"))


def test_one_grant_is_enough_on_the_resource_or_on_the_project(iam: Iam) -> None:
    topic = f"projects/{PROJECT}/topics/dead-letters"
    for resource in (topic, f"projects/{PROJECT}"):
        iam.grant(Grant(resource, "roles/pubsub.publisher", ANNA))
        assert iam.allows(ANNA, "pubsub.topics.publish", topic)
        iam.revoke(resource, "roles/pubsub.publisher", ANNA)
    assert not iam.allows(ANNA, "pubsub.topics.publish", topic)


def test_a_narrow_grant_says_nothing_of_its_neighbours(iam: Iam) -> None:
    iam.grant(Grant(f"projects/{PROJECT}/topics/a", "roles/pubsub.publisher", ANNA))
    # A subscription does not inherit from its topic, nor a topic from one whose name begins so.
    for other in ("topics/b", "topics/ab", "subscriptions/a"):
        assert not iam.allows(ANNA, "pubsub.topics.publish", f"projects/{PROJECT}/{other}")
    assert not iam.allows(ANNA, "pubsub.topics.get", f"projects/{PROJECT}/topics/a")


@pytest.mark.parametrize(
    ("condition", "holds", "does_not_hold"),
    [
        (
            Condition((f"{BUCKET}/objects/runs/",)),
            [f"{BUCKET}/objects/runs/a"],
            [BUCKET, f"{BUCKET}/objects/run", f"{BUCKET}/objects/results/runs/", f"{BUCKET}-2/objects/runs/a"],
        ),
        (
            Condition((f"{BUCKET}/objects/runs/",), bucket=BUCKET),
            [BUCKET, f"{BUCKET}/objects/runs/a"],
            [f"{BUCKET}-2", f"{BUCKET}/objects/other"],
        ),
    ],
    ids=["objects", "objects and the listing"],
)
def test_a_condition_holds_for_the_names_that_it_says(
    condition: Condition, holds: list[str], does_not_hold: list[str]
) -> None:
    assert all(condition.holds(name) for name in holds)
    assert not any(condition.holds(name) for name in does_not_hold)


def test_an_owner_reads_objects_by_what_a_bucket_grants_the_owners_of_its_project(iam: Iam) -> None:
    for permission in ("storage.objects.get", "storage.objects.list", "storage.buckets.get", "storage.objects.update"):
        assert iam.allows(OWNER, permission, f"{BUCKET}/objects/x")
    iam.grant(Grant(f"projects/{PROJECT}", "roles/viewer", ANNA))
    assert iam.allows(ANNA, "storage.objects.get", f"{BUCKET}/objects/x")
    assert not iam.allows(ANNA, "storage.objects.create", f"{BUCKET}/objects/x")
    # Not even an owner signs as an account.
    account = f"projects/{PROJECT}/serviceAccounts/mobile-publisher@{PROJECT}.iam.gserviceaccount.com"
    assert not iam.allows(OWNER, "iam.serviceAccounts.signBlob", account)


def test_an_account_has_no_permission_over_itself_unless_granted(iam: Iam) -> None:
    notifier = iam.member("job-notifier")
    account = f"projects/{PROJECT}/serviceAccounts/{notifier.partition(':')[2]}"
    assert not iam.allows(notifier, "iam.serviceAccounts.getAccessToken", account)


def test_names_with_the_projects_number_mean_the_same_resources(iam: Iam) -> None:
    assert iam.allows(
        iam.member("job-notifier"), "pubsub.topics.publish", "projects/123456789012/topics/training-completed"
    )


def test_googles_own_accounts_have_what_google_grants_them_and_no_more(iam: Iam) -> None:
    object_ = f"{BUCKET}/objects/runs/r/cloud/saved_model/saved_model.pb"
    assert iam.allows(agent("gcp-sa-aiplatform"), "storage.objects.get", object_)
    assert iam.allows(agent("gcp-sa-cloudscheduler"), "pubsub.topics.publish", f"projects/{PROJECT}/topics/tick")
    assert not iam.allows(agent("Pub/Sub"), "pubsub.topics.publish", f"projects/{PROJECT}/topics/tick")
    assert iam.allows(PREDICTOR, "storage.objects.get", object_)
    assert not iam.allows(PREDICTOR, "storage.objects.get", f"projects/_/buckets/{PROJECT}-ledger/objects/x")


def test_the_judge_remembers_whom_it_refused_and_which_grant_alone_let_a_call_through(iam: Iam) -> None:
    iam.forget()
    trainer, shard = iam.member("trainer"), f"projects/_/buckets/{PROJECT}-data/objects/flowers/a"
    iam.require(trainer, "storage.objects.get", shard)
    with pytest.raises(Refused) as caught:
        iam.require(trainer, "storage.objects.create", shard)
    assert (caught.value.email, caught.value.permission) == (trainer.partition(":")[2], "storage.objects.create")
    assert [dataclasses.astuple(each) for each in iam.refusals()] == [(trainer, "storage.objects.create", shard)]
    assert iam.needed() == {Grant(f"buckets/{PROJECT}-data", "roles/storage.objectViewer", trainer)}
    # What two grants allow, neither alone is needed for.
    iam.forget()
    iam.grant(Grant(f"projects/{PROJECT}", "roles/storage.objectViewer", trainer))
    iam.require(trainer, "storage.objects.get", shard)
    assert iam.needed() == set()


GOOD = {"account": "trainer", "role": "roles/storage.objectViewer", "on": "bucket data", "why": "reads shards"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {**GOOD, "role": "roles/storage.reader"},
            "'roles/storage.reader' is not known here; write its",
        ),
        ({**GOOD, "role": "roles/storage.reader"}, "roles/storage.objectViewer"),
        ({**GOOD, "on": "buckets ledger"}, "on 'buckets ledger': there are project, bucket, topic"),
        ({**GOOD, "on": "project x"}, "on 'project x': there are project"),
        ({**GOOD, "prefix": "runs/"}, "bindings.services[0].prefix: is not a key; there are account, role, on, why"),
        ({"account": "trainer", "on": "project"}, "bindings.services[0].role: is missing; it must be a text"),
        ({**GOOD, "objects": "runs/"}, "bindings.services[0].objects: must be a list"),
        ("trainer", "bindings.services[0]: must be an object with account, role and on"),
    ],
)
def test_bindings_that_cannot_be_used_are_refused_at_start(
    topology: topologies.Topology, tmp_path: Path, row: object, said: str
) -> None:
    file = tmp_path / "bindings.json"
    file.write_text(json.dumps({"bindings": {"services": [row]}}))
    with pytest.raises(BindingsError) as refused:
        Iam.of(topology, Bindings.load(file))
    assert said in str(refused.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"bindings": []}', '{"bindings": {"a": {}}}'])
def test_a_file_of_another_shape_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bindings.json"
    file.write_text(text)
    with pytest.raises(BindingsError, match=r"bindings\.json: (not JSON|bindings must be an object)"):
        Bindings.load(file)


def test_without_bindings_everyone_may_do_everything_whose_account_is_not_disabled(
    topology: topologies.Topology,
) -> None:
    iam = Iam.of(topology, None)
    launcher = iam.member("training-launcher")
    for caller in (ANNA, launcher, PREDICTOR):
        iam.require(caller, "storage.objects.delete", f"{BUCKET}/objects/x")
    assert launcher in iam.callers
    iam.accounts[launcher.partition(":")[2]] = True
    with pytest.raises(Refused):
        iam.require(launcher, "storage.objects.get", f"{BUCKET}/objects/x")


def test_with_bindings_a_service_that_is_granted_nothing_has_an_account_and_may_do_nothing(tmp_path: Path) -> None:
    shop = topologies.Service("price_list", "service", ".", ("python", "shop.py"))
    bucket = topologies.Bucket("data", "anything", (), ())
    small = dataclasses.replace(topologies.Topology.empty(), services={"price_list": shop}, buckets={"data": bucket})
    iam = Iam.of(small, Bindings({}, (Binding("s", "reader", "roles/storage.objectViewer", "bucket data"),)))
    object_ = "projects/_/buckets/anything/objects/x"
    assert iam.allows(iam.member("reader"), "storage.objects.get", object_)
    assert iam.allows(PREDICTOR, "storage.objects.get", object_)
    assert iam.member("price-list") in iam.callers
    assert not iam.allows(iam.member("price-list"), "storage.objects.get", object_)


def test_every_permission_that_an_operation_asks_is_in_some_role() -> None:
    """A permission that is written wrong would refuse everyone, or no one but owners."""
    data = read_json("roles.json")
    agents = [each["permissions"] for each in data["agents"].values()]
    lacking = [each["lacks"] for each in data["basic"].values()]
    custom = Bindings.load(REPOSITORY / "infra" / "bindings.json").custom_roles.values()
    known = {name for permissions in (*data["roles"].values(), *agents, *lacking, *custom) for name in permissions}
    asked = {
        ask.permission.replace("{collection}", collection)
        for operation in read_json("operations.json")["operations"]
        for ask in asks(operation)
        for collection in (("topics", "subscriptions") if "pubsub" in operation else ("models", "endpoints"))
    }
    assert asked - known == set()


def test_the_tables_of_the_permissions_page_are_current() -> None:
    text = (REPOSITORY / permissions_page.FILE).read_text(encoding="utf-8")
    assert permissions_page.filled(text, REPOSITORY) == text, "run `make permissions-table`"
    assert text.count("<!-- table: ") == 7
