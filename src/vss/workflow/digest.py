"""Digests of a stage's code and of a config row: content decides what reruns, never a file's time.

The code digest covers the syntax trees, without comments and docstrings, of the modules a stage imports (followed
through `vss` and `vss_ops`, imports inside functions included) and of the data files beside them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# What a stage's command calls. cli.py is left out: it only parses.
ENTRY_MODULES = {
    "prepare": ("vss.prepare.run",),
    "pretrain": ("vss.train.run",),
    "finetune": ("vss.train.run",),
    "import": ("vss.weights.import_checkpoint",),
    "soup": ("vss.weights.average",),
    "infer": ("vss.infer.run",),
    "search": ("vss.ensemble.search",),
    "ensemble": ("vss.ensemble.run",),
    "propose": ("vss.refine.propose",),
    "flow": ("vss.refine.flow",),
    "train_refiner": ("vss.refine.train",),
    "refine": ("vss.refine.run",),
    "score_shard": ("vss.score.shard",),
    "score": ("vss.score.summary",),
    "submit": ("vss.submit.run",),
    "report": ("vss.report.run",),
}

_MARKED = 1 << 20  # bytes
_PACKAGES = ("vss", "vss_ops")
# What they do cannot change a result: messages and exceptions.
_WITHOUT_EFFECT = ("vss.core.errors", "vss.core.log")
_DATA_SUFFIXES = (".css", ".html", ".js")


def stage_digest(stage: str) -> str:
    """Returns 16 hexadecimal digits that change exactly when code that the stage runs changes."""
    digest = hashlib.sha256()
    for module in modules_of(stage):
        digest.update(f"{module} {_file_digest(_source_of(module))}\n".encode())
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
    for node in ast.walk(ast.parse(_source_of(module).read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        found.update(name for name in names if name.split(".")[0] in _PACKAGES and _source_of(name) is not None)
    return frozenset(found)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    is_package = _source_of(module).name == "__init__.py"
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


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


@functools.cache
def _file_digest(path: Path) -> str:
    digest = hashlib.sha256(code_without_prose(path.read_text(encoding="utf-8")).encode())
    if path.name != "__init__.py":
        for data in sorted(path.parent.iterdir()):
            if data.suffix in _DATA_SUFFIXES:
                digest.update(data.read_bytes())
    return digest.hexdigest()


def code_without_prose(source: str) -> str:
    """Returns the dump of a source's syntax tree without docstrings; comments and layout are not in a tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:]
    return _dump(tree)


def _dump(node: Any) -> str:
    """Returns a syntax tree as text that every Python writes alike.

    Later ones know more fields, mostly empty; 3.12 leaves pieces of an f-string apart, or empty, that others join.
    """
    if isinstance(node, ast.JoinedStr):
        values = [value for value in node.values if not (isinstance(value, ast.Constant) and value.value == "")]
        groups = itertools.groupby(values, key=lambda value: isinstance(value, ast.Constant))
        pieces = [["".join(text.value for text in group)] if plain else list(group) for plain, group in groups]
        return f"JoinedStr({_dump([piece for group in pieces for piece in group])})"
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({','.join(f'{name}={_dump(value)}' for name, value in fields)})"
    return f"[{','.join(map(_dump, node))}]" if isinstance(node, list) else repr(node)


def content_mark(path: str | Path) -> str:
    """Returns 16 hexadecimal digits that tell a large file's content: its size, its first and its last megabyte.

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
    return [
        name
        for name in trainings
        if _recorded_code(Path(results, name, "fingerprint.json")) not in (None, stage_digest(name.split("/")[0]))
    ]


def _recorded_code(fingerprint: Path) -> str | None:
    try:
        return json.loads(fingerprint.read_text(encoding="utf-8")).get("code")
    except (OSError, ValueError, AttributeError):
        return None
