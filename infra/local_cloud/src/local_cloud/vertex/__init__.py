"""Vertex AI on loopback: custom jobs that really run, a model registry, endpoints that really serve."""

from local_cloud.vertex.images import Image
from local_cloud.vertex.service import Vertex

__all__ = ["Image", "Vertex"]
