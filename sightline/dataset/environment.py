"""The environment that workers compute in."""

SINGLE = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""NumPy computes on one thread: the engine has the worker's share of the cores, and sums keep their order."""
