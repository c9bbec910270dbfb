"""The stream on which the client libraries receive messages, and may acknowledge them."""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Iterator
from typing import Any

import grpc

from local_cloud.pubsub import resources, wire
from local_cloud.pubsub.broker import Broker, Lease, UnknownAckIds

#: "Pub/Sub sends keepalive messages on idle streams"; the client library sends its own every 30 s.
_KEEPALIVE_SECONDS = 30.0
#: What may be outstanding when the client does not say.
_DEFAULT_OUTSTANDING = 1_000


class StreamingPull:
    """Serves StreamingPull calls."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def serve(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        """Answer a stream of StreamingPullRequest; the first names the subscription and the ack deadline."""
        try:
            first = next(requests)
        except (StopIteration, grpc.RpcError):
            return  # the client left before it asked for anything
        stream = _Stream(self._broker, first)
        context.add_callback(functools.partial(self._broker.interrupt, stream.name))
        reader = threading.Thread(target=stream.read, args=(requests,), name="pubsub-stream-reader", daemon=True)
        reader.start()
        yield stream.response([])
        while context.is_active() and not stream.ended:
            leases = self._broker.wait_for_messages(
                stream.name,
                limit=stream.room,
                lease_seconds=lambda _: stream.ack_deadline,
                until=self._broker.clock.monotonic() + _KEEPALIVE_SECONDS,
                interrupted=lambda: stream.wants_attention or not context.is_active(),
            )
            stream.outstanding.extend(leases)
            if context.is_active():
                yield stream.response(leases)


class _Stream:
    """What one client asked for and holds; the reader thread and the answering thread share it."""

    def __init__(self, broker: Broker, first: Any) -> None:
        self.name: str = first.subscription
        self.ack_deadline = _checked_deadline(first.stream_ack_deadline_seconds)
        self.outstanding: list[Lease] = []
        self.ended = False
        self._broker = broker
        self._most = first.max_outstanding_messages if first.max_outstanding_messages > 0 else _DEFAULT_OUTSTANDING
        self._confirmations: collections.deque[Any] = collections.deque()
        self._error: BaseException | None = None
        self._resource = broker.catalog.subscription(self.name).resource
        self._apply(first)

    @property
    def wants_attention(self) -> bool:
        return bool(self.ended or self._confirmations or self._error)

    def room(self) -> int:
        """How many more messages the client's flow control allows. The caller holds the broker's lock."""
        self.outstanding = [one for one in self.outstanding if one.subscription.backlog.leased(one.ack_id)]
        return max(0, int(self._most) - len(self.outstanding))

    def response(self, leases: list[Lease]) -> Any:
        """Messages, and the confirmation of one request's acknowledgements; raises what a request provoked."""
        if self._error:
            raise self._error
        response = self._confirmations.popleft() if self._confirmations else wire.StreamingPullResponse()
        properties = response.subscription_properties
        properties.exactly_once_delivery_enabled = self._resource.enable_exactly_once_delivery
        properties.message_ordering_enabled = self._resource.enable_message_ordering
        for lease in leases:
            response.received_messages.add(
                ack_id=lease.ack_id, message=lease.message.body, delivery_attempt=lease.delivery_attempt
            )
        return response

    def read(self, requests: Iterator[Any]) -> None:
        """Apply requests until the client ends the stream. Runs in a thread of its own."""
        try:
            for request in requests:
                self._apply(request)
        except grpc.RpcError:
            pass  # cancelled: the other thread sees that the call is no longer active
        except Exception as error:  # noqa: BLE001  # carried to the thread that can answer it
            self._error = error
        finally:
            self.ended = self._error is None
            self._broker.interrupt(self.name)

    def _apply(self, request: Any) -> None:
        if request.stream_ack_deadline_seconds:
            self.ack_deadline = _checked_deadline(request.stream_ack_deadline_seconds)
        if len(request.modify_deadline_seconds) != len(request.modify_deadline_ack_ids):
            raise resources.invalid("modify_deadline_seconds and modify_deadline_ack_ids must be of one length.")
        confirmation = wire.StreamingPullResponse()
        if request.ack_ids:
            invalid = self._try(self._broker.acknowledge, request.ack_ids)
            confirmation.acknowledge_confirmation.invalid_ack_ids.extend(invalid)
            confirmation.acknowledge_confirmation.ack_ids.extend(_without(request.ack_ids, invalid))
        ids_by_seconds: dict[int, list[str]] = {}
        for ack_id, seconds in zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True):
            ids_by_seconds.setdefault(seconds, []).append(ack_id)
        for seconds, ack_ids in ids_by_seconds.items():
            modify = functools.partial(self._broker.modify_ack_deadline, seconds=seconds)
            invalid = self._try(modify, ack_ids)
            confirmation.modify_ack_deadline_confirmation.invalid_ack_ids.extend(invalid)
            confirmation.modify_ack_deadline_confirmation.ack_ids.extend(_without(ack_ids, invalid))
        # Confirmations exist for exactly-once delivery only. Source: google.pubsub.v1.StreamingPullResponse.
        if self._resource.enable_exactly_once_delivery and (request.ack_ids or ids_by_seconds):
            self._confirmations.append(confirmation)
            self._broker.interrupt(self.name)

    def _try(self, settle: Any, ack_ids: Any) -> list[str]:
        """Settle; the ids whose leases were over, which end no stream."""
        try:
            settle(self.name, ack_ids)
        except UnknownAckIds as error:
            return error.ack_ids
        return []


def _checked_deadline(seconds: int) -> float:
    if not 10 <= seconds <= resources.MAXIMUM_ACK_DEADLINE:
        raise resources.invalid(f"stream_ack_deadline_seconds is {seconds}: must be 10 to 600 seconds.")
    return float(seconds)


def _without(ack_ids: Any, invalid: list[str]) -> list[str]:
    return [ack_id for ack_id in ack_ids if ack_id not in set(invalid)]
