"""Imports go one way through the rooms of the package; what must load fast stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "vss"

# Left to right: a room imports what stands left of it. Validation runs the engine, so `train` stands right of `infer`.
ORDER = (
    *("core", "models", "configs", "weights", "prepare", "infer", "flow", "export", "train"),
    *("exchange", "ensemble", "refine", "score", "submit", "pseudo", "report"),
)
# Rooms with a rule of their own: what the Snakefile asks imports no stage, and no stage imports the doors.
WORKFLOW_IMPORTS = {"core", "configs"}
DOORS = {"api", "cli", "completion", "doctor", "__main__"}
LIGHT = (
    "doctor",
    "prepare.run",
    "exchange.run",
    "score.shard",
    "score.summary",
    "submit.run",
    "report.run",
    "configs.resolve",
    "configs.result_settings",
    "configs.tta",
    "workflow.config",
    "workflow.disk",
    "workflow.plan",
    "workflow.settings",
    "workflow.digest",
    "workflow.signals",
    "workflow.lease",
)


def imported_rooms(path: Path) -> set[str]:
    """The rooms of vss (first name after `vss.`) that a source file imports."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "vss":
            rooms |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("vss."):
            rooms.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("vss.")}
    return rooms


SOURCES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    imported = imported_rooms(path) - {room}
    assert imported <= {*ORDER, "workflow", *DOORS}, "a new room of vss needs its place in ORDER"
    if room in DOORS:
        return
    assert not imported & DOORS
    if room == "workflow":
        assert imported <= WORKFLOW_IMPORTS
    elif room == "__init__":
        assert imported <= {"core"}
    else:
        assert imported <= set(ORDER[: ORDER.index(room)]), f"{room} -> {sorted(imported)}"


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
