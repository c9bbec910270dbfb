"""Two implementations of Pub/Sub behind Google's own clients: the local cloud and Google's emulator.

A test that asks for `cloud` runs on both. Where Google's emulator is known to differ from the service the test
says so with `@pytest.mark.emulator_differs(reason)`: there the test must fail, or the mark is out of date
(`run=False` where the difference is a wait of many seconds).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.server
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import pubsub_v1
from google.pubsub_v1 import PublisherClient as PlainPublisherClient

from local_cloud.faults import Faults
from local_cloud.pubsub import PubSub

#: The emulator whose differences the marks describe; of another version they may be fewer.
KNOWN_EMULATOR = "0.8.20"

LOCAL_CLOUD = "local-cloud"
GOOGLE_EMULATOR = "google-emulator"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "emulator_differs(reason, run=True): Google's emulator is not like the service here"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        mark = item.get_closest_marker("emulator_differs")
        if mark and getattr(item, "callspec", None) and GOOGLE_EMULATOR in item.callspec.params.values():
            item.add_marker(
                pytest.mark.xfail(
                    reason=f"Google's emulator {mark.args[0]}",
                    strict=KNOWN_EMULATOR in str(_emulator_jar() or KNOWN_EMULATOR),
                    run=mark.kwargs.get("run", True),
                    # What a difference looks like; a broken test would end in something else.
                    raises=(AssertionError, pytest.fail.Exception, exceptions.GoogleAPICallError, KeyError),
                )
            )


# Implementations


def _emulator_folder() -> Path | None:
    gcloud = shutil.which("gcloud")
    folder = Path(gcloud).resolve().parent.parent / "platform" / "pubsub-emulator" if gcloud else None
    return folder if folder and folder.is_dir() else None


def _emulator_jar() -> Path | None:
    folder = _emulator_folder()
    return next(folder.glob("lib/*.jar"), None) if folder else None


@contextlib.contextmanager
def _google_emulator() -> Iterator[str]:
    jar, java = _emulator_jar(), shutil.which("java")
    if not jar:
        pytest.skip("Google's Pub/Sub emulator is not installed: gcloud components install pubsub-emulator")
    if not java:
        pytest.skip("Google's Pub/Sub emulator needs java")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [java, "-jar", str(jar), "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_port(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    pytest.fail("Google's Pub/Sub emulator did not start")


@contextlib.contextmanager
def _local_cloud(state_dir: Path) -> Iterator[str]:
    pubsub = PubSub(faults=Faults(), state_dir=state_dir).start()
    try:
        yield pubsub.address
    finally:
        pubsub.close()


# What a test talks to


@dataclasses.dataclass
class Cloud:
    """Google's clients on one implementation, and a project of the test's own."""

    address: str
    publisher: Any
    subscriber: Any
    project: str = dataclasses.field(default_factory=lambda: f"contract-{uuid.uuid4().hex[:8]}")

    def topic_name(self, topic: str = "news") -> str:
        return f"projects/{self.project}/topics/{topic}"

    def subscription_name(self, subscription: str = "reader") -> str:
        return f"projects/{self.project}/subscriptions/{subscription}"

    def topic(self, topic: str = "news") -> str:
        """Create a topic; its full name."""
        return str(self.publisher.create_topic(name=self.topic_name(topic)).name)

    def subscription(self, subscription: str = "reader", *, topic: str = "news", **fields: Any) -> str:
        """Create a subscription; its full name."""
        request = {"name": self.subscription_name(subscription), "topic": self.topic_name(topic), **fields}
        return str(self.subscriber.create_subscription(request=request).name)

    def publish(self, data: bytes = b"", *, topic: str = "news", ordering_key: str = "", **attributes: str) -> str:
        """Publish one message; its id."""
        message = {"data": data, "attributes": attributes, "ordering_key": ordering_key}
        return str(self.publish_messages([message], topic=topic)[0])

    def publish_messages(self, messages: list[dict[str, Any]], *, topic: str = "news") -> list[str]:
        # The plain method, without the batching and the checks of the high-level client.
        request = {"topic": self.topic_name(topic), "messages": messages}
        return list(PlainPublisherClient.publish(self.publisher, request=request, retry=None, timeout=10).message_ids)

    def pull(self, subscription: str = "reader", *, most: int = 10, timeout: float = 30.0) -> list[Any]:
        """The messages of one pull; none if there are none within `timeout` seconds."""
        name, deadline = self.subscription_name(subscription), time.monotonic() + timeout
        while True:
            request = {"subscription": name, "max_messages": most, "return_immediately": True}
            with warnings.catch_warnings():
                # Deprecated for programs that poll; a test wants to see that nothing is there.
                warnings.simplefilter("ignore", DeprecationWarning)
                response = self.subscriber.pull(request=request)
            if response.received_messages or time.monotonic() > deadline:
                return list(response.received_messages)
            time.sleep(0.02)

    def pull_all(self, subscription: str = "reader", *, count: int, timeout: float = 30.0) -> list[Any]:
        """`count` messages, over as many pulls as it takes, none of them acknowledged."""
        received: list[Any] = []
        deadline = time.monotonic() + timeout
        while len(received) < count and time.monotonic() < deadline:
            received += self.pull(subscription, timeout=deadline - time.monotonic())
        assert len(received) == count, [one.message.data for one in received]
        return received

    def acknowledge(self, *received: Any, subscription: str = "reader") -> None:
        name = self.subscription_name(subscription)
        self.subscriber.acknowledge(subscription=name, ack_ids=[one.ack_id for one in received])

    def modify_ack_deadline(self, *received: Any, seconds: int, subscription: str = "reader") -> None:
        self.subscriber.modify_ack_deadline(
            subscription=self.subscription_name(subscription),
            ack_ids=[one.ack_id for one in received],
            ack_deadline_seconds=seconds,
        )


@contextlib.contextmanager
def clients(address: str) -> Iterator[Cloud]:
    """Unmodified clients, pointed at `address` as everywhere: by PUBSUB_EMULATOR_HOST."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUBSUB_EMULATOR_HOST", address)
        publisher = pubsub_v1.PublisherClient()
        subscriber = pubsub_v1.SubscriberClient()
    try:
        yield Cloud(address, publisher, subscriber)
    finally:
        publisher.stop()
        publisher.transport.close()
        subscriber.close()


