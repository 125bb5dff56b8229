"""Confirming proofs: independent of what made them, without jax and without solvers."""
