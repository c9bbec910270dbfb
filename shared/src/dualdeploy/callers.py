"""Who called, as Google verified it before the request came here.

Cloud Run lets a request in only with an identity token of somebody who may invoke the service. It checks the token's
signature and takes it away (https://cloud.google.com/run/docs/troubleshooting#signature-removed), so that a token can
not be used again: a token without its signature is thus one that Cloud Run has checked. One with a signature was
checked by nobody on the way, and its name is not believed. Identity-Aware Proxy states the caller in a header.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

_CHECKED = "SIGNATURE_REMOVED_BY_GOOGLE"


def identity(headers: Mapping[str, str]) -> str:
    """The caller's e-mail address, or nothing when nobody vouched for one."""
    through_proxy = headers.get("X-Goog-Authenticated-User-Email", "")
    if through_proxy:
        return through_proxy.rpartition(":")[2][:200]
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    parts = token.strip().split(".")
    if scheme.lower() != "bearer" or len(parts) != 3 or parts[2] != _CHECKED:
        return ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return ""
    email = claims.get("email") if isinstance(claims, Mapping) else None
    return email[:200] if isinstance(email, str) else ""
