"""The page that plays videos: what it holds is what was predicted, and a browser shows it."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest

from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.errors import UserError
from vss.core.index import read_dataset
from vss.core.labels_file import LabelsReader

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def held(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL)[1])


def decoded(url: str) -> np.ndarray:
    kind, _, data = url.partition(";base64,")
    assert kind in ("data:image/png", "data:image/webp")
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)


def test_labels_in_the_page_are_those_predicted(finished_run, written):
    content = held(written["viewer"])
    rows, card = read_dataset(finished_run["index"], finished_run["card"])
    assert content["predictions"] == ["Net, one | two", "Net, one | two + SSA"]
    assert {video["name"] for video in content["videos"]} == set(rows["video"]), "the frames shown are of both"
    for video in content["videos"]:
        assert video["frames"] == rows[rows["video"] == video["name"]]["frame"].tolist()
        for member, name in enumerate(finished_run["settings"]["shown"]):
            with LabelsReader(finished_run["inputs"]["labels"][name][0]) as labels:
                for frame, url in zip(video["frames"], video["labels"][member], strict=True):
                    np.testing.assert_array_equal(decoded(url), labels.read(video["name"], frame))
    assert len(content["classes"]) == len(content["colours"]) == len(card.classes)


def test_flicker_counts_labels_that_change_where_the_truth_does_not(finished_run, written):
    """The truth of these videos stands still, so every known pixel counts."""
    video = next(video for video in held(written["viewer"])["videos"] if video["name"].startswith("a <b>"))
    known = decoded(video["truth"][0]) != 255
    first, second = (decoded(url)[known] for url in video["labels"][0][:2])
    assert video["flicker"][0][0] is None
    assert video["flicker"][0][1] == round(100 * float((first != second).mean()), 2)
    matrix = confusion_matrix(decoded(video["labels"][0][3]), decoded(video["truth"][3]), 124)
    assert video["scores"][0][3] == round(100 * mean_iou(matrix), 2)


def test_a_video_longer_than_its_part_keeps_the_frames_around_the_one_shown(write_report, finished_run):
    settings = finished_run["settings"] | {"videos": ["zw\u00f6lf"], "video_megabytes": 0.003}
    (video,) = held(write_report(settings=settings)["viewer"])["videos"]
    assert 1 <= len(video["frames"]) < 9
    assert "00000004" in video["frames"] or "0004" in video["frames"][len(video["frames"]) // 2]


def test_an_unknown_video_is_named(write_report, finished_run):
    with pytest.raises(
        UserError, match=r"report\.videos: 'zwoelf' is no video of the split; the first of it is 'a <b>"
    ):
        write_report(settings=finished_run["settings"] | {"videos": ["zwoelf"]})


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_the_frame_the_address_names(written, tmp_path):
    """The controls, the legend and the lists follow the address; a solid overlay has the class's colour; no error."""
    content = held(written["viewer"])
    video = next(video for video in content["videos"] if video["name"].startswith("a <b>"))
    state = {"video": video["name"], "frame": video["frames"][2], "left": "truth", "right": "truth", "alpha": 100}
    address = f"{written['viewer'].as_uri()}#{urlencode(state)}"
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr",
               "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars",
               "--virtual-time-budget=8000", "--window-size=400,900"]  # fmt: skip
    done = subprocess.run([*browser, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    assert 'data-ready="' in done.stdout
    text = html.unescape(
        re.sub(r"<[^>]*>", " ", done.stdout[done.stdout.index("<body") : done.stdout.index("application/json")])
    )
    assert f"{video['frames'][2]}, 3 of 10" in text
    names = [content["classes"][label] for label in (0, 1)]
    assert all(name in text for name in names), "both classes of the truth are in the legend"
    assert "a <b> & --c" in text, "a hostile name is text"
    shot = tmp_path / "shot.png"
    subprocess.run([*browser, f"--screenshot={shot}", address], capture_output=True, timeout=120, check=True)
    picture = cv2.cvtColor(cv2.imread(str(shot)), cv2.COLOR_BGR2RGB).reshape(-1, 3)
    for label in (0, 1):
        colour = np.frombuffer(bytes.fromhex(content["colours"][label][1:]), np.uint8)
        assert (picture == colour).all(axis=1).mean() > 0.03, "the class's colour fills its part of the picture"
