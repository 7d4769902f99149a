"""`vss doctor`: looks at what a run needs, one line for each, and says what to do about what is wrong.

Every look is on its own: whatever one of them meets, also a library that cannot be imported, is a line and not a
traceback, and the others still run. Nothing is imported above that may be what is broken.
"""

from __future__ import annotations

import fcntl
import functools
import importlib
import logging
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vss.core.errors import UserError
from vss.core.extras import EXTRAS
from vss.core.log import one_line, show

OK, NOTE, PROBLEM = "ok", "note", "problem"
_DEFAULT_CONFIG = "config.yaml"
# Import names of what the library cannot do without, with the packages that bring them.
_REQUIRED = {
    "cv2": "opencv-python-headless",
    "h5py": "h5py",
    "jsonschema": "jsonschema",
    "mmcv": "onedl-mmcv",
    "mmengine": "onedl-mmengine",
    "mmpretrain": "onedl-mmpretrain",
    "mmseg": "onedl-mmsegmentation",
    "numpy": "numpy",
    "pandas": "pandas",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "simplejpeg": "simplejpeg",
    "torchvision": "torchvision",
    "yaml": "pyyaml",
}
_PYTHON = ((3, 10), (3, 12))  # first and last
_TORCH = (2, 10)
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the result: its level (`OK`, `NOTE`, `PROBLEM`) and what was found, and what to do."""

    level: str
    text: str


Findings = Iterator[Finding]


def doctor(*, config_file: str | os.PathLike | None = None) -> None:
    """Prints a line for each thing that was looked at: ok, note, or problem with what to do.

    Args:
        config_file: the workflow's config; None = `config.yaml` of the working directory, if there is one.

    Raises:
        SystemExit: status 1, at least one line is a problem.
    """
    problems = 0
    for finding in examine(config_file):
        show(f"{finding.level:<8} {finding.text}")
        problems += finding.level == PROBLEM
    if problems:
        raise SystemExit(1)


def examine(config_file: str | os.PathLike | None = None) -> Findings:
    """Yields what is found, in the order of what depends on what; see `doctor`."""
    yield from _safely("Python", _python)
    yield from _safely("torch", _torch)
    yield from _safely("packages", _packages)
    yield from _safely("CUDA", _cuda)
    yield from _safely("cuda_ops", _operators)
    if config_file is None and not Path(_DEFAULT_CONFIG).exists():
        yield Finding(NOTE, f"config: no {_DEFAULT_CONFIG} in this folder; name one: vss doctor --config FILE")
        yield from _safely("/dev/shm", _shared_memory)
        return
    config: dict[str, Any] = {}
    yield from _safely("config", functools.partial(_config, config_file or _DEFAULT_CONFIG, config))
    if not config:
        yield from _safely("/dev/shm", _shared_memory)
        return
    yield from _safely("datasets", functools.partial(_datasets, config))
    plans: list[Any] = []
    yield from _safely("config", functools.partial(_plan, config, plans))
    yield from _safely("folders", functools.partial(_folders, config))
    for plan in plans:
        yield from _safely("weights", functools.partial(_weights, plan))
        yield from _safely("disk", functools.partial(_disk, plan))
    yield from _safely("/dev/shm", functools.partial(_shared_memory, *plans))


def _safely(what: str, look: Callable[[], Findings]) -> Findings:
    """Yields what a look finds, and a problem where it fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from look()
    except UserError as error:
        yield Finding(PROBLEM, one_line(str(error)))
    except (Exception, SystemExit) as error:  # a broken library raises anything
        yield Finding(PROBLEM, f"{what}: {type(error).__name__}: {one_line(str(error))}")


# ---- the installation


def _python() -> Findings:
    version, (first, last) = sys.version_info[:2], _PYTHON
    text = f"Python {platform.python_version()} ({sys.executable})"
    if first <= version <= last:
        yield Finding(OK, text)
    else:
        yield Finding(PROBLEM, f"{text}; 3.{first[1]} to 3.{last[1]} are supported: make a virtual environment of one")


