"""Temporally coded spiking networks and their formal verification."""
