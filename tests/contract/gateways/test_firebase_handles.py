"""firebase-admin is held by one module, whose grip on the library's private parts is pinned here.

A version that takes one of them away fails in this file and not at the first release to phones.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
HOLDER = REPOSITORY / "shared" / "src" / "dualdeploy" / "google" / "firebase_ml.py"

#: Every private name of the library that our module uses, and what it must be.
HANDLES = {
    "_MLService": inspect.isclass,
    "_get_ml_service": inspect.isfunction,
    "_client": lambda value: callable(value.body),
    "_operation_client": lambda value: callable(value.body),
    "_timeout": lambda value: isinstance(value, int | float),
}


@pytest.fixture
def parts() -> dict[str, Any]:
    import firebase_admin
    from firebase_admin import ml

    class Anonymous(firebase_admin.credentials.Base):  # type: ignore[misc]  # the SDK has no types
        def get_credential(self) -> Any:
            import google.auth.credentials

            return google.auth.credentials.AnonymousCredentials()

    app = firebase_admin.initialize_app(Anonymous(), {"projectId": "demo-dualdeploy"}, name="pinned")
    try:
        service = ml._get_ml_service(app)
        return {
            "_MLService": ml._MLService,
            "_get_ml_service": ml._get_ml_service,
            "_client": service._client,
            "_operation_client": service._operation_client,
            "_timeout": service._client._timeout,
        }
    finally:
        firebase_admin.delete_app(app)


def test_no_other_module_of_the_product_touches_the_library() -> None:
    code = [path for folder in ("shared/src", "services") for path in (REPOSITORY / folder).rglob("*.py")]
    mentions = re.compile(r"""^\s*(?:import|from) firebase_admin|load\(["']firebase_admin""", re.MULTILINE)
    assert [path for path in code if mentions.search(path.read_text(encoding="utf-8"))] == [HOLDER]


def test_every_private_handle_that_we_use_is_pinned() -> None:
    used = set(re.findall(r"\b(?:ml|service|client|_ml\(\))\.(_[a-z]\w*|_ML\w+)", HOLDER.read_text(encoding="utf-8")))
    assert used == set(HANDLES)


@pytest.mark.parametrize("name", HANDLES)
def test_the_library_has_the_handle(name: str, parts: dict[str, Any]) -> None:
    assert HANDLES[name](parts[name])


def test_the_addresses_that_an_emulator_replaces_are_read_from_the_class(parts: dict[str, Any]) -> None:
    assert parts["_MLService"].PROJECT_URL == "https://firebaseml.googleapis.com/v1beta2/projects/{0}/"
    assert parts["_MLService"].OPERATION_URL == "https://firebaseml.googleapis.com/v1beta2/"
