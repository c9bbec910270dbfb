"""The names of all objects in the ledger bucket, and the ids that stand in them.

due/<service>/<minute>/<key>                 what a service has to look at in that minute; a tick lists nothing else
requests/<id>.json                           what a request set out to do, written before its effect; kept for 30 days
runs/<run>/run.json                          training_launcher: the claim of the content; written once
runs/<run>/validation*.json, estimate.json   training_launcher: verdict on the data, expected cost; written once
runs/<run>/<target>/launch.json              training_launcher: the training of one target
runs/<run>/<target>/ended-<attempt>.json     job_notifier: how one attempt of the training ended
runs/<run>/<target>/release-<n>.json         cloud_deployer or mobile_publisher: one release of the trained model
serving/<target>/<dataset>.json              the same two: what serves, what is under way, who waits
data/<dataset>.json                          training_launcher: the newest run, what arrived, the schedule
automl/<dataset>/<key>.json                  training_launcher: the data set at AutoML of runs of the same pictures
claims/endpoints/<id>.json                   cloud_deployer: which data set holds an endpoint
claims/names/<name>.json                     mobile_publisher: which data set holds a publishing name
routing/<dataset>.json                       mobile_publisher: when phones ask the cloud model, and why
spend/<month>/<dataset>.json                 the account of a month; see `spending`
cleanup/<dataset>.json                       cloud_deployer: what nothing needs any more, and what was removed
locks/<name>.json                            leases
rejected/<day>/<id>.json                     events and data that can never succeed, with the reason
"""

from __future__ import annotations

import re

from dualdeploy.errors import UnknownRun

#: See `run_id_of`; the name of a data set may itself end in what looks like the rest.
_RUN_ID = re.compile(r"(?P<dataset>[a-z][a-z0-9-]*)-[0-9a-f]{12}(-r[1-9][0-9]*)?")
_RELEASE = re.compile(r"release-(?P<n>[1-9][0-9]{0,8})\.json")


def run_id_of(dataset: str, digest: str, *, repeat: int = 1) -> str:
    """`<dataset>-<first 12 hex of the snapshot digest>`, and `-r2`, `-r3` for repetitions."""
    run_id = f"{dataset}-{digest[:12]}"
    return run_id if repeat == 1 else f"{run_id}-r{repeat}"


def dataset_of(run_id: str) -> str:
    """The data set that a run id begins with; empty when the text is not a run id."""
    match = _RUN_ID.fullmatch(run_id)
    return match["dataset"] if match else ""


def checked_run_id(run_id: str) -> str:
    """A run id that may become part of an object's name: it came in a message, a URL or the name of another object.

    Raises UnknownRun. With a slash in it, it would name some other object of the ledger.
    """
    if not dataset_of(run_id):
        raise UnknownRun(f"{run_id[:200]!r} is not a run id: one looks like flowers-0123456789ab")
    return run_id


def run(run_id: str) -> str:
    return f"runs/{checked_run_id(run_id)}/run.json"


def validation(run_id: str) -> str:
    return f"runs/{checked_run_id(run_id)}/validation.json"


def estimate(run_id: str) -> str:
    return f"runs/{checked_run_id(run_id)}/estimate.json"


def note(run_id: str, name: str) -> str:
    """A document beside the run, such as a step of its validation."""
    return f"runs/{checked_run_id(run_id)}/{name}"


def launch(run_id: str, target: str) -> str:
    return f"runs/{checked_run_id(run_id)}/{target}/launch.json"


def ended(run_id: str, target: str, attempt: int) -> str:
    return f"runs/{checked_run_id(run_id)}/{target}/ended-{attempt}.json"


def release(run_id: str, target: str, n: int) -> str:
    return f"runs/{checked_run_id(run_id)}/{target}/release-{n}.json"


def releases(run_id: str, target: str) -> str:
    """The beginning of the names of a run's releases."""
    return f"runs/{checked_run_id(run_id)}/{target}/release-"


def release_number(name: str) -> int:
    """The number in the name of a release; 0 when the name is not one of a release."""
    match = _RELEASE.fullmatch(name.rsplit("/", 1)[-1])
    return int(match["n"]) if match else 0


def serving(target: str, dataset: str) -> str:
    return f"serving/{target}/{dataset}.json"


def data(dataset: str) -> str:
    return f"data/{dataset}.json"


def managed_data(dataset: str, key: str) -> str:
    return f"automl/{dataset}/{key}.json"


def endpoint_claim(endpoint: str) -> str:
    return f"claims/endpoints/{endpoint}.json"


def name_claim(name: str) -> str:
    return f"claims/names/{name}.json"


def routing(dataset: str) -> str:
    return f"routing/{dataset}.json"


def request(digest: str) -> str:
    return f"requests/{digest}.json"


def lock(name: str) -> str:
    return f"locks/{name}.json"


def account(month: str, dataset: str) -> str:
    return f"spend/{month}/{dataset}.json"


def cleanup(dataset: str) -> str:
    return f"cleanup/{dataset}.json"
