"""COVERAGE.md: what each emulated API does, where it differs from Google's, and what it has not."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from local_cloud import deployed, firebase_ml, monitoring, pubsub, remote_config, storage, vertex
from local_cloud.api import Operation
from local_cloud.cloud import LocalCloud
from local_cloud.topology import Topology

#: Beside the README of this package.
PAGE = Path(__file__).resolve().parents[2] / "COVERAGE.md"

_HEAD = """\
# What the local cloud covers

Generated from the route tables by `make coverage-table`; a test fails when it is not current.
Every operation below can be told to fail: see `Faults` and `POST /faults` of the control API. With `--realistic` it
keeps Google's rates, time-outs and back-offs. Its answers are those that were recorded of the real services, row by row
in `tests/contract/local_cloud/test_recorded_answers.py`.
With a file of bindings every call of Google's APIs is judged: by its grants, by the roles of
`local_cloud/iam/roles.json` and by what `local_cloud/iam/operations.json` says that an operation asks; both files mark
what was never verified. The port tells who calls: each account has ports of its own, and those that are printed are the
owner's.
An empty last column means: no difference that we know of, as far as the client libraries show one.
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """One API's part of the page."""

    title: str
    judge: str
    operations: Sequence[Operation]
    absent: Sequence[str]


def sections(cloud: LocalCloud) -> list[Section]:
    """The APIs of a local cloud, which need not be running."""
    return [
        Section(
            "Cloud Storage (JSON API)",
            "google-cloud-storage, unmodified, with STORAGE_EMULATOR_HOST, and gcloud",
            cloud.storage.api.operations,
            _absent(storage),
        ),
        Section(
            "Pub/Sub (gRPC, and REST at the same address)",
            "google-cloud-pubsub, unmodified, with PUBSUB_EMULATOR_HOST, and gcloud",
            cloud.pubsub.operations,
            _absent(pubsub),
        ),
        Section(
            "Vertex AI (REST)",
            "google-cloud-aiplatform, unmodified, with an http api_endpoint",
            cloud.vertex.api.operations,
            _absent(vertex),
        ),
        Section(
            "Cloud Monitoring (gRPC)",
            "google-cloud-monitoring, unmodified, over an insecure channel",
            cloud.monitoring.operations,
            _absent(monitoring),
        ),
        Section(
            "Firebase ML (REST)",
            "firebase-admin, with FIREBASE_ML_EMULATOR_HOST",
            cloud.firebase_ml.api.operations,
            _absent(firebase_ml),
        ),
        Section(
            "Remote Config (REST)",
            "plain HTTP: no client library of Google's writes app templates",
            cloud.remote_config.api.operations,
            _absent(remote_config),
        ),
        Section(
            "What is deployed (REST)",
            "plain HTTP, with GOOGLE_APIS_EMULATOR_HOST",
            cloud.deployed.api.operations,
            _absent(deployed),
        ),
        Section(
            "Google's certificates (HTTP)",
            "google-auth, which verifies with them the tokens that pushes carry",
            cloud.identity.api.operations,
            (),
        ),
        Section(
            "App Check and Firebase Auth (REST)",
            "firebase_admin's checks of both tokens",
            cloud.app_tokens.api.operations,
            ("every way to attest but debug tokens; accounts, passwords, refreshing",),
        ),
        Section(
            "Metadata server (HTTP)",
            "google-auth, unmodified, with GCE_METADATA_HOST and GCE_METADATA_IP",
            cloud.metadata.api.operations,
            (),
        ),
        Section(
            "IAM Credentials (REST)",
            "google-auth's impersonated credentials, with IAM_CREDENTIALS_EMULATOR_HOST",
            cloud.iam_credentials.api.operations,
            ("delegates, lifetimes and scopes; `generateIdToken`, `signJwt`",),
        ),
        Section(
            "Control API (the local cloud's own)",
            "people, demonstrations and tests",
            cloud.control.api.operations,
            (),
        ),
    ]


def render(parts: Iterable[Section]) -> str:
    """The page as Markdown."""
    lines = [_HEAD]
    for part in parts:
        lines += [f"## {part.title}", "", f"Judged by: {part.judge}.", ""]
        lines += ["| operation | method | path | differs |", "|---|---|---|---|"]
        for operation in sorted(part.operations, key=lambda each: (each.name, each.path, each.method)):
            path = operation.path.replace("|", "\\|")
            differs = operation.differs.replace("|", "\\|")
            lines.append(f"| `{operation.name}` | {operation.method} | `{path}` | {differs} |")
        lines.append("")
        if part.absent:
            lines += ["Not there:", "", *(f"- {each}" for each in part.absent), ""]
    return "\n".join(lines)


def page() -> str:
    """The page for the code as it is now; nothing is started."""
    with tempfile.TemporaryDirectory() as folder:
        cloud = LocalCloud(Topology.empty(), state_dir=folder)
        try:
            return render(sections(cloud))
        finally:
            cloud.close()


def _absent(package: object) -> Sequence[str]:
    absent: Sequence[str] = getattr(package, "ABSENT", ())
    return absent


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
