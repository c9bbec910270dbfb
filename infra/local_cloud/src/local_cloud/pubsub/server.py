"""Pub/Sub as the local cloud runs it: one port for gRPC and REST, one dispatcher of pushes, one state folder."""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local_cloud.api import ApiError, Operation
from local_cloud.faults import Faults
from local_cloud.http import HttpServer
from local_cloud.iam import OWNER, Gate, Iam, refusals
from local_cloud.identity import TokenMint
from local_cloud.pubsub import rest, wire
from local_cloud.pubsub.broker import Broker
from local_cloud.pubsub.catalog import Catalog
from local_cloud.pubsub.clock import SystemClock
from local_cloud.pubsub.dispatcher import MayCall, PushDispatcher, anyone_may_call
from local_cloud.pubsub.permissions import resources_of
from local_cloud.pubsub.policies import policy_table
from local_cloud.pubsub.publisher import register_publisher
from local_cloud.pubsub.resources import DEFAULT_RETENTION, invalid
from local_cloud.pubsub.rpc import RpcServers, RpcTable
from local_cloud.pubsub.shared_port import SharedPorts
from local_cloud.pubsub.store import Store
from local_cloud.pubsub.subscriber import register_subscriber

#: Every waiting pull and open stream holds a thread; threads start on demand only.
_RPC_THREADS = 256

