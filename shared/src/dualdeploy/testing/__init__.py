"""Stateful stand-ins for Google's services that can fail on command; for tests, never imported by a service."""

from dualdeploy.testing.clock import ManualClock
from dualdeploy.testing.failing import Failing, Faults
from dualdeploy.testing.firebase import FakeFirebaseMl
from dualdeploy.testing.monitoring import FakeMonitoring
from dualdeploy.testing.object_store import MemoryObjectStore
from dualdeploy.testing.publisher import FakePublisher, PublishedMessage
from dualdeploy.testing.remote_config import FakeRemoteConfig
from dualdeploy.testing.vertex import FakeVertex

__all__ = [
    "Failing",
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
