"""Eventarc: an upload becomes a CloudEvent that is posted to the service, until the service accepts it."""

from __future__ import annotations

import json
import os
import time
import urllib.request

from google.cloud import storage


def main() -> None:
    storage.Client().bucket(os.environ["DATA_BUCKET"]).blob("arrivals/new.csv").upload_from_string("1,2")
    deadline = time.monotonic() + 20
    while "arrivals/new.csv" not in (names := heard()) and time.monotonic() < deadline:
        time.sleep(0.1)
    print([name for name in names if name.startswith("arrivals/")])


def heard() -> list[str]:
    """What the service (shop.py, which the local cloud runs) was told."""
    with urllib.request.urlopen(f"{os.environ['SHOP_URL']}/", timeout=10) as answer:
        names: list[str] = json.load(answer)["data"]
    return names


if __name__ == "__main__":
    main()
