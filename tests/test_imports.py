"""The one-way rule of docs/design: a module imports only what stands left of it in the flow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "vss"

# Left to right. Modules at the top level of vss come first, in the order of what they may use.
ORDER = [
    "errors",
    "digest",
    "progress",
    "labels",
    "codec",
    "formats",
    "confusion",
    "data",
    "models",
    "configs",
    "train",
    "infer",
    "ensemble",
    "refine",
    "score",
    "submit",
    "report",
]
# The workflow's side of the package: used by rules, not by stages.
WORKFLOW_SIDE = {"config", "plan", "resolved", "signals", "lease", "cli", "__main__"}
LIGHT = (
    "data.prepare",
    "score.shard",
    "score.summary",
    "submit.run",
    "report.run",
    "config",
    "plan",
    "resolved",
    "digest",
    "train.config",
    "train.workdir",
    "signals",
    "lease",
)


def imported_parts(path: Path) -> set[str]:
    """The parts of vss (first name after `vss.`) that a source file imports."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "vss":
            parts |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("vss."):
            parts.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            parts |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("vss.")}
    return parts


SOURCES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if part == "__init__":
        assert path.read_text().strip() == ""
        return
    parts = imported_parts(path)
    assert parts <= {*ORDER, *WORKFLOW_SIDE}, "a new part of vss needs its place in ORDER"
    if part in WORKFLOW_SIDE:
        return
    assert not parts & WORKFLOW_SIDE
    for other in parts - {part}:
        # formats writes what codec encodes: the pair is one contract in two files.
        assert ORDER.index(other) < ORDER.index(part) or {part, other} == {"formats", "codec"}, f"{part} -> {other}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_imports_snakemake(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "snakemake" for name in names)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_without_torch(module: str) -> None:
    code = f"import sys, vss.{module}; sys.exit(bool({{'torch', 'mmseg'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
