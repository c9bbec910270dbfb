"""How `gcloud` and `gsutil` are pointed at a local cloud: by variables, as everything else is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

#: Lets gsutil speak through `gcloud storage`: by itself it wants https, whatever it is told.
_BOTO = Path(__file__).with_name("boto.cfg")


def environment(*, storage: str, pubsub: str, project: str) -> Mapping[str, str]:
    """Variables for Cloud Storage and Pub/Sub at these addresses ("host:port"), without anybody being signed in."""
    return {
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"http://{storage}/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB": f"http://{pubsub}/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_PROJECT": project,
        "BOTO_CONFIG": str(_BOTO),
    }
