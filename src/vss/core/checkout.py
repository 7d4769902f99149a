"""The git checkout that the code runs from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import vss

_CHECKOUT = Path(vss.__file__).parents[2]


def checkout_commit() -> str:
    """Returns the commit of the checkout, "-dirty" where files differ from it; empty where it is none."""
    if not (_CHECKOUT / ".git").exists():
        return ""
    command = ["git", "-C", str(_CHECKOUT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
