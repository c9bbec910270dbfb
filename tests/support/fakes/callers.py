"""Who calls, in tests: as behind Cloud Run, where tokens come checked and without their signature."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from dualdeploy.http.callers import Callers
from dualdeploy.http.certificates import Certificates

AUDIENCE = "https://tester.example"
SENDER = "tester-caller@demo.iam.gserviceaccount.com"

#: What an environment says of it.
CALLER_ENVIRONMENT = {
    "PUSH_AUDIENCES": AUDIENCE,
    "PUSH_SERVICE_ACCOUNTS": SENDER,
    "CLOUD_RUN_CHECKS_TOKENS": "true",
}


def cloud_run_callers(*, console: str = "") -> Callers:
    """Believes tokens without signature; certificates could not be fetched from anywhere."""
    return Callers(
        audiences=[AUDIENCE],
        event_senders=[SENDER],
        certificates=Certificates("http://127.0.0.1:9/certs"),
        cloud_run_checks_tokens=True,
        console=console,
    )


def checked_token(email: str = SENDER, *, signature: str = "SIGNATURE_REMOVED_BY_GOOGLE", **claims: Any) -> str:
    """A token as Cloud Run passes it on; `claims` change what it says, None takes a claim out."""
    now = int(time.time())
    said = {
        "aud": AUDIENCE,
        "email": email,
        "email_verified": True,
        "exp": now + 3600,
        "iat": now,
        "iss": "https://accounts.google.com",
        **claims,
    }
    return f"{_segment({'alg': 'RS256'})}.{_segment({k: v for k, v in said.items() if v is not None})}.{signature}"


def from_sender(email: str = SENDER, **claims: Any) -> dict[str, str]:
    """The header that every delivery of an event has."""
    return {"Authorization": f"Bearer {checked_token(email, **claims)}"}


def _segment(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()
