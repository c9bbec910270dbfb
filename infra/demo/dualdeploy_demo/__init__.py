"""Dual Deploy on a local cloud: the stack of its services, the demo, and data that may be given away."""
