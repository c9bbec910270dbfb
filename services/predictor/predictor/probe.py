"""`python -m predictor.probe`: exit 0 when the health route of this container answers 200; for HEALTHCHECK."""

from __future__ import annotations

import http.client
import os
import sys

_TIMEOUT = 5.0


def healthy(environ: dict[str, str]) -> bool:
    """Ask the server on this machine, where the environment says it listens."""
    connection = http.client.HTTPConnection("127.0.0.1", int(environ.get("AIP_HTTP_PORT", "8080")), timeout=_TIMEOUT)
    try:
        connection.request("GET", environ.get("AIP_HEALTH_ROUTE", "/health"))
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if healthy(dict(os.environ)) else 1)
