"""The encoder as torch modules: configuration, tokenizer, router, attention, experts, dense and routed forward.

May import `engine.protocol` and `engine.errors`.
"""
