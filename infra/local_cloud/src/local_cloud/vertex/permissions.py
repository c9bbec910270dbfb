"""What a request of Vertex AI is about, for the judge: the project, and the accounts that something shall run as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import flask

#: Where a body names the account, in either spelling: a job's in its specification, a deployment's in the model.
_ACCOUNTS = {"job account": ("jobSpec", "job_spec"), "deployed account": ("deployedModel", "deployed_model")}


def resources_of(kind: str, request: flask.Request, *, project: str) -> Iterator[str]:
    """Jobs, models and endpoints have no policies of their own: everything is asked of the project."""
    if kind in _ACCOUNTS:
        holder = _field(request.get_json(force=True, silent=True), *_ACCOUNTS[kind])
        if account := _field(holder, "serviceAccount", "service_account"):
            yield f"projects/{_project_of(account) or project}/serviceAccounts/{account}"
    else:
        yield f"projects/{project}"


def _project_of(account: object) -> str:
    """The project that an account was made in, if its address tells."""
    domain = str(account).partition("@")[2]
    project = domain.removesuffix(".iam.gserviceaccount.com")
    return "" if project == domain or project.startswith("gcp-sa-") else project


def _field(document: object, *spellings: str) -> Any:
    """A field of a JSON object; None where there is none, or no object."""
    found = document if isinstance(document, Mapping) else {}
    return next((found[name] for name in spellings if name in found), None)
