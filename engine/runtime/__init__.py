"""Encoders in this process: loading, the batching queue, worker threads, energy.

May import `engine.kernels` and what stands below it.
"""
