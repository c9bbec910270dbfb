"""Remote Config: change a template with its ETag, and fetch values as an app does."""

from __future__ import annotations

import os

import requests


def main() -> None:
    base = f"http://{os.environ['REMOTE_CONFIG_EMULATOR_HOST']}/v1/projects/{os.environ['GOOGLE_CLOUD_PROJECT']}"
    read = requests.get(f"{base}/remoteConfig", timeout=10)
    template = {"parameters": {"colour": {"defaultValue": {"value": "blue"}}}}
    headers = {"If-Match": read.headers["ETag"]}
    requests.put(f"{base}/remoteConfig", json=template, headers=headers, timeout=10).raise_for_status()
    stale = requests.put(f"{base}/remoteConfig", json=template, headers=headers, timeout=10)
    fetched = requests.post(f"{base}/namespaces/firebase:fetch", json={"appInstanceId": "phone-1"}, timeout=10).json()
    print("a stale ETag answers", stale.status_code, "- the app has", fetched["entries"])


if __name__ == "__main__":
    main()
