"""Removes what nothing needs any more, and tells what costs and stays."""
