"""Where compiled kernels live, which of them belong to these sources, and loading them.

A build is one shared library per part (`cpu`, `cuda`) named `<part>-<key>.so`, with a JSON file beside it that says how
it was made. The key is a digest of everything that decides whether the library fits: all sources, the build recipe,
the machine's architecture and, for `cuda`, the CUDA major version of torch. A build with another key is stale and is
never loaded. The Python version and the torch version are not part of the key: the libraries use torch's stable ABI
from `TORCH_TARGET` on and no Python headers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import sys
from pathlib import Path

import torch

PACKAGE = Path(__file__).resolve().parent
SOURCES = PACKAGE / "csrc"
TORCH_TARGET = (2, 10)  # oldest torch the libraries load into; the first with a stable parallel_for
PARTS = ("cpu", "cuda")


def build_folder() -> Path:
    """Returns the folder builds are written to: $VSS_OPS_BUILD_DIR, else the package's own, else the user's cache."""
    if folder := os.environ.get("VSS_OPS_BUILD_DIR"):
        return Path(os.path.expanduser(folder))
    return _inside_package() if os.access(PACKAGE, os.W_OK) else _cache()


def key(part: str) -> str:
    """Returns the digest a build of `part` must carry to be loaded here."""
    digest = hashlib.sha256()
    for path in sorted([*SOURCES.rglob("*.*"), PACKAGE / "recipe.py"]):
        digest.update(f"{path.relative_to(PACKAGE)}\0".encode() + path.read_bytes() + b"\0")
    facts = [part, sys.platform, platform.machine(), str(TORCH_TARGET)]
    if part == "cuda":
        facts.append(f"cuda{cuda_major()}")
    digest.update("\0".join(facts).encode())
    return digest.hexdigest()[:16]


def cuda_major() -> str | None:
    """Returns the major version of the CUDA runtime torch was built with, None for a CPU-only torch."""
    return torch.version.cuda.split(".")[0] if torch.version.cuda else None


def find(part: str) -> tuple[Path | None, str]:
    """Returns the build of `part` that fits these sources, or None and the reason why there is none."""
    if part == "cuda" and cuda_major() is None:
        return None, "this torch was built without CUDA"
    name = f"{part}-{key(part)}.so"
    stale = False
    for folder in _search_path():
        if (folder / name).is_file():
            return folder / name, ""
        stale = stale or any(folder.glob(f"{part}-*.so"))
    if stale:
        return None, "the build is of other sources, machine or CUDA version (stale)"
    return None, "it has not been built"


@functools.cache
def load(part: str) -> str:
    """Loads the kernels of `part` once; returns "" or the reason why they cannot be used."""
    path, reason = find(part)
    if path is None:
        return reason
    if torch_version() < TORCH_TARGET:
        return f"torch {torch.__version__} is older than {TORCH_TARGET[0]}.{TORCH_TARGET[1]}"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} cannot be loaded: {' '.join(str(error).split())}"
    return ""


def manifest(part: str) -> dict:
    """Returns how the usable build of `part` was made (compiler, architectures, torch, date); {} without one."""
    path, _ = find(part)
    described = path.with_suffix(".json") if path else None
    return json.loads(described.read_text()) if described and described.is_file() else {}


def torch_version() -> tuple[int, int]:
    """Returns (major, minor) of the running torch."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _search_path() -> list[Path]:
    if os.environ.get("VSS_OPS_BUILD_DIR"):
        return [build_folder()]
    return [_inside_package(), _cache()]


def _inside_package() -> Path:
    return PACKAGE / "_kernels"


def _cache() -> Path:
    """Returns the user's cache; the package's own folder for a user without a home, as in some containers."""
    cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return _inside_package() if cache.startswith("~") else Path(cache) / "vss_ops"
