"""The CUDA backend: kernels in Python, compiled by numba-cuda, for images on a GPU."""
