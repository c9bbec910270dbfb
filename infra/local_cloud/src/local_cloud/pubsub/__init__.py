"""Pub/Sub on a laptop: gRPC for Google's own clients, HTTP push for the services."""

from local_cloud.pubsub.server import PubSub

__all__ = ["PubSub"]
