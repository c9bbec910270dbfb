"""Whatever comes in, gateway answers as its description says, and fails only while the endpoint is away or slow."""

from __future__ import annotations

import re
from typing import Any

import hypothesis
from hypothesis import strategies as st

from dualdeploy.errors import ServiceUnavailable
from gateway import openapi

DOCUMENTED = {int(status) for status in openapi.describe("gateway")["paths"]["/predict/{dataset}"]["post"]["responses"]}
#: What a server may get in a header: latin-1 without the ends of lines.
TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60)
HEADERS = st.dictionaries(
    st.sampled_from([*openapi.PHONE_HEADERS, "Authorization", "Content-Type", "Content-Encoding", "X-Forwarded-For"])
    | st.sampled_from(["Origin", "X-Cloud-Trace-Context", "X-Firebase-AppCheck"]),
    TEXT,
    max_size=4,
)
DATASETS = st.just("flowers") | st.from_regex(r"[a-z][a-z0-9-]{0,50}", fullmatch=True) | st.text(max_size=30)
BODIES = st.binary(max_size=200) | st.sampled_from([b"\x89PNG\r\n\x1a\n" + bytes(60), b"\xff\xd8\xff\xe0" + bytes(60)])


@hypothesis.settings(
    max_examples=100, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(dataset=DATASETS, headers=HEADERS, body=BODIES, has_token=st.booleans(), is_away=st.booleans())
def test_every_answer_is_documented(
    *, dataset: str, headers: dict[str, str], body: bytes, has_token: bool, is_away: bool, world: Any, picture: bytes
) -> None:
    def away() -> None:
        raise ServiceUnavailable("503")

    world.endpoints.act = away if is_away else lambda: None
    token = world.headers() if has_token else {}
    path = "/predict/" + dataset.replace("/", "").replace("?", "").replace("#", "").replace("%", "")
    answer = world.client.post(path, data=body or picture, headers={**token, **headers})
    is_route = re.fullmatch(r"/predict/.+", path, re.DOTALL) is not None
    assert answer.status_code in (DOCUMENTED if is_route else {404, 405, 308}), answer.get_data()
    if answer.status_code >= 500:
        assert answer.get_json()["reason"] in {"endpoint", "nothing_serves"}
        assert is_away or answer.get_json()["reason"] == "nothing_serves"
        assert int(answer.headers["Retry-After"]) > 0
