"""What Google's refusals look like, and what the doctor makes of them."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator

import pytest

from doctor.reads import CouldNotLook, Google, NotThere

Answer = tuple[int, str]


@pytest.fixture
def google_that() -> Iterator[Callable[[Answer], Google]]:
    """A Google that gives one answer to everything."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(answer: Answer) -> Google:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Quiet."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return Google(
            "my-project", environ={"GOOGLE_APIS_EMULATOR_HOST": f"127.0.0.1:{server.server_port}"}, patience=1
        )

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(code: int, message: str, reason: str) -> Answer:
    """Google's envelope. Source: https://google.aip.dev/193"""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}]
    return code, json.dumps({"error": {"code": code, "message": message, "details": details}})


@pytest.mark.parametrize(
    ("answer", "says", "remedy"),
    [
        (
            refusal(403, "Eventarc API has not been used in project 1 before or it is disabled.", "SERVICE_DISABLED"),
            "eventarc.googleapis.com is off, so nothing can be asked of it",
            "gcloud services enable eventarc.googleapis.com --project=my-project",
        ),
        (
            refusal(403, "Caller does not have required permission to use project my-project.", "USER_PROJECT_DENIED"),
            "you lack serviceusage.services.use",
            "--role=roles/serviceusage.serviceUsageConsumer",
        ),
        (
            refusal(403, "Permission denied on resource.", "IAM_PERMISSION_DENIED"),
            "you lack eventarc.triggers.get",
            "gcloud projects add-iam-policy-binding my-project --member=user:YOU --role=roles/viewer",
        ),
        (refusal(429, "Quota exceeded.", "RATE_LIMIT_EXCEEDED"), "answered 429: Quota exceeded.", "ask again later"),
        ((502, "<html>Bad gateway</html>"), "answered 502: <html>Bad gateway</html>", "ask again later"),
    ],
)
def test_a_refusal_is_told_with_what_lets_one_look(
    google_that: Callable[[Answer], Google], answer: Answer, says: str, remedy: str
) -> None:
    with pytest.raises(CouldNotLook, match=r"eventarc|serviceusage") as caught:
        google_that(answer).get("eventarc", "/v1/triggers/x", needs="eventarc.triggers.get")
    assert says in str(caught.value)
    assert remedy in caught.value.remedy


def test_vertex_ai_is_turned_on_as_a_whole_although_a_region_is_asked() -> None:
    refused = Google("my-project", environ={})._refused("us-central1-aiplatform", "x", "y", 403, "SERVICE_DISABLED")
    assert refused.remedy == "gcloud services enable aiplatform.googleapis.com --project=my-project"


def test_what_is_not_there_still_counts_as_looked_at(google_that: Callable[[Answer], Google]) -> None:
    with pytest.raises(NotThere):
        google_that(refusal(404, "not found", "notFound")).get("run", "/v2/x", needs="run.services.get")


def test_the_same_question_is_asked_once_and_fails_for_every_check(google_that: Callable[[Answer], Google]) -> None:
    google = google_that((200, '{"a": 1}'))
    first = google.get("run", "/v2/x", needs="run.services.get")
    google._environ = {}  # whoever asks again would now ask Google itself
    assert google.get("run", "/v2/x", needs="run.services.get") == first == {"a": 1}


def test_a_port_without_a_listener_is_told_as_such() -> None:
    google = Google("my-project", environ={"GOOGLE_APIS_EMULATOR_HOST": "127.0.0.1:9"}, patience=1)
    with pytest.raises(CouldNotLook, match="cannot be reached"):
        google.get("run", "/v2/x", needs="run.services.get")


def test_an_answer_that_is_not_json_is_not_taken_for_one(google_that: Callable[[Answer], Google]) -> None:
    with pytest.raises(CouldNotLook, match="no JSON"):
        google_that((200, "<html>sign in</html>")).get("run", "/v2/x", needs="run.services.get")
