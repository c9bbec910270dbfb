"""What `dualdeploy up` prints: where everything is, and the first commands to try."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path


def describe(environment: Mapping[str, str], environment_file: Path) -> str:
    """Addresses and commands, for a person."""
    addresses = [
        ("Cloud Storage", environment["STORAGE_EMULATOR_HOST"]),
        ("Pub/Sub", environment["PUBSUB_EMULATOR_HOST"]),
        ("Vertex AI", f"http://{environment['VERTEX_EMULATOR_HOST']}"),
        ("Firebase ML", f"http://{environment['FIREBASE_ML_EMULATOR_HOST']}"),
        ("Remote Config", f"http://{environment['REMOTE_CONFIG_EMULATOR_HOST']}"),
        *((name.removesuffix("_URL").lower(), url) for name, url in environment.items() if _is_service(name)),
    ]
    width = max(len(name) for name, _ in addresses)
    lines = [f"  {name:<{width}}  {address}" for name, address in addresses]
    return "\n".join(
        [
            *(_console(environment["CONSOLE_URL"]) if "CONSOLE_URL" in environment else []),
            "The local cloud and every service are running:",
            *lines,
            "",
            "Point any client, script or test suite at it:",
            f"  set -a; source {shlex.quote(str(environment_file))}; set +a",
            "Then, for example (source .venv/bin/activate puts dualdeploy on PATH):",
            "  dualdeploy runs                                       # states, costs, and what is waited for",
            "  dualdeploy status flowers                             # what serves, what is under way",
            "  dualdeploy redeploy flowers                           # release the recorded run again",
            '  curl "$LOCAL_CLOUD_ADDRESS/permissions"               # who was refused what',
            '  gcloud storage ls "gs://$LEDGER_BUCKET/**"            # what the services wrote; gsutil works, too',
            f"Logs: {environment['LOCAL_CLOUD_STATE']}/logs   Stop it: dualdeploy down",
        ]
    )


def _console(address: str) -> list[str]:
    return [
        f"The console, in a browser: {address}",
        "  It is empty until data arrives. This paints flowers and drops them in; both models are live minutes later:",
        "  .venv/bin/dualdeploy demo-data",
        "",
    ]


def _is_service(name: str) -> bool:
    """Not where keys and certificates are: nobody opens those."""
    return name.endswith("_URL") and not name.endswith(("_KEYS_URL", "_CERTS_URL"))