def _torch() -> Findings:
    try:
        import torch
    except (Exception, SystemExit) as error:
        yield Finding(
            PROBLEM, f"torch cannot be imported ({_reason(error)}); install it again: pip install 'torch>=2.10'"
        )
        return
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    if version < _TORCH:
        yield Finding(PROBLEM, f"torch {torch.__version__} is older than {_TORCH[0]}.{_TORCH[1]}: pip install -U torch")
    else:
        yield Finding(OK, f"torch {torch.__version__}, {torch.get_num_threads()} threads")


def _packages() -> Findings:
    broken = {name: reason for name in _REQUIRED if (reason := _not_importable(name)) is not None}
    for name, reason in broken.items():
        yield Finding(PROBLEM, f"{name} cannot be imported ({reason}); install it again: pip install {_REQUIRED[name]}")
    if not broken:
        yield Finding(OK, f"packages: the {len(_REQUIRED)} that are required can be imported")
    absent: dict[str, list[str]] = {}
    for name, extra in EXTRAS.items():
        if _not_importable(name) is not None:
            absent.setdefault(extra, []).append(name)
    for extra, names in absent.items():
        yield Finding(NOTE, f"extra {extra}: no {', '.join(names)}; pip install 'vss[{extra}]' brings what is missing")


def _not_importable(name: str) -> str | None:
    """Returns why a library cannot be imported, None where it can."""
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        return _reason(error)
    return None


def _cuda() -> Findings:
    import torch

    if not torch.cuda.is_available():
        if Path("/dev/nvidia0").exists() and torch.version.cuda:
            yield Finding(
                PROBLEM,
                f"CUDA: this machine has an NVIDIA GPU that torch (CUDA {torch.version.cuda}) cannot use; update the"
                " driver (nvidia-smi names it), or install a torch of an older CUDA",
            )
        elif Path("/dev/nvidia0").exists():
            yield Finding(
                PROBLEM, "CUDA: this machine has an NVIDIA GPU, this torch is built without CUDA; install another"
            )
        else:
            yield Finding(NOTE, "CUDA: no GPU; everything runs on the CPU, full-size models slowly")
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        major, minor = torch.cuda.get_device_capability(number)
        name = torch.cuda.get_device_name(number)
        memory = f"{free / _GIB:.0f} of {total / _GIB:.0f} GiB free"
        yield Finding(OK, f"cuda:{number}: {name}, capability {major}.{minor}, {memory}, CUDA {torch.version.cuda}")


def _operators() -> Findings:
    import torch

    try:
        import vss_ops
    except ModuleNotFoundError:
        yield Finding(PROBLEM, "cuda_ops: vss_ops is not installed; run `pip install ./cuda_ops` in a checkout")
        return
    logging.getLogger("vss_ops").setLevel(logging.ERROR)  # its note would be a line between these
    devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    status = vss_ops.status()
    for device in devices:
        part = status[device.partition(":")[0]]
        try:
            path = vss_ops.self_check(device)
        except RuntimeError as error:
            yield Finding(PROBLEM, one_line(str(error)))
            continue
        agrees = f"cuda_ops on {device}: {path}, agrees with the reference"
        if path != "reference":
            yield Finding(OK, agrees)
        else:
            yield Finding(NOTE, f"{agrees}: pure PyTorch runs ({part['reason']}); faster after `make ops`")


# ---- a config and what it names


def _config(file: str | os.PathLike, config: dict[str, Any]) -> Findings:
    """Reads a config into `config`."""
    from vss.workflow.config import load_config

    config.update(load_config(os.fspath(file)))
    yield Finding(OK, f"config: {file}: {len(config['models'])} models, {len(config['predictions'])} predictions")


