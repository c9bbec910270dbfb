"""Hints say that a training job may have ended; Vertex AI decides; one message tells everybody."""
