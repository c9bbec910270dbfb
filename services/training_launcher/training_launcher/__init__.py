"""Data arrived, or somebody asks for training: one claimed run, two Vertex AI training jobs."""
