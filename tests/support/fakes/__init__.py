"""Stateful stand-ins for Google's services that can fail on command; for tests, never imported by a service."""

from support.fakes.automl import FakeAutoML
from support.fakes.clock import ManualClock
from support.fakes.failing import Failing, Faults
from support.fakes.firebase import FakeFirebaseMl
from support.fakes.monitoring import FakeMonitoring
from support.fakes.object_store import MemoryObjectStore
from support.fakes.publisher import FakePublisher, PublishedMessage
from support.fakes.remote_config import FakeRemoteConfig
from support.fakes.vertex import FakeVertex

__all__ = [
    "Failing",
    "FakeAutoML",
    "FakeFirebaseMl",
    "FakeMonitoring",
    "FakePublisher",
    "FakeRemoteConfig",
    "FakeVertex",
    "Faults",
    "ManualClock",
    "MemoryObjectStore",
    "PublishedMessage",
]
