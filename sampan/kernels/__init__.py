"""Compiled kernels: a SIMD vocabulary, matmul, attention, norms, and the interpreter that runs a Program."""
