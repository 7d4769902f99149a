"""Mean and standard deviation over the seeds of a model, above the rows of its runs."""

from __future__ import annotations

import pytest

from vss.core.files import write_json
from vss.report.seeds import seed_means
from vss.report.table import ReportRow, html_table, markdown_table, print_table, score_table


@pytest.fixture
def table(tmp_path):
    """One model with three seeds, the last without video consistency, and one that was trained once."""
    rows, scores = [], {}
    for name, miou, vc8, of in (
        ("m.a", 0.40, 0.8, "m.a"),
        ("m-s1.a", 0.46, 0.9, "m.a"),
        ("m-s2.a", 0.49, None, "m.a"),
        ("n.a", 0.5, 0.9, None),
    ):
        rows.append(ReportRow(name, f"Title of {name}", None, {}, of, None if of is None else "M <1>"))
        scores[name] = tmp_path / f"{name}.json"
        write_json(scores[name], {"mIoU": miou, "VC8": vc8})
    return score_table(rows, scores)


def test_mean_and_deviation_are_of_the_runs(table) -> None:
    (found,) = seed_means(table, ["mIoU", "VC8"])
    assert (found.prediction, found.title, found.runs) == ("m.a", "M <1>", ["m.a", "m-s1.a", "m-s2.a"])
    # Of 40, 46 and 49: squares of the distances from 45 are 25, 1 and 16, over 2.
    assert found.mean == pytest.approx({"mIoU": 45}) and found.deviation == pytest.approx({"mIoU": 21**0.5})
    assert seed_means(table[["prediction", "mIoU"]], ["mIoU"]) == []


def test_every_rendering_has_the_mean_above_its_runs(table, tmp_path, capsys) -> None:
    table.to_csv(tmp_path / "table.csv", index=False)
    print_table(tmp_path / "table.csv")
    for text, heading in (
        (capsys.readouterr().out, "m.a, 3 seeds"),
        (markdown_table(table), "M &lt;1&gt;, mean of 3 seeds"),
        (html_table(table), "M &lt;1&gt;, mean of 3 seeds"),
    ):
        assert text.count("45.00 \u00b1 4.58") == 1
        assert text.index(heading) < text.index("45.00 \u00b1 4.58") < text.index("40.00") < text.index("46.00")
