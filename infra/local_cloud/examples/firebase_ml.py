"""Firebase ML: publish a TensorFlow Lite model, and download it as a phone does."""

from __future__ import annotations

import os
import struct
import time
import urllib.request

import requests
from google.cloud import storage

#: The smallest file that is a TensorFlow Lite model: schema version 3, and not a single graph in it.
TINY = struct.pack("<I4sHHHHHxxiIII", 20, b"TFL3", 10, 12, 4, 0, 8, 12, 3, 4, 0)


def main() -> None:
    bucket = os.environ["MODELS_BUCKET"]
    storage.Client().bucket(bucket).blob("phone/prices.tflite").upload_from_string(TINY)
    base = f"http://{os.environ['FIREBASE_ML_EMULATOR_HOST']}/v1beta2"
    models = f"{base}/projects/{os.environ['GOOGLE_CLOUD_PROJECT']}/models"
    body = {"displayName": "prices", "tfliteModel": {"gcsTfliteUri": f"gs://{bucket}/phone/prices.tflite"}}
    operation = requests.post(models, json=body, timeout=10).json()
    while not operation.get("done"):
        time.sleep(0.1)
        operation = requests.get(f"{base}/{operation['name']}", timeout=10).json()
    name = operation["response"]["name"]
    published = {"name": name, "state": {"published": True}}
    requests.patch(f"{base}/{name}?updateMask=state.published", json=published, timeout=10).raise_for_status()

    url = requests.get(f"{base}/{name}:download", timeout=10).json()["downloadUri"]
    with urllib.request.urlopen(url, timeout=10) as file:
        print("the phone has", len(file.read()), "bytes")


if __name__ == "__main__":
    main()
