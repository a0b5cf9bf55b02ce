"""Other projects' methods, each file run by the Python of an environment of its own (`packages.toml`).

They import nothing of Siftline but `benchmarks.selection.loop`, which needs numpy and scipy only.
"""
