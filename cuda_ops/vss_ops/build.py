"""Compiles the kernels for this machine: `python -m vss_ops.build`.

Needs a C++17 compiler for the CPU part (seconds) and nvcc for the CUDA part (a minute or two an architecture, no GPU).
TORCH_CUDA_ARCH_LIST decides which GPUs are served ("8.0;9.0+PTX"), not whether one is visible. No ninja, setuptools,
Python headers or CUDA library headers (cuBLAS, cuSPARSE, ...) are used: the sources include torch's stable ABI and the
CUDA runtime alone, and what a bare toolkit lacks of that is taken from the wheels torch depends on.

What cannot be built is logged in one line and left out; `--require` turns that into a failure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from vss_ops import library
from vss_ops.recipe import CPU_FLAGS, CUDA_FLAGS, INSTRUCTION_SETS

DEFAULT_ARCHS = "8.0;9.0+PTX"  # A100, H100 and H200; PTX lets newer GPUs compile it when they first load it


class BuildError(Exception):
    """A part cannot be built; the message says why in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds what is missing and checks it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vss_ops.build", description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", nargs="+", choices=library.PARTS, default=library.PARTS, help="what to build")
    parser.add_argument("--require", nargs="+", choices=library.PARTS, default=(), help="fail where these are missing")
    parser.add_argument("--force", action="store_true", help="build even if a fitting build is there")
    options = parser.parse_args(arguments)
    missing = []
    for part in options.parts:
        try:
            path = build(part, force=options.force)
            print(f"vss_ops: {part} kernels: {path}", flush=True)
        except BuildError as error:
            print(f"vss_ops: {part} kernels not built: {error}; pure PyTorch runs in their place", flush=True)
            missing.append(part)
    if "cpu" in options.parts and "cpu" not in missing:
        _self_check("cpu", "cpp")
    if "cuda" in options.parts and "cuda" not in missing and torch.cuda.is_available():
        _self_check("cuda", "cuda")
    return 1 if set(missing) & set(options.require) else 0


def build(part: str, *, force: bool = False, folder: Path | None = None) -> Path:
    """Compiles one part and returns its shared library.

    Args:
        part: "cpu" or "cuda".
        force: compile even if a build of these sources is there (such as for other architectures).
        folder: where to write; by default `library.build_folder()`.

    Raises:
        BuildError: a compiler is missing or fails, or versions do not fit.
    """
    present, _ = library.find(part)
    if present and not force and folder is None and _covers(part):
        return present
    if library.torch_version() < library.TORCH_TARGET:
        raise BuildError(f"torch {torch.__version__} has no complete stable ABI, 2.10 or newer is needed")
    folder = folder or library.build_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        steps = _cpu_steps(Path(scratch)) if part == "cpu" else _cuda_steps(Path(scratch))
        commands, link, facts = steps
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        made = Path(scratch) / f"{part}.so"
        _run([*link, "-o", str(made)])
        target = folder / f"{part}-{library.key(part)}.so"
        described = Path(scratch) / "manifest.json"
        described.write_text(json.dumps(_manifest(facts), indent=2) + "\n")
        os.replace(described, target.with_suffix(".json"))
        os.replace(made, target)
    return target


def _cpu_steps(scratch: Path) -> tuple[list[list[str]], list[str], dict]:
    compiler = cxx_compiler()
    x86 = platform.machine() in ("x86_64", "AMD64")
    sets = INSTRUCTION_SETS if x86 else {"baseline": INSTRUCTION_SETS["baseline"]}
    source = library.SOURCES / "cpu"
    commands, objects = [], []
    for name, (width, flags) in sets.items():
        objects.append(str(scratch / f"kernels_{name}.o"))
        defines = [f"-DVSS_ISA={name}", f"-DVSS_VECTOR_BYTES={width}"]
        commands.append([compiler, *CPU_FLAGS, *flags, *defines, "-c", str(source / "kernels.cpp"), "-o", objects[-1]])
    objects.append(str(scratch / "register.o"))
    commands.append([compiler, *CPU_FLAGS, *_torch_flags(), "-c", str(source / "register.cpp"), "-o", objects[-1]])
    link = [compiler, "-shared", *objects, f"-L{_torch_library_folder()}", "-ltorch_cpu"]
    return commands, link, {"compiler": _first_line(compiler), "instruction_sets": list(sets)}


def _cuda_steps(scratch: Path) -> tuple[list[list[str]], list[str], dict]:
    compiler, nvcc = cxx_compiler(), cuda_compiler()
    archs = architectures()
    source = library.SOURCES / "cuda"
    flags = [*CUDA_FLAGS, "-ccbin", os.environ.get("NVCC_CCBIN") or compiler]
    for include in _cuda_folders("include"):  # behind the toolkit's own, which are of its version
        flags += ["-Xcompiler", "-idirafter", "-Xcompiler", str(include)]
    commands, objects = [], []
    for name in ("dcnv3", "ms_deform_attn"):
        objects.append(str(scratch / f"{name}.o"))
        commands.append([nvcc, *flags, *gencode(archs), "-c", str(source / f"{name}.cu"), "-o", objects[-1]])
    objects.append(str(scratch / "register.o"))
    glue = [compiler, *CPU_FLAGS, *_torch_flags(), "-DUSE_CUDA"]
    commands.append([*glue, "-c", str(source / "register.cpp"), "-o", objects[-1]])
    toolkit = Path(nvcc).resolve().parents[1]
    folders = [toolkit / "lib64", *_cuda_folders("lib"), _torch_library_folder()]
    link = [compiler, "-shared", *objects, *(f"-L{f}" for f in folders), "-ltorch_cuda", "-ltorch_cpu"]
    link.append(f"-l:libcudart.so.{library.cuda_major()}")
    return commands, link, {"compiler": _first_line(compiler), "nvcc": nvcc_version(nvcc), "archs": archs}


