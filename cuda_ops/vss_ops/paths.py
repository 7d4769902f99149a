"""Which implementation a call runs: pure PyTorch ("reference"), C++ on CPU ("cpp") or CUDA ("cuda").

`auto`, the default, takes the compiled kernels of the tensor's device where they are built and pure PyTorch otherwise,
and says so in one log line. `reference` never loads a library. `cpp` and `cuda` insist: a call on a CPU or CUDA tensor
raises instead of falling back; tensors of other devices run as under `auto`.

The choice is $VSS_OPS, or `with vss_ops.backend("reference"):`. It holds for the whole process, not for a thread,
because autograd runs backward passes on threads of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import torch

from vss_ops import library

CHOICES = ("auto", "reference", "cpp", "cuda")
COMPILED = {"cpu": "cpp", "cuda": "cuda"}  # device type -> name of its compiled path
PART = {"cpp": "cpu", "cuda": "cuda"}  # compiled path -> part of the build
CURE = "build it with: python -m vss_ops.build"
_log = logging.getLogger("vss_ops")


def _checked(choice: str, source: str) -> str:
    if choice not in CHOICES:
        raise ValueError(f"vss_ops: {source} is {choice!r}, must be one of {', '.join(CHOICES)}")
    return choice


_choice = _checked(os.environ.get("VSS_OPS", "auto"), "the environment variable VSS_OPS")
_logged: set[str] = set()


@contextlib.contextmanager
def backend(choice: str) -> Iterator[None]:
    """Sets which implementation runs inside the `with` block: auto, reference, cpp or cuda.

    Raises:
        ValueError: `choice` is none of these.
    """
    global _choice
    before, _choice = _choice, _checked(choice, "choice")
    try:
        yield
    finally:
        _choice = before


def chosen() -> str:
    """Returns the choice in force: auto, reference, cpp or cuda."""
    return _choice


def path_for(device: torch.device, dtype: torch.dtype) -> str:
    """Returns the implementation that runs for a tensor: reference, cpp or cuda.

    Raises:
        RuntimeError: the choice insists on compiled kernels that cannot be used; it names cause and remedy.
    """
    compiled = COMPILED.get(device.type)
    if _choice == "reference" or compiled is None or (compiled == "cuda" and dtype == torch.float64):
        return "reference"
    reason = library.load(PART[compiled])
    if not reason:
        return compiled
    if _choice == compiled:
        raise RuntimeError(f"vss_ops: VSS_OPS={compiled} requests compiled kernels, but {reason}; {CURE}")
    log_once(
        compiled,
        "vss_ops: no compiled %s kernels (%s): running pure PyTorch, same results but slower; %s",
        device.type.upper(),
        reason,
        CURE,
    )
    return "reference"


def log_once(about: str, message: str, *arguments: str) -> None:
    """Logs a line, once per process for everything it is `about`."""
    if about not in _logged:
        _logged.add(about)
        _log.warning(message, *arguments)


def status() -> dict[str, dict]:
    """Returns, for cpu and cuda, the path that runs there, why, and how its kernels were built.

    Starts no device and raises nothing: {"cpu": {"path": "cpp", "reason": "", "build": {...}}, "cuda": {...}, ...}.
    """
    report: dict = {"choice": _choice, "torch": torch.__version__}
    for device, compiled in COMPILED.items():
        reason = "VSS_OPS=reference" if _choice == "reference" else library.load(PART[compiled])
        if not reason and device == "cuda" and not torch.cuda.is_available():
            reason = "no CUDA device is visible"
        path = "reference" if reason else compiled
        report[device] = {"path": path, "reason": reason, "build": library.manifest(PART[compiled])}
    return report
