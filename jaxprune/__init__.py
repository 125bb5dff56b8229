"""Depth pruning of Flax networks by layer similarity."""

__version__ = "0.1.0"
