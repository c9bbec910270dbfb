"""The ids and names that things of a data set have on Vertex AI: derived, so that repeating a step finds them again."""

from __future__ import annotations

import hashlib

from dualdeploy.contracts import automl
from dualdeploy.ledger import Release

#: What services/predictor listens on; it reads them from AIP_* variables that Vertex AI makes of these.
PREDICT_ROUTE, HEALTH_ROUTE, PORT = "/predict", "/health", 8080

#: Aliases in the Model Registry, besides the run id, which every version keeps.
CANDIDATE, LIVE, PREVIOUS = "candidate", "live", "previous"


def model_id_of(dataset: str) -> str:
    """The Model Registry entry of a data set; every run that our trainer trained is a version of it."""
    return f"dualdeploy-{dataset}"


def model_ids_of(dataset: str) -> tuple[str, str]:
    """All that the data set's cloud models can be versions of: ours, and those that AutoML trained."""
    return model_id_of(dataset), automl.model_id(dataset, "cloud")


def model_id_in(name: str) -> str:
    """Of a resource name; Vertex AI writes the project as a number or by its id, and the version or none."""
    return name.rsplit("/", 1)[-1].partition("@")[0]


def deployed_id_of(release: Release) -> str:
    """The id of what a release deploys, made of run and release."""
    return deployed_id(f"{release.run_id}/{release.n}")


def former_id_of(release: Release) -> str:
    """The id under which a release deploys again what it replaced in place."""
    return deployed_id(f"{release.run_id}/{release.n}/former")


def deployed_id(text: str) -> str:
    """A number of ten digits (Vertex AI's limit), always the same one for the same text."""
    digest = hashlib.sha256(text.encode()).digest()
    return str(int.from_bytes(digest[:8], "big") % 9_000_000_000 + 1_000_000_000)
