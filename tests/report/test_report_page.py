"""The report of a small run: whole, self-contained, escaped, the same bytes twice."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from html.parser import HTMLParser

import cv2
import pandas as pd
import pytest

from vss.core.errors import UserError
from vss.core.files import read_json, write_json
from vss.core.index import LeftOut, read_card, write_card
from vss.report.table import PAPER, SCORES, print_table

VOID_TAGS = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects text, references and ids, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID_TAGS:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID_TAGS:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data


def test_predictions_are_ranked_and_classes_explained(written):
    page = Page(written["html"].read_text(encoding="utf-8"))
    assert "ranks" in page.ids
    assert "ahead of the next" in page.text and "taken for" in page.text


def test_everything_is_written_and_self_contained(written):
    assert all(path.stat().st_size for path in written.values())
    source = written["html"].read_text(encoding="utf-8")
    page = Page(source)
    here = ("#", "data:image/jpeg;base64,", "viewer.html")
    assert all(reference.startswith(here) for reference in page.references)
    assert not re.search(r"url\((?!#)|@import", source)
    assert max(Counter(page.ids).values()) == 1, "ids are unique on the page"
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert sum(reference.startswith("data:") for reference in page.references) == 3 * 5, "3 frames of 5 panels"
    Page(written["table_html"].read_text(encoding="utf-8"))


def test_names_are_shown_and_not_obeyed(written):
    page = Page(written["html"].read_text(encoding="utf-8"))
    for text in ("A run of <small> & big", "Other <x>", "a <b> & --c / 0000", "zw\u00f6lf / 0000", "Net, finetune"):
        assert text in page.text, text


def test_same_input_same_bytes(written, write_report):
    again = write_report()
    for key in written:
        assert written[key].read_bytes() == again[key].read_bytes(), key


def test_page_names_what_was_left_out(finished_run, write_report, tmp_path):
    card = read_card(finished_run["card"])
    assert "could not be used" not in Page(write_report()["html"].read_text()).text
    left_out = (LeftOut("val", "a <i>", "7", "image_broken"), LeftOut("test", "b", "", "video_absent"))
    write_card(tmp_path / "dataset.json", dataclasses.replace(card, left_out=left_out))
    text = " ".join(Page(write_report(card=tmp_path / "dataset.json")["html"].read_text()).text.split())
    assert "1 frame or video could not be used and was left out (a <i>/7)." in text


HOSTILE = "=1+1|<script>alert(1)</script> $x_{ $ \u202e[a](javascript:1) `b` [31m *c*"


def test_a_hostile_title_is_text_everywhere(finished_run, write_report, tmp_path):
    """A title of formulas, tags, links, mathtext and a mark of right-to-left writing is one line of text everywhere."""
    rows = [row | {"title": HOSTILE, "name": row["name"]} for row in finished_run["settings"]["rows"]]
    out = write_report(settings={"rows": rows, "title": HOSTILE, "titles": {"net": HOSTILE}})
    page = Page(out["html"].read_text())
    assert (
        HOSTILE not in page.text and "=1+1|<script>alert(1)</script> $x_{ $ [a](javascript:1) `b` [31m *c*" in page.text
    )
    assert "<script>alert" not in out["html"].read_text()
    first_row = out["table_md"].read_text().splitlines()[2]
    assert "=1+1\\|&lt;script&gt;" in first_row and r"\[a\](javascript:1) \`b\` " in first_row
    titles = pd.read_csv(out["table_csv"])["title"]
    assert titles.str.startswith("'=1+1").all()


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"title": "Another title"}, {"html", "table_html", "ranks", "viewer", "record", "crate"}),
        ({"colours": {"wall": "#102030"}}, {"html", "overlays", "viewer", "crate"}),
        ({"overlay_alpha": 0.2, "frames": 1}, {"html", "overlays", "viewer", "record", "crate"}),
    ],
)
def test_a_setting_changes_what_it_names(written, write_report, change, changed):
    after = write_report(settings=change)
    assert {key for key in written if written[key].read_bytes() != after[key].read_bytes()} == changed


def test_page_says_what_the_data_are(finished_run, written, write_report, tmp_path):
    text = " ".join(Page(written["html"].read_text()).text.split())
    assert "Drawn data." in text and "19 frames of 2 videos, with 4 of 124 classes" in text
    assert "paper: what the paper says" in text
    real = tmp_path / "dataset.json"
    write_card(real, dataclasses.replace(read_card(finished_run["card"]), drawn=False))
    text = " ".join(Page(write_report(card=real)["html"].read_text()).text.split())
    assert "Drawn data." not in text and "19 of its 24,502 val frames" in text


def test_table_holds_the_scores_in_percent(finished_run, written):
    table = pd.read_csv(written["table_csv"]).set_index("prediction")
    for name, path in finished_run["inputs"]["scores"].items():
        scores = read_json(path)
        assert table.loc[name, "mIoU"] == pytest.approx(100 * scores["mIoU"], abs=1e-4)
        assert table.loc[name, "VC8_correct"] == pytest.approx(100 * scores["strict"]["VC8_correct"], abs=1e-4)
    assert table.loc["net.single", "paper_val"] == 56.24
    assert table["VC16"].isna().all(), "no video is long enough"
    best = f"{table['mIoU'].max():.2f}"
    markdown = written["table_md"].read_text()
    assert f"**{best}**" in markdown and "one \\| two" in markdown and "VC16" not in markdown
    assert f'<td class="best" data-convention="official">{best} <span' in written["html"].read_text()


def test_printed_table_is_aligned(written, capsys):
    table = pd.read_csv(written["table_csv"])
    print_table(written["table_csv"])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert [name in row for name, row in zip(table["prediction"], rows, strict=True)] == [True] * 3
    end = head.index("mIoU") + len("mIoU")
    edges = [f"[{low:.1f}, {high:.1f}]" for low, high in zip(table["mIoU_low"], table["mIoU_high"], strict=True)]
    shown = [f" {value:.2f} {between}" for value, between in zip(table["mIoU"], edges, strict=True)]
    assert [row[:end].endswith(figure) for row, figure in zip(rows, shown, strict=True)] == [True] * 3
    assert {row[end : end + 1] for row in rows} == {" "} and set(rule) == {"-", " "}
    assert rows[2].split()[0] == "\u2013", "a prediction of no table"
    assert all(between in written["table_md"].read_text() for between in edges)
    assert all(between in written["html"].read_text() for between in edges)
    assert (table["mIoU_low"] <= table["mIoU"]).all() and (table["mIoU"] <= table["mIoU_high"]).all()


def test_an_ensemble_may_be_called_null(tmp_path, capsys):
    keys = ["prediction", "title", "table", *(column.key for column in (*SCORES, *PAPER))]
    row = {"prediction": "null", "title": "NA", "mIoU": 50.0}
    pd.DataFrame([row], columns=keys).to_csv(tmp_path / "table.csv", index=False)
    print_table(tmp_path / "table.csv")
    assert capsys.readouterr().out.splitlines()[-1].split() == ["\u2013", "null", "50.00"]


def test_what_each_member_adds(write_report, tmp_path):
    """By hand: weights 1 and 3, 50.0 together, 40.0 and 47.5 alone and so without the other."""
    a, b = "net.single", "other.flip"
    chosen = {
        "members": [{"name": a, "weight": 1, "temperature": 1.0}, {"name": b, "weight": 3, "temperature": 1.5}],
        "miou": {"given": 0.49, "chosen": 0.5},
        "alone": {a: 0.4, b: 0.475},
        "without": {a: 0.475, b: 0.4},
    }
    write_json(tmp_path / "chosen.json", chosen)
    titles = {"titles": {"both": "Both <of> them", "net": "Net"}}
    out = write_report(inputs={"chosen": {"both": tmp_path / "chosen.json"}}, settings=titles)
    rows = re.findall(r'<tr><th scope="row" class="name">(.*?)</th>(.*?)</tr>', out["html"].read_text())
    cells = {name: re.findall(r"<td>(.*?)</td>", row) for name, row in rows}
    assert cells["Both &lt;of&gt; them"] == ["", "", "50.00", "49.00", "", ""]
    assert cells["Net, single"] == ["0.25", "1.00", "40.00", "", "47.50", "+2.50"]
    assert cells["other, flip"] == ["0.75", "1.50", "47.50", "", "40.00", "+10.00"]


def test_the_lead_says_that_a_searched_ensemble_flatters(write_report, tmp_path):
    chosen = {"members": [], "miou": {"given": 0.5, "chosen": 0.5}, "alone": {}, "without": {}}
    write_json(tmp_path / "chosen.json", chosen)
    honest = Page(write_report()["html"].read_text()).text
    assert "(Net, one | two + SSA)" in honest and "flatters it. The highest" not in honest
    text = Page(write_report(inputs={"chosen": {"net": tmp_path / "chosen.json"}})["html"].read_text()).text
    assert "searched on these very frames, which flatters it. The highest of the others is" in text
    assert "(Other <x>)" in text.split("The highest of the others is")[1].split(".  ")[0][:40]


def test_what_is_no_search_result_is_named(write_report, tmp_path):
    write_json(tmp_path / "chosen.json", {"members": []})
    with pytest.raises(UserError, match=r"chosen\.json: is not a result of `vss search`"):
        write_report(inputs={"chosen": {"both": tmp_path / "chosen.json"}})


def test_a_run_without_training_and_without_overlays(write_report):
    out = write_report(inputs={"logs": {}, "labels": {}}, settings={"shown": [], "trainings": []})
    text = Page(out["html"].read_text()).text
    assert "Nothing was trained" in text and "No frame to show" in text
    assert cv2.imread(str(out["overlays"])) is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colours": {"walls": "#000000"}}, r"report\.colours: 'walls'"),
        ({"colours": {"wall": "red"}}, r"report\.colours\.wall: is .red."),
        ({"rows": [{"name": "absent", "title": "x"}]}, "'absent'"),
    ],
)
def test_mistakes_are_named(write_report, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        write_report(settings=change)
    assert not (tmp_path / "report").exists()
