"""Benchmarks of the selection: strategies and peers by budget, wrong labels found, value against truth, size.

`loop` needs numpy and scipy only, so that the environments of the peers can run it too.
"""