def _datasets(config: dict[str, Any]) -> Findings:
    for name, settings in config["data"].items():
        root = settings["root"]
        if root is None:
            yield Finding(OK, f"data.{name}: is drawn; for real data set data.{name}.root (docs/your-data.md)")
        elif not Path(root).is_dir():
            yield Finding(PROBLEM, f"data.{name}.root: no folder {root!r}; correct it, or mount the disk that holds it")
        elif not os.access(root, os.R_OK | os.X_OK):
            yield Finding(PROBLEM, f"data.{name}.root: {root} may not be read by this user; change its permissions")
        else:
            index = Path(config["results"], "prepare", name, "index.csv")
            done = "prepared" if index.exists() else f"check it: snakemake {index} --cores {os.cpu_count()}"
            yield Finding(OK, f"data.{name}.root: {root}, {done}")


def _plan(config: dict[str, Any], plans: list[Any]) -> Findings:
    """Makes the plan of a config and appends it to `plans`."""
    from vss.workflow.settings import read_plan

    plans.append(read_plan(config))
    yield Finding(OK, "config: every name in it exists and every row resolves")


def _folders(config: dict[str, Any]) -> Findings:
    for key in ("results", "work"):
        folder = _existing(Path(config[key]))
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
                if key == "work":
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            what = "no file can be written and locked there" if key == "work" else "no file can be written there"
            yield Finding(
                PROBLEM, f"{key}: {folder}: {what} ({error.strerror}); change its permissions, or set `{key}`"
            )
        else:
            yield Finding(OK, f"{key}: {config[key]} can be written")


def _weights(plan: Any) -> Findings:
    from vss.weights.kinds import kind_of
    from vss.weights.tensor_files import read_tensor_file

    for key, path in plan.weight_files():
        try:
            kind = kind_of(read_tensor_file(path).tensors)
        except UserError as error:
            yield Finding(PROBLEM, f"{key}: {one_line(str(error))}; download it again")
            continue
        if kind is None:
            yield Finding(PROBLEM, f"{key}: {path}: no weights that are known; docs/getting-started.md lists them")
        else:
            yield Finding(OK, f"{key}: {path}: {kind}")


def _disk(plan: Any) -> Findings:
    from vss.workflow.disk import bytes_needed

    work, results = bytes_needed(plan)
    folders = {key: _existing(Path(getattr(plan.config, key))) for key in ("work", "results")}
    one_disk = folders["work"].stat().st_dev == folders["results"].stat().st_dev
    needed = {"work and results": work + results} if one_disk else {"work": work, "results": results}
    for what, size in needed.items():
        folder = folders["results" if what == "results" else "work"]
        free = shutil.disk_usage(folder).free
        text = f"disk of {what}: {free / _GIB:.1f} GiB free, a run from scratch writes roughly {size / _GIB:.1f} GiB"
        if size <= free:
            yield Finding(OK, text)
        elif any(Path(getattr(plan.config, key)).is_dir() for key in folders):
            yield Finding(NOTE, f"{text}; part of it may be there already: free some space if the rest does not fit")
        else:
            yield Finding(PROBLEM, f"{text}; free some space, or set `results` and `work` to a larger disk")


def _shared_memory(*plans: Any) -> Findings:
    from vss.train.shared_memory import SHARED_MEMORY, bytes_needed

    if not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    needed = 0
    for plan in plans:
        for stage, model in (name.split("/") for name in plan.trainings()):
            nodes = plan.training_nodes(stage, model)
            processes = max(1, plan.training_gpus(stage, model) // nodes)
            needed = max(needed, bytes_needed(_training(plan, stage, model), processes, nodes=nodes))
    text = f"{SHARED_MEMORY}: {free / _GIB:.1f} GiB free"
    text += f", the largest training needs {needed / _GIB:.1f} GiB" if plans else ""
    if free < needed:
        yield Finding(PROBLEM, f"{text}; start the container with --shm-size or --ipc=host, or set num_workers: 0")
    else:
        yield Finding(OK, text)


def _training(plan: Any, stage: str, model: str) -> Any:
    from vss.configs.resolve import published_settings, resolve
    from vss.configs.resolved import read_training_config

    return read_training_config(published_settings(resolve(plan.training_settings(stage, model)))).training


def _existing(path: Path) -> Path:
    """Returns the path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _reason(error: BaseException) -> str:
    return one_line(str(error)) or type(error).__name__
