"""Benchmarks of the engine as it is served: clients and servers on loopback, and many texts in one process."""
