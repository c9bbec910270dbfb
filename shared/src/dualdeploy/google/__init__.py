"""Google's clients behind small ports, and what is common to all of them."""
