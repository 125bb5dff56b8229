"""Exact decision procedures: NumPy and PySAT only, never jax."""
