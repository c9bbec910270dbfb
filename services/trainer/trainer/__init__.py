"""Trains one image classifier from TFRecord shards; knows nothing of events."""