_SERVER_OPTIONS = (
    # A publish request may have 10 MB of data; gRPC's own limit is 4 MB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The client library pings idle connections; the default server takes that for an attack.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class PubSub:
    """Pub/Sub for PUBSUB_EMULATOR_HOST.

    `state_dir` keeps topics, subscriptions and unacknowledged messages across restarts and crashes; `workers`
    bounds the push requests under way (each push subscription has at least one); `mint` signs the tokens of pushes;
    `iam` judges callers (default: there is the owner alone), `may_call` who may push where; `port` 0 takes a free one.
    Raises StoreUnusable when the folder cannot be used, OSError when the port cannot.
    """

    def __init__(
        self,
        *,
        faults: Faults,
        state_dir: Path,
        mint: TokenMint | None = None,
        iam: Iam | None = None,
        may_call: MayCall = anyone_may_call,
        workers: int = 16,
        port: int = 0,
    ) -> None:
        self._store = Store(state_dir)
        self._catalog = Catalog(self._store, faults=faults)
        iam = iam or Iam.of_one_owner()
        self._iam = iam
        self._broker = Broker(self._catalog, self._store, faults=faults, clock=SystemClock(), iam=iam)
        self._dispatcher = PushDispatcher(
            self._broker, workers=workers, mint=mint or TokenMint(state_dir), may_call=may_call
        )
        gate = Gate(iam, functools.partial(resources_of, project=iam.project))
        self._table = RpcTable(faults=faults, gate=gate, deny=refusals.of_pubsub)
        register_publisher(self._table, self._broker)
        register_subscriber(self._table, self._broker)
        self._policies = policy_table(faults, gate, self._catalog, iam)
        tables = (self._policies, self._table)
        self._servers = RpcServers(
            "Pub/Sub", tables, callers=iam.callers, threads=_RPC_THREADS, options=_SERVER_OPTIONS
        )
        self._rest = HttpServer(rest.application(tables), name="pubsub", threads=8, callers=iam.callers)
        try:
            self._ports = SharedPorts("Pub/Sub", grpc=self._servers.addresses, http=self._rest.addresses, port=port)
        except OSError:
            self._rest.close()
            self._store.close()
            raise
        self.address, self.addresses = self._ports.address, self._ports.addresses
        self.port = int(self.address.rpartition(":")[2])

    @property
    def operations(self) -> list[Operation]:
        """One row for COVERAGE.md per gRPC method."""
        return [*self._table.operations, *self._policies.operations]

    def start(self) -> PubSub:
        self._servers.start()
        self._rest.start()
        self._ports.start()
        self._dispatcher.start()
        return self

    def close(self) -> None:
        """Stop; what was not acknowledged is delivered again after the next start on the same folder."""
        self._table.stop()
        self._policies.stop()
        self._ports.close()
        self._rest.close()
        self._servers.stop()
        self._dispatcher.close()
        self._servers.close()
        self._store.close()

    def publish(
        self, topic_name: str, data: bytes, attributes: Mapping[str, str], ordering_key: str = "", *, by: str = OWNER
    ) -> str:
        """Publish as a Google service would (`by` Cloud Storage, Cloud Scheduler); returns the message id.

        Raises Refused where `by` may not publish there, ApiError: NOT_FOUND without that topic, INVALID_ARGUMENT for
        what a client could not publish.
        """
        self._iam.require(by, "pubsub.topics.publish", topic_name)
        message = wire.PubsubMessage(data=data, attributes=dict(attributes), ordering_key=ordering_key)
        return self._broker.publish(topic_name, [message])[0]

    def has_topic(self, name: str) -> bool:
        """Whether there is a topic of this full name."""
        return self._catalog.has_topic(name)

    def ensure_topic(self, name: str) -> None:
        """Create the topic unless it exists."""
        with self._catalog.lock:
            try:
                self._catalog.create_topic(wire.Topic(name=name))
            except ApiError as exc:
                if exc.status != "ALREADY_EXISTS":
                    raise

    def ensure_subscription(
        self,
        name: str,
        *,
        topic: str,
        push_endpoint: str = "",
        filter: str = "",  # noqa: A002  # Google's name of the field
        ack_deadline_seconds: int = 10,
        minimum_backoff: float | None = None,
        maximum_backoff: float | None = None,
        dead_letter_topic: str = "",
        max_delivery_attempts: int = 5,
        enable_message_ordering: bool = False,
        message_retention_seconds: int = DEFAULT_RETENTION,
        oidc_service_account: str = "",
        oidc_audience: str = "",
    ) -> None:
        """Create the subscription, or bring an existing one to this state. Durations are seconds.

        Ack deadlines from 1 s and dead letters from 1 attempt are accepted here, unlike from a client, so that a
        trial of lost deliveries is quick. Raises ApiError, among others when topic, filter or ordering of an
        existing subscription differ: those never change.
        """
        wanted = wire.Subscription(
            name=name,
            topic=topic,
            filter=filter,
            ack_deadline_seconds=ack_deadline_seconds,
            enable_message_ordering=enable_message_ordering,
            message_retention_duration=datetime.timedelta(seconds=message_retention_seconds),
        )
        wanted.expiration_policy.SetInParent()  # without a time to live: it never expires, as Terraform makes it
        if push_endpoint:
            wanted.push_config.push_endpoint = push_endpoint
            if oidc_service_account:
                wanted.push_config.oidc_token.service_account_email = oidc_service_account
                wanted.push_config.oidc_token.audience = oidc_audience
        for field, seconds in (("minimum_backoff", minimum_backoff), ("maximum_backoff", maximum_backoff)):
            if seconds is not None:
                getattr(wanted.retry_policy, field).FromTimedelta(datetime.timedelta(seconds=seconds))
        if dead_letter_topic:
            wanted.dead_letter_policy.dead_letter_topic = dead_letter_topic
            wanted.dead_letter_policy.max_delivery_attempts = max_delivery_attempts
        with self._catalog.lock:
            existing = self._catalog.find_subscription(name)
            if existing is None:
                self._catalog.create_subscription(wanted, impatient=True)
            else:
                _refuse_fixed_changes(existing.resource, wanted)
                self._catalog.update_subscription(wanted, _ENSURED_FIELDS, impatient=True)

    def backlog(self) -> Mapping[str, int]:
        """Unacknowledged messages by subscription name: all zero when everything was handled."""
        return self._broker.backlog_sizes()

    def topics(self, project: str) -> list[str]:
        """Full names of the project's topics."""
        return [str(topic.name) for topic in self._catalog.topics(f"projects/{project}")]

    def subscriptions(self, project: str) -> list[Any]:
        """google.pubsub.v1.Subscription of each of the project's subscriptions."""
        return [each.resource for each in self._catalog.subscriptions(f"projects/{project}")]

    def waiting(self) -> Mapping[str, tuple[int, float]]:
        """By subscription name: unacknowledged messages, and seconds since the oldest was published (0: none)."""
        return self._catalog.waiting(time.time())


_ENSURED_FIELDS = (
    "ack_deadline_seconds",
    "dead_letter_policy",
    "message_retention_duration",
    "push_config",
    "retry_policy",
)


def _refuse_fixed_changes(existing: Any, wanted: Any) -> None:
    for field in ("topic", "filter", "enable_message_ordering"):
        before, after = getattr(existing, field), getattr(wanted, field)
        if before != after:
            raise invalid(
                f"{existing.name} has {field} {before!r}, and a subscription's {field} cannot change to "
                f"{after!r}: delete the subscription, with the messages that wait in it, and create it again."
            )
