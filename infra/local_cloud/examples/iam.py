"""IAM: an account that may read and not write, as bindings.json says; `local-cloud serve --bindings bindings.json`."""

from __future__ import annotations

import json
import os
import urllib.request

from google.api_core.exceptions import Forbidden
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage


def main() -> None:
    # Each account has addresses of its own: that is how it is told who calls.
    asked = f"http://{os.environ['LOCAL_CLOUD_ADDRESS']}/environment?account=reader"
    with urllib.request.urlopen(asked, timeout=10) as answer:
        own = json.load(answer)
    client = storage.Client(
        project=own["GOOGLE_CLOUD_PROJECT"],
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": own["STORAGE_EMULATOR_HOST"]},
    )
    bucket = client.bucket(own["DATA_BUCKET"])
    print("it reads", len(list(client.list_blobs(bucket))) > 0)
    try:
        bucket.blob("greetings/mine.txt").upload_from_string("mine")
    except Forbidden as exc:
        print("refused:", exc.response.json()["error"]["message"])


if __name__ == "__main__":
    main()
