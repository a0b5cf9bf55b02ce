"""Benchmarks of the weak labels on folders in WRENCH's JSON format: what is measured, and what the page says of it."""
