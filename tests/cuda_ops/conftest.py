"""Builds the compiled kernels once a session, and lets a test run on every path of this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import vss_ops
from vss_ops import build, library


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where builds go: one folder for this session and later ones of this machine."""
    return tmp_path_factory.getbasetemp().parent / "vss_ops_kernels"


@pytest.fixture(scope="session")
def cpp_kernels(build_folder: Path) -> Iterator[None]:
    """The C++ kernels, those already built here or built now; skips only where there is no compiler."""
    yield from _built("cpu", build_folder)


@pytest.fixture(scope="session")
def cuda_kernels(build_folder: Path) -> Iterator[None]:
    """The CUDA kernels on this machine's GPU; skips where there is no GPU or no nvcc."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    yield from _built("cuda", build_folder)


def _built(part: str, folder: Path) -> Iterator[None]:
    before = os.environ.get("VSS_OPS_BUILD_DIR")
    if library.find(part)[0] is None:
        try:
            build.cxx_compiler()
            if part == "cuda":
                build.cuda_compiler()
        except build.BuildError as error:
            pytest.skip(f"needs a compiler: {error}")
        os.environ["VSS_OPS_BUILD_DIR"] = str(folder)
        if library.find(part)[0] is None:
            build.build(part, folder=folder)
        library.load.cache_clear()
    assert library.load(part) == ""
    yield
    if before is None:
        os.environ.pop("VSS_OPS_BUILD_DIR", None)
    else:
        os.environ["VSS_OPS_BUILD_DIR"] = before


PATHS = ["reference", "cpp", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on every path: reference, cpp, and cuda where there is a GPU."""
    if request.param != "reference":
        request.getfixturevalue(f"{request.param}_kernels")
    with vss_ops.backend(request.param):
        yield request.param


@pytest.fixture
def device(path: str) -> str:
    """The device the path runs on."""
    return "cuda" if path == "cuda" else "cpu"


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """csrc/cuda compiled for a CPU, see emulator/emulator.h; skips without a compiler or the CUDA headers."""
    return compile_emulated("entry.cpp", tmp_path_factory.mktemp("emulator") / "kernels.so", "-shared", "-fPIC")


def compile_emulated(source: str, made: Path, *flags: str) -> Path:
    """Compiles a file of emulator/, and with it csrc/cuda, for a CPU; skips where that cannot be done."""
    here = Path(__file__).parent / "emulator"
    try:
        compiler, nvcc = build.cxx_compiler(), Path(build.cuda_compiler())
    except build.BuildError as error:
        pytest.skip(f"needs a C++ compiler and the headers of a CUDA toolkit: {error}")
    includes = [f"-I{here}", f"-I{library.SOURCES / 'cuda'}", "-isystem", str(nvcc.parents[1] / "include")]
    aligned = ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]  # as a GPU does: it ends the program
    # hidden, as in the build: what is static in an inline function is otherwise one in all libraries of a process
    basic = ["-std=c++17", "-O1", "-fvisibility=hidden", '-DVSS_EMULATED="emulator.h"']
    command = [compiler, *basic, *includes, *aligned, *flags, "-x", "c++"]
    subprocess.run([*command, str(here / source), "-o", str(made)], check=True)
    return made
