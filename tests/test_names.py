"""One name, one meaning: no public class, constant or type alias is defined twice in the package."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "vss"


def is_type_variable(value: ast.expr) -> bool:
    """Whether a value is `TypeVar(...)`, whose meaning ends with its module."""
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "TypeVar"


def public_names(tree: ast.Module) -> set[str]:
    """The classes and assigned names at the top level of a module that begin with a capital letter."""
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) and not is_type_variable(node.value) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        for target in targets:
            names |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
    return {name for name in names if name[0].isupper()}


def test_no_public_name_has_two_meanings() -> None:
    places = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for name in public_names(ast.parse(path.read_bytes())):
            places[name].append(str(path.relative_to(SOURCE)))
    assert len(places) > 300
    doubled = {name: found for name, found in places.items() if len(found) > 1}
    assert not doubled
