"""Cloud Storage's JSON API on loopback, with generations, preconditions and notifications."""

from local_cloud.storage.server import ABSENT, Storage

__all__ = ["ABSENT", "Storage"]
