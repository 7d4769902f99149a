"""Pictures of frames for the page of a comparison: as many as there are files left to draw them from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny_dataset import write_dataset, write_labels

from vss.core.index import read_card, write_card
from vss.score.compare_page import comparison_page
from vss.score.compare_pictures import frame_pictures

FRAME = ("v", "00000001")


def test_frames_are_drawn_as_long_as_their_files_are_there(tmp_path):
    """The dataset's root is relative to where the run was started, which is not where it is compared."""
    dataset = write_dataset(tmp_path / "prepare" / "vspw", {"v": [np.full((6, 9), 3, np.uint8)] * 2})
    write_card(dataset.card, replace(read_card(dataset.card), root=f"{tmp_path.name}/prepare/vspw"))
    for name in ("one", "two"):
        labels = {"v": [np.full((6, 9), len(name), np.uint8)] * 2}
        write_labels(tmp_path / "predictions" / name / "val" / "00.labels.h5", labels)
    one, two, other = (tmp_path / "score" / name / "val" for name in ("one", "two", "other"))
    drawn = frame_pictures(one, two, [FRAME, ("v", "00000009")])
    assert list(drawn) == [FRAME] and [name for name, _ in drawn[FRAME]] == ["truth", "first", "second"]
    assert frame_pictures(one, other, [FRAME]) == {}
    row = {"video": "v", "frame": FRAME[1], "first": 0.5, "second": 0.25, "difference": -0.25}
    found = {
        "name": "<b>", "videos": 1, "figures": {}, "settings": {"a.b_c": [1, 2]}, "only_first": {}, "only_second": {},
        "frames": {"lost": [row]}, "per_class": [], "per_video": [],
    }  # fmt: skip
    page = comparison_page({"first": "a", "second": "b", "split": "val", "predictions": [found]}, [drawn])
    assert page.count("data:image/jpeg") == 3 and "v / 00000001 lost -25.00" in page and "<b>" not in page
    assert ">a.<wbr>b_<wbr>c<" in page
    (tmp_path / "prepare" / "vspw" / "0" / "00000001.jpg").unlink()
    assert frame_pictures(one, two, [FRAME]) == {}
