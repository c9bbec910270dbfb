"""Serves one image classifier over HTTP, as Vertex AI asks of a custom prediction container."""
