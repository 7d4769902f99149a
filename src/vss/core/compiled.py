"""Compiles the C files of this package and loads them: `python -m vss.core.compiled`, `make ops`.

Without them numpy and OpenCV do the same, slower. The libraries are kept in the user's cache, or in
$VSS_SCORE_BUILD_DIR. Their names have a digest of the source and of the machine, so that one of other sources is never
loaded. They need no Python headers, and scoring loads no torch for them.
"""

from __future__ import annotations

import ctypes
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

_PACKAGE = Path(__file__).parents[1]
_FLAGS = ("-std=c11", "-O3", "-shared", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")


def library_path(source: Path) -> Path:
    """Returns where the compiled library of a C file is kept, whether it is there or not."""
    facts = "\0".join([source.read_text(encoding="utf-8"), *_FLAGS, platform.system(), platform.machine()])
    cache = os.environ.get("VSS_SCORE_BUILD_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vss"
    return Path(cache).expanduser() / f"{source.stem}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.so"


def build(source: Path) -> Path | None:
    """Compiles a C file where its library is missing and returns its path; None where there is no compiler.

    Raises:
        UserError: the compiler fails.
    """
    path = library_path(source)
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), *_COMPILERS))), None)
    if compiler is None:
        return None
    if not path.exists():
        with atomic_path(path) as aside:
            done = subprocess.run([compiler, *_FLAGS, str(source), "-o", str(aside)], capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{source}: {compiler} cannot compile it: {' '.join(done.stderr.split())[:200]}")
    return path


def load(source: Path) -> ctypes.CDLL | None:
    """Returns the compiled functions of a C file; None where it was not built, or $VSS_SCORE is "numpy"."""
    if os.environ.get("VSS_SCORE") == "numpy":
        return None
    try:
        return ctypes.CDLL(str(library_path(source)))
    except (OSError, RuntimeError):  # not built, of a broken build, or a user without a home
        return None


if __name__ == "__main__":
    try:
        for source in sorted(_PACKAGE.rglob("*.c")):
            if (built := build(source)) is None:
                log("no C compiler (set CC); numpy and OpenCV take its place")
                break
            log(f"compiled: {built}")
    except UserError as mistake:
        sys.exit(str(mistake))
