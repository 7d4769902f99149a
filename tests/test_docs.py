"""What README.md and docs/ show exists: commands and their options, targets of make, keys of the config.

The Python of README.md and docs/library.md is run by test_api.py, that of docs/formats.md by core/test_codec.py.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import vss
from vss.cli import COMMANDS
from vss.configs.schema import check_values, load_schema

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> dict[str, list[str]]:
    """Returns the fenced blocks of a page by language."""
    found: dict[str, list[str]] = {}
    for language, body in _FENCE.findall(text):
        found.setdefault(language, []).append(body)
    return found


def code_lines(text: str) -> Iterator[str]:
    """Yields every line of code of a page: of shell blocks, of indented blocks, and between backticks."""
    for language in ("bash", "sh", "console"):
        for body in blocks(text).get(language, []):
            yield from body.splitlines()
    rest = _FENCE.sub("", text)
    yield from (line.strip() for line in rest.splitlines() if line.startswith("    "))
    yield from re.findall(r"`([^`]+)`", " ".join(rest.split("\n")))


def typed(program: str) -> list[tuple[str, list[str]]]:
    """Returns (page, words) of every command line that the pages show for a program, up to a comment or a pipe."""
    found = []
    for page in PAGES:
        for line in code_lines(page.read_text(encoding="utf-8")):
            if line.startswith(f"{program} "):
                command = re.split(r" (?:[#|>]|&&|->) ?", line.removeprefix("$ "))[0]
                found.append((page.name, shlex.split(command)[1:]))
    return found


def options_of(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("-") and " " not in word]


def test_the_commands_of_vss_and_their_options_exist() -> None:
    shown = typed("vss")
    assert len(shown) > 8
    for page, (name, *words) in shown:
        assert name in COMMANDS or name.startswith("-"), f"{page}: vss {name}"
        known = {"--help", *(option.name for option in COMMANDS[name].options)} if name in COMMANDS else set()
        before = words[: words.index("--")] if "--" in words else words
        assert set(options_of(before)) <= known, f"{page}: vss {name} {' '.join(words)}"


def test_the_options_of_snakemake_exist() -> None:
    cli = pytest.importorskip("snakemake.cli", reason="Snakemake needs Python 3.11")
    known = cli.get_argument_parser()._option_string_actions
    shown = typed("snakemake")
    assert len(shown) > 8
    for page, words in shown:
        assert set(options_of(words)) <= set(known), f"{page}: snakemake {' '.join(words)}"


def test_the_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = typed("make")
    assert {"demo", "test"} <= {word for _, words in shown for word in words} <= targets


def test_the_modules_that_python_runs_exist() -> None:
    shown = [words[1] for _, words in typed("python") if words[:1] == ["-m"]]
    assert shown
    for module in shown:
        assert importlib.util.find_spec(module) is not None, module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_of_config_is_allowed(page: Path) -> None:
    import jsonschema

    schema = load_schema()
    for body in blocks(page.read_text(encoding="utf-8")).get("yaml", []):
        given = yaml.safe_load(body)
        check_values(given, where=page.name)
        # A page shows a part of a config: what is required may stand elsewhere.
        errors = jsonschema.Draft202012Validator(schema).iter_errors(given)
        assert not [error.message for error in errors if error.validator != "required"], body


def test_python_stands_where_a_test_runs_it() -> None:
    pages = {page.name for page in PAGES if "python" in blocks(page.read_text(encoding="utf-8"))}
    assert pages == {"README.md", "library.md", "formats.md"}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    # `make docs` builds the site and checks its links.
    listed = set(re.findall(r"([\w-]+\.md)$", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    generated = {"index.md", "reference.md", "contributing.md", "changelog.md", "operators.md"}
    assert listed == {page.name for page in PAGES[1:]} | generated


def test_the_first_screen_is_short() -> None:
    lines = PAGES[0].read_text(encoding="utf-8").splitlines()
    assert len(lines) < 120 and max(map(len, lines)) <= 120
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", "\n".join(lines))
    assert len(pictures) == 2 and all((REPOSITORY / picture).is_file() for picture in pictures)


def test_the_notebook_parses_and_uses_what_is_public() -> None:
    # CI runs it on the results of the demo.
    notebook = json.loads((REPOSITORY / "notebooks" / "tour.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5 and all(not cell.get("outputs") for cell in notebook["cells"])
    used = set()
    for cell in cells:
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vss":
                used.add(node.attr)
    assert used == {"compare", "load", "models"} <= set(vss.__all__)


def test_the_tests_that_the_robustness_page_names_exist() -> None:
    page = (REPOSITORY / "docs" / "robustness.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 60
    for file, test in named:
        path = REPOSITORY / "tests" / file
        assert path.is_file() and f"def {test}" in path.read_text(encoding="utf-8"), f"{file}::{test}"
