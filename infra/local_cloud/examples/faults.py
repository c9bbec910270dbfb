"""Faults: the next write of an object answers 503, and Google's client tries again by itself."""

from __future__ import annotations

import json
import os
import urllib.request

from google.cloud import storage


def main() -> None:
    control = f"http://{os.environ['LOCAL_CLOUD_ADDRESS']}/faults"
    plan = json.dumps({"storage.objects.insert": ["return-503"]}).encode()
    urllib.request.urlopen(urllib.request.Request(control, data=plan, method="POST"), timeout=10).close()  # loopback
    blob = storage.Client().bucket(os.environ["DATA_BUCKET"]).blob("greetings/twice.txt")
    blob.upload_from_string("written at the second try", retry=storage.retry.DEFAULT_RETRY)
    with urllib.request.urlopen(control, timeout=10) as answer:
        print("still planned:", json.load(answer)["pending"])


if __name__ == "__main__":
    main()
