"""Compiler flags; part of the key of a build (library.py), so that changing one makes older builds stale."""

from __future__ import annotations

# no -ffast-math: NaN and infinity must propagate. These two only drop errno and trap bookkeeping, which blocks vectors.
CPU_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
CUDA_FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden"]

# Instruction sets of x86-64 the CPU kernels are compiled for: bytes of a vector, flags. Elsewhere only the first.
INSTRUCTION_SETS = {
    "baseline": (16, []),
    "avx2": (32, ["-mavx2", "-mfma"]),
    "avx512": (64, ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"]),
}