@pytest.fixture(scope="session", params=[LOCAL_CLOUD, GOOGLE_EMULATOR])
def implementation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    is_local = request.param == LOCAL_CLOUD
    serving = _local_cloud(tmp_path_factory.mktemp("pubsub")) if is_local else _google_emulator()
    with serving as address, clients(address) as cloud:
        yield cloud


@pytest.fixture
def cloud(implementation: Cloud) -> Cloud:
    """Both implementations, one after the other, with an empty project."""
    return Cloud(implementation.address, implementation.publisher, implementation.subscriber)


# A local cloud of the test's own, to break


@dataclasses.dataclass
class Breakable:
    """A local cloud whose faults can be planned."""

    pubsub: PubSub
    faults: Faults
    cloud: Cloud


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[Breakable]:
    faults = Faults()
    pubsub = PubSub(faults=faults, state_dir=tmp_path / "state").start()
    try:
        with clients(pubsub.address) as cloud:
            yield Breakable(pubsub, faults, cloud)
    finally:
        pubsub.close()


# Where messages are pushed to


@dataclasses.dataclass(frozen=True)
class Request:
    """One request that arrived at an endpoint."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def envelope(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def message(self) -> dict[str, Any]:
        return dict(self.envelope["message"])


class Endpoint:
    """An HTTP server that remembers its requests, answers what `answers` says and then `answer`."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.answer = 204
        self.answers: collections.deque[int] = collections.deque()
        self.before_answer: Callable[[Request], object] = lambda _: None
        self._arrived = threading.Condition()
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {key.lower(): value for key, value in self.headers.items()}
                code = endpoint.arrived(Request(self.path, headers, body, time.monotonic()))
                with contextlib.suppress(OSError):  # the local cloud gave up on us
                    self.send_response_only(code)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/events"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def arrived(self, request: Request) -> int:
        with self._arrived:
            self.requests.append(request)
            code = self.answers.popleft() if self.answers else self.answer
            self._arrived.notify_all()
        self.before_answer(request)
        return code

    def wait_for(self, count: int, *, timeout: float = 30.0) -> list[Request]:
        """The requests, once there are `count`."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self.requests) >= count, timeout)
            assert len(self.requests) >= count, f"{len(self.requests)} of {count} requests in {timeout} s"
            return list(self.requests)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@pytest.fixture
def make_endpoint() -> Iterator[Callable[..., Endpoint]]:
    made: list[Endpoint] = []

    def make(port: int = 0) -> Endpoint:
        made.append(Endpoint(port))
        return made[-1]

    yield make
    for endpoint in made:
        endpoint.close()


@pytest.fixture
def endpoint(make_endpoint: Callable[..., Endpoint]) -> Endpoint:
    return make_endpoint()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for a condition that needs no event of its own."""

    def wait(condition: Callable[[], object], *, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s"
            time.sleep(0.01)

    return wait
