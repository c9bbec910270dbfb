"""Google Cloud on a laptop: Cloud Storage, Pub/Sub, Vertex AI and Firebase ML, as far as Dual Deploy uses them."""
