"""Files that never change, and one pointer that moves by compare-and-swap."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dualdeploy.errors import CannotEverSucceed, LedgerContention, ServiceUnavailable
from dualdeploy.google.object_store import ABSENT
from mobile_publisher.on_device_gate import Figures
from mobile_publisher.release import File
from mobile_publisher.storage_channel import PointerMoved, StorageChannel, VersionTaken
from support.fakes import Failing, MemoryObjectStore


class World:
    def __init__(self) -> None:
        self.models, self.phones = MemoryObjectStore("models"), MemoryObjectStore("phones")
        self.channel = StorageChannel(models=self.models, bucket=self.phones)

    def exported(self, version: str, content: bytes = b"model") -> File:
        manifest = {"version": version, "sha256": "00", "size": len(content), "min_app_version": "2"}
        self.models.put(f"{version}/model.tflite", content, expect=ABSENT)
        self.models.put(f"{version}/manifest.json", json.dumps(manifest).encode(), expect=ABSENT)
        return File(
            uri=f"gs://models/{version}/model.tflite",
            manifest=f"gs://models/{version}/manifest.json",
            sha256="00",
            version=version,
            variant="float32",
            quantization="float32",
            named="flowers",
            figures=Figures(accuracy=0.9, size_bytes=len(content)),
        )

    def publish(self, version: str) -> None:
        self.bring(self.exported(version))

    def bring(self, file: File) -> None:
        self.channel.upload("flowers", file)
        self.channel.point("flowers", file.version)


@pytest.fixture
def world() -> World:
    return World()


def test_a_pointer_that_moves_while_it_is_left_as_it_is_stays_where_it_moved_to(world: World) -> None:
    world.publish("v1")
    world.channel.upload("flowers", world.exported("v2"))

    def move(name: str) -> None:
        if name == "put":
            world.phones.faults.before = lambda _name: None
            world.channel.point("flowers", "v2")

    world.phones.faults.before = move
    with pytest.raises(LedgerContention):
        world.channel.touch("flowers")
    latest = world.channel.latest("flowers")
    assert latest is not None
    assert latest["version"] == "v2"


def test_nothing_points_at_a_version_before_its_files_are_there(world: World) -> None:
    world.channel.upload("flowers", world.exported("v1"))
    assert world.channel.latest("flowers") is None
    world.channel.point("flowers", "v1")
    latest = world.channel.latest("flowers")
    assert latest is not None
    assert latest["version"] == "v1"
    assert world.phones.read(latest["model"]).data == b"model"
    assert json.loads(world.phones.read(latest["manifest"]).data)["version"] == "v1"
    assert (latest["sha256"], latest["size"], latest["min_app_version"]) == ("00", 5, "2")
    assert latest["previous"] == ""


def test_the_pointer_remembers_what_was_before(world: World) -> None:
    world.publish("v1")
    world.publish("v2")
    latest = world.channel.latest("flowers")
    assert (latest["version"], latest["previous"]) == ("v2", "v1")
    assert "models/flowers/v1/model.tflite" in world.phones.names()


def test_repeating_every_step_changes_nothing(world: World) -> None:
    file = world.exported("v1")
    for _ in range(2):
        world.bring(file)
    generation = world.phones.read("models/flowers/latest.json").generation
    world.channel.point("flowers", "v1")
    assert world.phones.read("models/flowers/latest.json").generation == generation


def test_other_bytes_under_a_versions_name_are_refused(world: World) -> None:
    world.phones.put("models/flowers/v1/model.tflite", b"somebody else's", expect=ABSENT)
    with pytest.raises(VersionTaken, match="holds something else"):
        world.channel.upload("flowers", world.exported("v1"))
    assert world.phones.read("models/flowers/v1/model.tflite").data == b"somebody else's"


def test_a_pointer_that_another_instance_moves_is_decided_again(world: World) -> None:
    world.publish("v1")
    world.channel.upload("flowers", world.exported("v2"))

    def someone_moves_it(name: str) -> None:
        world.phones.faults.before = lambda _name: None
        current = world.phones.read("models/flowers/latest.json")
        world.phones.put("models/flowers/latest.json", b'{"version": "v9"}', expect=current.generation)

    world.phones.faults.before = lambda name: someone_moves_it(name) if name == "put" else None
    with pytest.raises(LedgerContention, match="moved by another instance"):
        world.channel.point("flowers", "v2")
    assert world.channel.latest("flowers")["version"] == "v9"


@pytest.mark.parametrize("expected", [("v1",), ("",), ("v1", "v2")])
def test_a_pointer_that_names_what_no_one_expects_is_left_as_it_is(world: World, expected: tuple[str, ...]) -> None:
    for version in ("v1", "v2", "v3"):
        world.publish(version)
    for look in (
        lambda: world.channel.point("flowers", "v2", among=expected),
        lambda: world.channel.check("flowers", among=expected),
    ):
        with pytest.raises(PointerMoved, match=r"/latest.json was moved by hand: it names v3, not"):
            look()
    assert world.channel.latest("flowers")["version"] == "v3"


def test_a_pointer_that_was_left_as_it_is_on_purpose_is_not_moved_by_an_instance_that_was_frozen(world: World) -> None:
    world.publish("v1")
    world.channel.upload("flowers", world.exported("v2"))
    with pytest.raises(LedgerContention, match="moved by another instance"):
        # It froze between its look and its write; its release was taken back before the pointer was moved.
        world.channel.point("flowers", "v2", among=("v1",), guard=lambda: world.channel.touch("flowers"))
    assert world.channel.latest("flowers")["version"] == "v1"


def test_what_someone_wrote_since_is_not_taken_away(world: World) -> None:
    path = "models/flowers/routing/v1.json"
    world.channel.tell(path, {"at": "first"}, guard=lambda: None)
    with pytest.raises(LedgerContention, match="was written by another instance"):
        world.channel.withdraw(path, guard=lambda: world.channel.tell(path, {"at": "then"}, guard=lambda: None))
    assert json.loads(world.phones.read(path).data) == {"at": "then"}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"v1"'])
def test_a_pointer_that_is_none_is_replaced(world: World, text: bytes) -> None:
    world.phones.put("models/flowers/latest.json", text, expect=ABSENT)
    world.publish("v1")
    assert world.channel.latest("flowers")["version"] == "v1"


@pytest.mark.parametrize("after", [False, True], ids=["nothing was done", "the answer was lost"])
@pytest.mark.parametrize("nth", range(3))
def test_a_write_that_fails_at_any_place_is_mended_by_repeating(world: World, nth: int, after: bool) -> None:
    world.publish("v1")
    file = world.exported("v2")
    world.phones.faults.plan("put", *[None] * nth, Failing(ServiceUnavailable("no answer"), after=after))
    with pytest.raises(ServiceUnavailable):
        world.bring(file)
    # Whatever failed, phones have the old version or the new one, whole.
    seen = world.channel.latest("flowers")
    assert world.phones.read(seen["model"]).data
    assert seen["version"] == ("v2" if nth == 2 and after else "v1")
    world.bring(file)
    assert world.channel.latest("flowers")["version"] == "v2"


def test_an_exported_file_that_is_gone_is_named(world: World) -> None:
    file = world.exported("v1")
    remove_export(world)
    with pytest.raises(CannotEverSucceed, match=r"gs://models/v1/model\.tflite is gone"):
        world.channel.upload("flowers", file)


def test_an_exported_file_that_is_gone_is_not_missed_where_phones_have_it(world: World) -> None:
    file = world.exported("v1")
    world.bring(file)
    world.publish("v2")
    remove_export(world)
    world.bring(file)
    assert world.channel.latest("flowers")["version"] == "v1"


def remove_export(world: World) -> None:
    world.models.delete("v1/model.tflite", expect=world.models.read("v1/model.tflite").generation)


# Who may read them ---------------------------------------------------------------------------------------------

RULES = (Path(__file__).parents[3] / "infra" / "firebase" / "storage.rules").read_text(encoding="utf-8")
METHODS = ("get", "list", "create", "update", "delete")
GROUPS = {"read": ("get", "list"), "write": ("create", "update", "delete")}


def allowed(path: str) -> set[str]:
    """What anybody may do with an object; what no rule allows is refused, and one rule that allows is enough.

    Only Firebase can evaluate rules: this reads the few forms that ours are made of, and refuses every other.
    Source: https://firebase.google.com/docs/rules/rules-language
    """
    text = re.sub(r"//.*", "", RULES)
    inner = re.search(r"match /b/\{bucket\}/o \{(.*)\}\s*\}\s*$", text, flags=re.DOTALL)
    assert inner
    blocks = re.findall(r"match (/\S+) \{(.*?)\n    \}", inner[1], flags=re.DOTALL)
    assert blocks
    found = set()
    for pattern, body in blocks:
        if re.fullmatch(_expression(pattern), f"/{path}"):
            for methods, condition in re.findall(r"allow ([a-z, ]+): if (\w+);", body):
                assert condition in ("true", "false")
                names = [each for name in methods.split(", ") for each in GROUPS.get(name, (name,))]
                assert set(names) <= set(METHODS)
                found |= set(names) if condition == "true" else set()
    return found


def _expression(pattern: str) -> str:
    """`{name}` is one part of a path, `{name=**}` the rest of it."""
    return re.sub(r"\{\w+(=\*\*)?\}", lambda found: ".+" if found[1] else "[^/]+", pattern)


def test_phones_may_get_everything_that_is_published_and_nothing_more(world: World) -> None:
    world.publish("v1")
    names = world.phones.names()
    assert len(names) == 3
    assert {name: allowed(name) for name in names} == {name: {"get"} for name in names}


@pytest.mark.parametrize("path", ["models", "models/flowers", "secret", "users/1/photo.jpg", "model/a/latest.json"])
def test_no_one_gets_anything_else(path: str) -> None:
    assert allowed(path) == set()
