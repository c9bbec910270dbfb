"""Cloud Logging, as far as its sinks go: which entry reaches which topic."""

from local_cloud.cloud_logging.sinks import LogSinks

__all__ = ["LogSinks"]
