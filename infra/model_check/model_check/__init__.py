"""A network taken the whole way on a laptop, in seconds and before anything is spent."""
