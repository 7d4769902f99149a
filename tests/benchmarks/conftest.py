"""Benchmarks of the operators run on the compiled kernels of tests/cuda_ops."""

from tests.cuda_ops.conftest import build_folder, cpp_kernels

__all__ = ["build_folder", "cpp_kernels"]
