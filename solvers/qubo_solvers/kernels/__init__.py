"""Compiled search kernels: importing this package does not import numba, its modules do."""