def architectures() -> list[str]:
    """Returns the compute capabilities to build for, such as ["8.0", "9.0+PTX"].

    From TORCH_CUDA_ARCH_LIST; unset, those of the visible GPUs; without a GPU, DEFAULT_ARCHS.

    Raises:
        BuildError: an entry is not a number with an optional +PTX.
    """
    text = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if not text.strip() and torch.cuda.is_available():
        seen = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        text = ";".join(f"{major}.{minor}" for major, minor in sorted(seen))
    archs = [a for a in re.split(r"[;,\s]+", text.strip() or DEFAULT_ARCHS) if a]
    for arch in archs:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch):
            raise BuildError(f"TORCH_CUDA_ARCH_LIST has {arch!r}, must be numbers such as 8.0;9.0+PTX")
    return archs


def gencode(archs: Sequence[str]) -> list[str]:
    """Returns nvcc's flags for the architectures."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if arch.endswith("+PTX"):
            flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    return flags


def cxx_compiler() -> str:
    """Returns the C++ compiler: $CXX, c++, g++ or clang++; BuildError if there is none."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    raise BuildError("no C++ compiler (set CXX, or install g++ or clang++)")


def cuda_compiler() -> str:
    """Returns an nvcc of the CUDA major version of torch; BuildError if there is none."""
    if library.cuda_major() is None:
        raise BuildError("this torch was built without CUDA")
    named = [f"{folder}/bin" for name in ("CUDA_HOME", "CUDA_PATH") if (folder := os.environ.get(name))]
    folders = [*named, None, "/usr/local/cuda/bin"]  # None: $PATH
    found = [nvcc for folder in folders if (nvcc := shutil.which("nvcc", path=folder))]
    if not found:
        raise BuildError("no nvcc (set CUDA_HOME, or install a CUDA toolkit)")
    expected = library.cuda_major()
    for nvcc in found:
        if nvcc_version(nvcc).split(".")[0] == expected:
            return _behind_wrapper(nvcc)
    raise BuildError(f"nvcc is {nvcc_version(found[0])}, torch was built with CUDA {torch.version.cuda}: majors differ")


def nvcc_version(nvcc: str) -> str:
    """Returns the release nvcc reports, such as "13.0"."""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"release (\d+\.\d+)", text)
    if match is None:
        raise BuildError(f"{nvcc} does not print its version")
    return match[1]


def _behind_wrapper(nvcc: str) -> str:
    """Returns nvcc inside its toolkit, where `nvcc` on PATH is a script that calls it."""
    dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True, check=False)
    match = re.search(r"_HERE_=(\S+)", dry.stderr)
    inside = Path(match[1]) / "nvcc" if match else None
    return str(inside) if inside and inside.is_file() else nvcc


def _cuda_folders(kind: str) -> list[Path]:
    """Folders `include` or `lib` of the CUDA wheels next to torch; CUDA 13 wheels share one, CUDA 12 wheels do not.

    Of CUDA 12 torch brings the runtime; where the toolkit lacks CCCL too, the user adds its wheel.
    """
    wheels = Path(torch.__file__).resolve().parents[1] / "nvidia"
    return [f for name in ("cu13", "cuda_runtime", "cuda_cccl") if (f := wheels / name / kind).is_dir()]


def _torch_flags() -> list[str]:
    major, minor = library.TORCH_TARGET
    target = f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000"
    return [target, "-isystem", str(Path(torch.__file__).resolve().parent / "include")]


def _torch_library_folder() -> Path:
    return Path(torch.__file__).resolve().parent / "lib"


def _covers(part: str) -> bool:
    """False where TORCH_CUDA_ARCH_LIST requests architectures that this build lacks."""
    if part == "cpu" or not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return True
    return set(architectures()) <= set(library.manifest(part).get("archs", ()))


def _manifest(facts: dict) -> dict:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {**facts, "torch": torch.__version__, "date": now.isoformat(timespec="seconds")}


def _first_line(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(" ".join(command) + "\n" + done.stdout + done.stderr)
        raise BuildError(f"{Path(command[0]).name} failed (its output is above)")


def _self_check(device: str, choice: str) -> None:
    """Checks the build in a new process, as users will load it."""
    code = f"import vss_ops; print('vss_ops: self-check on {device}:', vss_ops.self_check('{device}'))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "VSS_OPS": choice}, check=False)
    if done.returncode:
        raise SystemExit(f"vss_ops: the {device} kernels compiled but failed their self-check (above)")


if __name__ == "__main__":
    raise SystemExit(main())
