"""Benchmarks of the warehouse: deaths, several writers, commits after many, and reading at ten million items."""
