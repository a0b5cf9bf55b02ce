"""Nearest neighbours of vectors: the FAISS index and its files, exact and approximate.

May import the warehouse only.
"""
