"""What the services must mean alike: each definition stands here once, and imports no client."""
