"""Google Cloud on a laptop, for Google's own clients: the README of this package says what it is and what it is not."""
