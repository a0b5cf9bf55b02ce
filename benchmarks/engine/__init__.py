"""Benchmarks of the encoder beside its parent and controls, and what made its controls and shallow form."""
