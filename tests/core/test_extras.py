"""A library of an extra that is absent is one line that names the extra."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from vss import cli
from vss.core.command_line import EXIT_USER_ERROR
from vss.core.extras import EXTRAS, how_to_install

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")
def test_extras_are_those_of_the_project():
    import tomllib

    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    distributions = importlib.metadata.packages_distributions()
    for library, extra in EXTRAS.items():
        names = {name.lower() for name in distributions.get(library, [library])}
        requirements = {requirement.partition(">")[0] for requirement in extras[extra]}
        assert names & requirements, f"{library}: {names} is not in the extra {extra}: {requirements}"


def test_the_command_line_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def absent(**options: object) -> None:
        raise ModuleNotFoundError("No module named 'skimage'", name="skimage.segmentation")

    monkeypatch.setattr("vss.configs.table.print_models", absent)
    assert cli.main(["models"]) == EXIT_USER_ERROR
    assert capsys.readouterr().err == "vss models: skimage is not installed: run `pip install 'vss[refine]'`\n"


def test_other_modules_are_no_extra():
    assert how_to_install(ModuleNotFoundError(name="vss.core.typo")) is None
    assert "pip install ./cuda_ops" in (how_to_install(ModuleNotFoundError(name="vss_ops.ops")) or "")
