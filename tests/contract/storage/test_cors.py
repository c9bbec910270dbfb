"""A page in a browser reads what phones read only by a rule of the bucket, as Google's client sets one."""

from __future__ import annotations

from typing import Any

import pytest
import requests

RULE = {
    "origin": ["https://app.example.com"],
    "method": ["GET"],
    "responseHeader": ["Content-Type"],
    "maxAgeSeconds": 60,
}


@pytest.mark.parametrize(
    ("rules", "origin", "allowed"),
    [
        ([], "https://app.example.com", None),
        ([RULE], "https://app.example.com", "https://app.example.com"),
        ([RULE], "https://app.example.com.evil", None),
        ([RULE], "", None),
        ([{**RULE, "origin": ["*"]}], "https://other.example", "*"),
        ([{**RULE, "method": ["PUT"]}], "https://app.example.com", None),
    ],
)
def test_a_download_says_which_pages_may_read_it(
    rules: list[dict[str, Any]], origin: str, allowed: str | None, client: Any, base_url: str
) -> None:
    bucket = client.create_bucket(f"cors-{abs(hash((str(rules), origin)))}")
    bucket.cors = rules
    bucket.patch()
    bucket.blob("models/flowers/latest.json").upload_from_string("{}")
    url = f"{base_url}/v0/b/{bucket.name}/o/models%2Fflowers%2Flatest.json?alt=media"
    headers = {"Origin": origin} if origin else {}
    read = requests.get(url, headers=headers, timeout=5)
    asked = requests.options(url, headers={**headers, "Access-Control-Request-Method": "GET"}, timeout=5)
    for answer in (read, asked):
        assert answer.status_code == 200
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
    assert asked.headers.get("Access-Control-Max-Age") == ("60" if allowed else None)
