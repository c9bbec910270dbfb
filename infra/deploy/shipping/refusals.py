"""What Google's refusals mean to a deployment: some pass, and some have a remedy that Google does not name."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: What passes: a grant counts after minutes, an API that was enabled too, and Google makes some of its own accounts
#: when they are first needed. tests/google_says.py has each text as it was met, with its source. The first lines are
#: Google's own words for it, whatever the product; the others say no such word.
_PASSES = re.compile(
    r"(?:wait|takes?) (?:a )?few minutes"
    r"|try again (?:soon|later|in a few minutes)"
    r"|to propagate"
    r"permission denied while using the Eventarc Service Agent"
    r"|service account \S+ does not exist"
    r"|has not been used in project \S+ before or it is disabled"
    r"|SERVICE_DISABLED"
    r"|does not have permission to publish messages"
    r"|Cloud Pub/Sub topic \S+ not found, or user"
    r"|does not have storage\.\w+\.\w+ access"
    r"|Access to bucket \S+ denied\. You must grant"
    r"|does not have permission to (?:act as|get access tokens for the) service account"
    r"|Unable to retrieve the repository metadata"
    r"|Cannot find metric\(s\) that match"
    r"|metric referenced by the provided filter is unknown"
    r"|There were concurrent policy changes"
    r"|rateLimitExceeded",
    flags=re.IGNORECASE,
)

#: What does not pass, by a part of Google's text → what to do.
REMEDIES: Mapping[str, str] = {
    r"existing role with that role_id in a deleted state|role_id .* deleted state": (
        "Google keeps the id of a deleted role for up to 37 days. Within the first 7 it gives the role back: "
        "gcloud iam roles undelete <ROLE> --project=<PROJECT>, then `make deploy` again. Later, only time helps."
    ),
    r"requested bucket name is not available": (
        "Bucket names are shared by all of Google Cloud, and another project has this one: "
        "deploy to a project with another id."
    ),
    r"constraints/|violates constraint|organization policy": (
        "A policy of your organisation forbids this: its administrator can allow it for the project."
    ),
    r"exceeds? (the )?quota|Quota exceeded|QUOTA_EXCEEDED": (
        "Ask for more: https://console.cloud.google.com/iam-admin/quotas, then `make deploy` again."
    ),
}

_WHITE = re.compile(r"[\s│╷╵]+")


def what_passes(said: str) -> str:
    """The part of an output that says that Google only has to be asked again later; nothing when there is none.

    Terraform breaks the details of errors into lines: whatever is white, or its frame, counts as one blank.
    """
    found = _PASSES.search(_WHITE.sub(" ", said))
    return found[0] if found else ""


def remedy(said: str) -> str:
    """What to do about a refusal that does not pass; nothing when Google's own words have to be enough."""
    text = _WHITE.sub(" ", said)
    return next((does for pattern, does in REMEDIES.items() if re.search(pattern, text, re.IGNORECASE)), "")
