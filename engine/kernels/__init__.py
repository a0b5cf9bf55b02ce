"""Forward passes that serve: int8 in torch, and the compiled C++ ones in `native` with the same bits.

May import `engine.weights` and what stands below it.
"""
