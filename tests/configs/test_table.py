"""`vss models`: what is said of a row, and the printed table."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from mmengine.config import Config

from vss import configs
from vss.configs.table import Row, describe, model_rows, table_lines
from vss.core.errors import UserError


def test_the_papers_best_row():
    row = describe("mask2former_internimage-h_coco_stuff2vspw")
    assert row.parameters == pytest.approx(1093.9e6, abs=0.05e6)
    assert row.paper_miou == {"val": 68.03, "test1": 62.31}
    assert row.flops > 3e12


def test_parameters_include_the_auxiliary_head():
    assert describe("upernet_internimage-xl_vspw").parameters == pytest.approx(367.7e6, abs=0.05e6)


def test_an_unknown_row_is_told():
    with pytest.raises(UserError, match="no_such_row"):
        describe("no_such_row")


def test_the_table_has_a_line_for_every_row_and_every_further_file():
    rows = [
        Row("small", 1_500_000, 7_000_000_000, {}, []),
        Row("large", 1_000_000_000, 3_000_000_000_000, {"val": 68.03, "test1": 62.3}, ["one file", "another"]),
    ]
    lines = table_lines(rows)
    assert lines[1].split() == ["small", "1.5", "M", "7.0", "-", "-"]
    assert lines[2].split() == ["large", "1000.0", "M", "3000.0", "68.03", "/", "62.30", "one", "file"]
    assert lines[3].strip() == "another"
    assert lines[3].index("another") == lines[2].index("one file")


def test_the_committed_counts_are_those_of_the_rows():
    rows = {row.row: row for row in model_rows()}
    assert list(rows) == configs.names()
    for name in (
        "upernet_swin-nano_vspw",
        "mask2former_internimage-nano-h_vspw",
        "upernet_convnext-xl_vspw",
        "eomt_dinov2-l_vspw",
    ):
        assert describe(name) == rows[name], "count again: python -m vss.configs.table"
    for name, row in rows.items():
        raw = Config.fromfile(configs.FOLDER / f"{name}.py")
        assert (row.paper_miou, row.published_weights) == (dict(raw["paper_miou"]), list(raw["published_weights"]))


def test_rows_on_public_encoders_show_the_licence_of_every_file():
    rows = {row.row: row for row in model_rows()}
    for name, licences in {
        "eomt_dinov2-l_vspw": ["Apache-2.0", "MIT"],
        "eomt_dinov3-l_vspw": ["DINOv3 License"],
        "pmt_dinov2-l_vspw": ["Apache-2.0"],
        "pmt_dinov3-l_vspw": ["DINOv3 License"],
    }.items():
        lines = table_lines([rows[name]])
        shown = lines[1 : lines.index("")]
        assert [line.rpartition("; ")[2] for line in shown] == [f"{licence})" for licence in licences]


def test_the_command_prints_every_row_without_torch():
    code = "import sys; from vss import cli; sys.exit(cli.main(['models', '--json']) or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [row["row"] for row in found] == configs.names()
    assert all(row["flops"] > 0 and row["parameters"] > 0 for row in found)
