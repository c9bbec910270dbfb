"""Cloud Storage: upload, list, and a write that only counts if nothing is there yet."""

from __future__ import annotations

import os

from google.api_core.exceptions import PreconditionFailed
from google.cloud import storage


def main() -> None:
    bucket = storage.Client().bucket(os.environ["DATA_BUCKET"])
    bucket.blob("greetings/hello.txt").upload_from_string("hello")
    print([blob.name for blob in bucket.list_blobs(prefix="greetings/")])
    try:
        bucket.blob("greetings/hello.txt").upload_from_string("again", if_generation_match=0)
    except PreconditionFailed as exc:
        print("refused, as on Google Cloud:", exc.response.json()["error"]["message"])


if __name__ == "__main__":
    main()
