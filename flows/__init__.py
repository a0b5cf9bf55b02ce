"""Prefect flows, settings and the siftline command: the package that wires all others."""
