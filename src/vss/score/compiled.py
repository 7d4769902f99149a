"""Compiles bitmap.c and loads it: `python -m vss.score.compiled`, `make ops`. Without it numpy does the same, slower.

The library is kept in the user's cache, or in $VSS_SCORE_BUILD_DIR. Its name has a digest of the source and of the
machine, so that one of other sources is never loaded. It needs no Python headers, and scoring loads no torch for it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from vss.core.errors import UserError
from vss.core.files import atomic_path
from vss.core.log import log

_SOURCE = Path(__file__).with_name("bitmap.c")
_FLAGS = ("-std=c11", "-O3", "-shared", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")


def library_path() -> Path:
    """Returns where the compiled library is kept, whether it is there or not."""
    facts = "\0".join([_SOURCE.read_text(encoding="utf-8"), *_FLAGS, platform.system(), platform.machine()])
    cache = os.environ.get("VSS_SCORE_BUILD_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vss"
    return Path(cache).expanduser() / f"bitmap-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.so"


def build() -> Path | None:
    """Compiles the library where it is missing and returns its path; None where there is no compiler.

    Raises:
        UserError: the compiler fails.
    """
    path = library_path()
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), *_COMPILERS))), None)
    if compiler is None:
        return None
    if not path.exists():
        with atomic_path(path) as aside:
            done = subprocess.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(aside)], capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{_SOURCE}: {compiler} cannot compile it: {' '.join(done.stderr.split())[:200]}")
    return path


@functools.cache
def load() -> ctypes.CDLL | None:
    """Returns the compiled functions of bitmap.c; None where they were not built, or $VSS_SCORE is "numpy"."""
    if os.environ.get("VSS_SCORE") == "numpy":
        return None
    try:
        functions = ctypes.CDLL(str(library_path()))
    except (OSError, RuntimeError):  # not built, of a broken build, or a user without a home
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    functions.equal_pixels.argtypes = [pointer, pointer, number, number, pointer]
    functions.equal_pixels.restype = None
    functions.changed_pixels.argtypes = [pointer, number, number, pointer, pointer]
    functions.changed_pixels.restype = None
    functions.widened_bits.argtypes = [pointer, number, number, number, pointer]
    functions.count_runs.argtypes = [*[pointer] * 2, *[number] * 2, *[pointer] * 2, *[number] * 2, *[pointer] * 2]
    functions.count_runs.restype = number
    return functions


if __name__ == "__main__":
    try:
        built = build()
    except UserError as mistake:
        sys.exit(str(mistake))
    log("score: no C compiler (set CC); numpy counts in its place" if built is None else f"score: {built}")
