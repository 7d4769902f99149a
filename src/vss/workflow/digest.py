"""Digests of a stage's code and of a config row: content decides what reruns, never a file's time.

The code digest covers the syntax trees, without comments and docstrings, of the modules a stage imports (followed
through `vss` and `vss_ops`, imports inside functions included), of the data files next to them and of the operators'
C++ and CUDA sources.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vss.core import code
from vss.core.errors import UserError
from vss.core.files import read_json, write_json

# What a stage's command calls. cli.py is left out: it only parses.
ENTRY_MODULES = {
    "prepare": ("vss.prepare.run",),
    "check_masks": ("vss.prepare.recheck",),
    "pretrain": ("vss.train.run",),
    "finetune": ("vss.train.run",),
    "import": ("vss.weights.import_checkpoint",),
    "soup": ("vss.weights.average",),
    "soup_of_run": ("vss.train.soup",),
    "infer": ("vss.infer.run",),
    "import_prediction": ("vss.exchange.run",),
    "search": ("vss.ensemble.search",),
    "ensemble": ("vss.ensemble.run",),
    "propose": ("vss.refine.propose",),
    "flow": ("vss.flow.run",),
    "train_refiner": ("vss.refine.train",),
    "search_refiner": ("vss.refine.search",),
    "refine": ("vss.refine.run",),
    "pseudo": ("vss.pseudo.run",),
    "score_shard": ("vss.score.shard",),
    "score": ("vss.score.summary",),
    "submit": ("vss.submit.run",),
    "report": ("vss.report.run",),
    "track": ("vss.report.tracker",),
}

_MARKED = 1 << 20  # bytes
_PACKAGES = ("vss", "vss_ops")
# What they do cannot change a result: messages, exceptions, and the pages next to weights and to an index that describe
# them.
_WITHOUT_EFFECT = ("vss.core.errors", "vss.core.log", "vss.prepare.page", "vss.weights.card")
_DATA_SUFFIXES = (".css", ".html", ".js")
# The operators' C++ and CUDA sources, which the module next to this folder compiles or loads.
_NATIVE_FOLDER = "csrc"


def stage_digest(stage: str) -> str:
    """Returns 16 hexadecimal digits that change exactly when code that the stage runs changes."""
    digest = hashlib.sha256()
    for module in modules_of(stage):
        digest.update(f"{module} {_facts_of(_source_of(module)).digest}\n".encode())
    return digest.hexdigest()[:16]


@functools.cache
def modules_of(stage: str) -> tuple[str, ...]:
    """Returns the names of the project's modules that a stage imports, sorted."""
    seen: set[str] = set()
    todo = list(ENTRY_MODULES[stage])
    while todo:
        module = todo.pop()
        if module in seen or module in _WITHOUT_EFFECT or _source_of(module) is None:
            continue
        seen.add(module)
        todo.extend(imports_of(module))
    return tuple(sorted(seen))


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """Returns the project's modules that a module's source imports, wherever in it the import stands."""
    found: set[str] = set()
    for level, base, names in _facts_of(_source_of(module)).imports:
        base = _absolute(module, level, base)
        found.update((base, *(f"{base}.{name}" for name in names)))
    return frozenset(name for name in found if name.split(".")[0] in _PACKAGES and _source_of(name) is not None)


def _absolute(module: str, level: int, base: str) -> str:
    if level == 0:
        return base
    source = _source_of(module)
    is_package = source is not None and source.name == "__init__.py"
    parts = module.split(".")
    parts = parts[: len(parts) - level + (1 if is_package else 0)]
    return ".".join([*parts, *filter(None, [base])])


@functools.cache
def _source_of(module: str) -> Path | None:
    """Returns a project module's source file, found without importing it; None for anything else."""
    package, *rest = module.split(".")
    root = _package_folder(package)
    if root is None:
        return None
    for candidate in (root.joinpath(*rest, "__init__.py"), root.joinpath(*rest).with_suffix(".py")):
        if candidate.is_file() and (rest or candidate.name == "__init__.py"):
            return candidate
    return None


@functools.cache
def _package_folder(package: str) -> Path | None:
    if package not in _PACKAGES:
        return None
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


class _Facts(NamedTuple):
    """What of a source file counts here: (level, module, names) of every import in it, and its digest."""

    imports: list[tuple[int, str, list[str]]]
    digest: str


@functools.cache
def _facts_of(path: Path) -> _Facts:
    """Returns the facts of a source file, from the user's cache folder where a process before has found them.

    To parse all sources takes 2 s of a core, which every dry run and every training would pay.
    """
    source = path.read_bytes()
    beside = _data_beside(path.parent) if path.name != "__init__.py" else b""
    beside += _native_digest(path.parent / _NATIVE_FOLDER)
    kept = _cache_folder() / f"{hashlib.sha256(_own_source() + source + beside).hexdigest()}.json"
    with contextlib.suppress(UserError, TypeError):  # none yet, or damaged
        return _Facts(**read_json(kept))
    tree = ast.parse(source)
    facts = _Facts(list(_imports(tree)), hashlib.sha256(code.tree_without_prose(tree).encode() + beside).hexdigest())
    with contextlib.suppress(UserError, OSError):  # a folder that takes no file: found again next time
        write_json(kept, facts._asdict())
    return facts


def _cache_folder() -> Path:
    """Returns the user's cache; the folder of Python's own for a user without a home, as in some containers."""
    cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(__file__).with_name("__pycache__") if cache.startswith("~") else Path(cache, "vss", "sources")


def _imports(tree: ast.Module) -> Iterator[tuple[int, str, list[str]]]:
    for node in code.statements(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]


@functools.cache
def _own_source() -> bytes:
    """Returns the sources that facts are found by: other ones may find others."""
    return Path(__file__).read_bytes() + Path(code.__file__).read_bytes()


@functools.cache
def _data_beside(folder: Path) -> bytes:
    return b"".join(data.read_bytes() for data in sorted(folder.iterdir()) if data.suffix in _DATA_SUFFIXES)


@functools.cache
def _native_digest(folder: Path) -> bytes:
    """Returns a digest of all C++ and CUDA sources of a folder, empty where there is no such folder."""
    if not folder.is_dir():
        return b""
    digest = hashlib.sha256()
    for source in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{source.relative_to(folder)} ".encode() + source.read_bytes())
    return digest.digest()


def content_mark(path: str | Path) -> str:
    """Returns 16 hexadecimal digits that identify a large file's content: its size, its first and its last megabyte.

    Cheap enough for every dry run; a digest of 13 GB is not. A header of names and offsets comes first or last in
    safetensors and zip archives, and tensors of different trainings differ throughout.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        digest = hashlib.sha256(f"{size} ".encode() + file.read(_MARKED))
        file.seek(max(0, size - _MARKED))
        digest.update(file.read(_MARKED))
    return digest.hexdigest()[:16]


def trained_with_other_code(results: str | Path, trainings: Iterable[str]) -> list[str]:
    """Returns the trainings ("stage/model") whose weights in `results` are known to be made by other code than today's.

    Of weights that are not there, that were imported, or whose fingerprint cannot be read, nothing is known; the stages
    that use such a fingerprint refuse it by name.
    """
    recorded = {name: _recorded_code(Path(results, name, "fingerprint.json")) for name in trainings}
    return [name for name, code in recorded.items() if code is not None and code != stage_digest(name.split("/")[0])]


def _recorded_code(fingerprint: Path) -> str | None:
    try:
        return json.loads(fingerprint.read_text(encoding="utf-8")).get("code")
    except (OSError, ValueError, AttributeError):
        return None
