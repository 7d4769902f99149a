"""report.json: what the page shows, for programs."""

from __future__ import annotations

import pytest

from vss.core.files import read_json


def test_the_record_holds_what_the_page_shows(finished_run, written):
    record = read_json(written["record"])
    assert (record["format"], record["version"], record["title"]) == ("vss-report", 1, "A run of <small> & big")
    page = written["html"].read_text()
    assert all(text.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&#x27;") in page or "'" in text
               for text in record["remarks"])  # fmt: skip
    names = [row["name"] for row in finished_run["settings"]["rows"]]
    assert [row["name"] for row in record["predictions"]] == names
    for row in record["predictions"]:
        scores = read_json(finished_run["inputs"]["scores"][row["name"]])
        assert row["scores"]["mIoU"] == pytest.approx(100 * scores["mIoU"], abs=1e-4)
        assert row["scores"].keys() <= record["columns"].keys() and row["scores"]["VC16"] is None
        assert row["intervals"]["mIoU"] == pytest.approx([100 * edge for edge in scores["intervals"]["mIoU"]], abs=1e-4)
        assert len(row["per_class"]) == 124 and row["per_class"][123]["iou"] is None
    assert record["predictions"][0]["paper"] == {"val": 56.24, "test1": 48.09, "test": None}
    assert record["predictions"][0]["seconds_per_frame"] == len("net.single"), "19 frames in 19 times that"
    assert [rank["rank"] for rank in record["ranks"]] == [1, 2, 3]
    assert record["run"]["protocol"] == "paper" and record["run"]["dataset"]["drawn"] is True
    assert record["run"]["libraries"]["numpy"]
    assert record["run"]["config"] == {"models": {"net": {"title": "</pre><b>"}}} and "&lt;/pre&gt;&lt;b&gt;" in page
    (refined,) = record["refinements"]
    assert (refined["prediction"], refined["of"], refined["unrefined"]) == ("net.single.ssa", "net.single", 2)
    assert "frames kept as they were" in page
    assert refined["seconds_per_frame"] == len(".ssa")
    before, after = (read_json(finished_run["inputs"]["scores"][name]) for name in ("net.single", "net.single.ssa"))
    for key in ("mIoU", "mBIoU", "VC8"):
        low, high = refined["figures"][key]["interval"]
        assert low <= refined["figures"][key]["after"] - refined["figures"][key]["before"] <= high
        assert refined["figures"][key]["before"] == pytest.approx(100 * before[key], abs=1e-4)
    gained = refined["became_right"] - refined["became_wrong"]
    assert gained == pytest.approx(100 * (after["pixel_acc"] - before["pixel_acc"])) and refined["became_wrong"] > 5
    assert [len(refined["classes"][way]) for way in ("gained", "lost")] == [4, 0]
    assert [row["name"] for row in refined["videos"]["gained"]] and refined["videos"]["lost"] == []
    assert [cost["stage"] for cost in record["costs"]] == ["infer"]
    assert [training["iterations"] for training in record["trainings"]] == [100, 100]


def test_rows_of_the_paper_that_were_not_run_are_named(written):
    """The run stands for one row of table 1; its own row of table 4 has a figure that the paper gives to another."""
    record = read_json(written["record"])
    assert len(record["not_run"]) == 13 - 2
    assert "ConvNeXt-XL + UperNet" in [row["title"] for row in record["not_run"]]
    page = written["html"].read_text()
    assert page.count('<span class="note">not run</span>') == 11
    assert 'ConvNeXt-XL + UperNet <span class="note">not run</span>' in page
