"""Weights in files and in memory: shipped models, Hugging Face folders, safetensors, routed and quantized files.

May import `engine.model` and what stands below it.
"""
