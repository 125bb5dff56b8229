"""Published architectures in plain Flax, one file each."""
