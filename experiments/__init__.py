"""Absl binaries over the two libraries; not installed, run from the checkout."""
