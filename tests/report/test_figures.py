"""Charts and what they read."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from vss.core.errors import UserError
from vss.core.page.document import resource
from vss.report import figures


def write(path, *lines, end="\n"):
    path.write_text("\n".join(json.dumps(line) if isinstance(line, dict) else line for line in lines) + end)
    return path


def test_log_is_read_line_by_line(tmp_path):
    log = figures.read_log(
        write(tmp_path / "log", {"iter": 5, "loss": 2.0}, {"iter": 10, "val/mIoU": 0.3}, {"iter": 10, "loss": 1.0})
    )
    assert log["iter"].tolist() == [5, 10, 10]
    assert figures.losses(log)["loss"].tolist() == [2.0, 1.0]
    assert figures.last_loss(log) == 1.0


def test_a_line_cut_short_is_left_out(tmp_path):
    log = figures.read_log(write(tmp_path / "log", {"iter": 5, "loss": 2.0}, '{"iter": 10, "lo', end=""))
    assert log["iter"].tolist() == [5]


@pytest.mark.parametrize("line", ['{"iter": 1', '{"loss": 2}', "[1]", "3"])
def test_a_broken_line_is_named(tmp_path, line):
    with pytest.raises(UserError, match="line 2"):
        figures.read_log(write(tmp_path / "log", {"iter": 5}, line, {"iter": 6}))
    with pytest.raises(UserError, match="absent"):
        figures.read_log(tmp_path / "absent")


def test_last_loss_is_the_mean_of_the_last_tenth():
    log = pd.DataFrame({"iter": range(20), "loss": [9.0] * 18 + [1.0, 2.0]})
    assert figures.last_loss(log) == 1.5
    assert np.isnan(figures.last_loss(pd.DataFrame({"iter": []})))


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels(), axes.title)]


def test_predictions_are_sorted_and_labelled():
    table = pd.DataFrame(
        {
            "prediction": ["a.single", "a.single.ssa", "b", "c"],
            "title": ["A", "A + SSA", "B", "C"],
            "mIoU": [50.0, 49.5, 61.25, np.nan],
        }
    )
    found = texts(figures.predictions_figure(table))
    assert found[:3] == ["49.50, from 50.00", "50.00", "61.25"]
    assert found[3:6] == ["A + SSA", "A", "B"]


def test_classes_of_the_truth_are_sorted_best_first():
    def table(*iou):
        return pd.DataFrame(
            {"class_id": [0, 1, 2], "class": ["one_a", "two", "three"], "iou": iou, "pixels_truth": [5, 0, 5]}
        )

    figure = figures.per_class_figure({"x": table(0.25, np.nan, 0.5), "y": table(0.75, 0.0, 0.125)}, prediction="x")
    assert texts(figure)[:4] == ["50.0", "25.0", "three", "one a"]


@pytest.mark.parametrize("classes", [0, 1, 42, 43, 124])
def test_any_number_of_classes_fits(classes, tmp_path):
    names = [f"class {n}" for n in range(124)]
    truth = (np.arange(124) < classes).astype(int)
    table = pd.DataFrame({"class_id": range(124), "class": names, "iou": np.linspace(0, 1, 124), "pixels_truth": truth})
    figure = figures.per_class_figure({"x": table}, prediction="x")
    assert {name for name in texts(figure) if name.startswith("class")} == set(names[:classes])
    figures.write_png(tmp_path / "x.png", figure)


def test_charts_of_nothing_are_drawn(tmp_path):
    empty = pd.DataFrame({"prediction": [], "title": [], "mIoU": []})
    logs = {"no lines": pd.DataFrame({"iter": []}), "only validation": pd.DataFrame({"iter": [3], "mIoU": [0.1]})}
    for number, figure in enumerate(
        (figures.predictions_figure(empty), figures.curves_figure({}), figures.curves_figure(logs))
    ):
        figures.write_png(tmp_path / f"{number}.png", figure)
        assert (tmp_path / f"{number}.png").stat().st_size


def test_svg_takes_the_colours_of_the_page():
    log = pd.DataFrame({"iter": [1, 2, 3], "loss": [3.0, 2.0, 1.0]})
    text = figures.svg_text(figures.curves_figure({"a < b": log}), name="curves", title='x "y" <z>')
    assert text.startswith("<svg ") and text.rstrip().endswith("</svg>")
    assert "var(--accent)" in text and "var(--ink)" in text
    css = resource("vss.core.page", "page.css")
    for name in set(figures._CSS_NAME.values()):
        assert css.count(f"--{name}:") == 2, "defined for light and dark"
        assert figures._CSS_NAME and f"--{name}" in css
    assert not any(colour in text for colour in figures._CSS_NAME)


def test_parts_of_a_chart_keep_their_names_and_tips():
    log = pd.DataFrame({"iter": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "lr": [0.1, 0.2, 0.1]})
    loss, rate = (
        figures.svg_text(figure, name="runs", title="t", tips={"run-1": "<b>"})
        for figure in figures.runs_figures({"a": log, "b": log}).values()
    )
    assert loss.count('data-part="run-1 smooth-medium">') == 1, "shown"
    assert loss.count('data-part="run-1 smooth-none" display="none">') == 1
    assert '<g data-part="run-1"><title>&lt;b&gt;</title>' in rate
    table = pd.DataFrame({"prediction": ["a", "b", "c"], "mIoU": [1.0, 3.0, np.nan], "VC8": [5.0, np.nan, 1.0]})
    dots = figures.svg_text(figures.scatter_figure(table, {"a": 2.0, "b": 0.5}), name="dots", title="t")
    assert dots.count('data-part="dot-0"') == 1 and dots.count('data-part="dot-1"') == 2, "b is first and has no VC"
    figures.svg_text(figures.scatter_figure(table[2:], {}), name="none", title="t")
    (empty,) = figures.runs_figures({"empty": pd.DataFrame({"iter": []})}).values()
    figures.svg_text(empty, name="none", title="t")


def test_reliability_has_a_named_curve_per_prediction():
    bins = {
        title: [{"confidence": 0.3, "accuracy": low}, {"confidence": 0.9, "accuracy": 0.8}]
        for title, low in (("a", 0.2), ("b", 0.4))
    }
    figure = figures.reliability_figure(bins)
    (_, first, second) = figure.axes[0].lines
    assert first.get_xydata().tolist() == [[30, 20], [90, 80]] and second.get_ydata()[0] == 40
    text = figures.svg_text(figure, name="reliability", title="t", tips={"reliability-1": "b <x>"})
    assert 'data-part="reliability-0"' in text and "<title>b &lt;x&gt;</title>" in text


def test_confusions_have_a_row_per_class_of_the_truth_the_largest_first():
    figure = figures.confusions_figure(["wall", "sky", "sea"], [100, 0, 400], [(0, 2, 25), (2, -1, 100)])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sea", "wall"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["sea", "wall", "no class"]
    wrong, right = (image.get_array() for image in axes.images)
    np.testing.assert_allclose(wrong**2, [[0, 0, 0.25], [0.25, 0, 0]])
    np.testing.assert_allclose(right.filled(-1) ** 2, [[0.75, 1, 1], [1, 0.75, 1]])


def test_no_class_scores_give_a_curve_of_nothing():
    assert [text.get_text() for text in figures.reliability_figure({}).axes[0].texts] == ["no class scores were scored"]
