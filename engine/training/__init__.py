"""Convert a dense model to a routed one and distill it.

May import `engine.weights` and what stands below it.
"""
