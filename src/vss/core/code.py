"""What a source file computes, as text: its syntax tree without comments, docstrings and layout."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import Any

_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # fields that hold statements


def code_without_prose(source: str) -> str:
    """Returns the dump of a source's syntax tree without docstrings; comments and layout are not in a tree."""
    return tree_without_prose(ast.parse(source))


def tree_without_prose(tree: ast.Module) -> str:
    """Returns the dump of a syntax tree, out of which the docstrings are taken."""
    for node in statements(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:]
    return _dump(tree)


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yields a module and every statement of it, and what else holds statements, such as handlers; no expressions."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name in _BLOCKS:
            todo.extend(getattr(node, name, ()))


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
        # A plain loop: every dry run comes here some hundred thousand times.
        fields = []
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != []:
                fields.append(f"{name}={_dump(value)}")
        return f"{type(node).__name__}({','.join(fields)})"
    return f"[{','.join(map(_dump, node))}]" if isinstance(node, list) else repr(node)
