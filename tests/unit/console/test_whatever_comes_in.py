"""Whatever comes in, console answers with a page that says what is wrong, and never fails."""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis import strategies as st

from support.console_world import OWN

NAMES = st.sampled_from(
    ["flowers", "cloud", "mobile", "rollback", "redeploy", "hold", "simulator", "pictures", "0", "flowers-0123456789ab"]
)
PARTS = NAMES | st.text(st.characters(exclude_characters="/?#%\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
FORMS = st.dictionaries(
    st.sampled_from(["reason", "key", "run_id", "to_run", "force", "everybody", "quantization", "other"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=600),
)


@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    parts=st.lists(PARTS, max_size=3),
    root=st.sampled_from(["datasets", "runs", "static", "predict", "v0/b/mobile/o", ""]),
    form=FORMS,
)
def test_every_answer_is_a_page(parts: list[str], root: str, form: dict[str, str], live: Any) -> None:
    client = live.client
    path = "/" + "/".join([root, *parts] if root else parts)
    for answer in (client.get(path), client.post(path, data=form, headers=OWN)):
        assert answer.status_code < 500, (path, answer.get_data(as_text=True))
        assert "Content-Security-Policy" in answer.headers
        answer.close()
    for _, command, body, person, _ in live.deployers.asked:
        assert command in ("rollback", "redeploy", "abort", "hold", "resume")
        assert body["reason"]
        assert person == "jo@example.com"
