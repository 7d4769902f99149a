"""Frames with their labels drawn over them: which ones, and how.

Frames are chosen by the score of the last prediction shown, spread evenly from the worst to the best, so that the page
shows neither only successes nor only failures. The choice depends on the data alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.errors import UserError
from vss.core.frames_file import FrameFiles
from vss.core.images import read_image
from vss.core.index import Card
from vss.core.label_space import ignore_index
from vss.core.labels import overlay_palette
from vss.core.labels_file import LabelsReader
from vss.core.log import one_line, track

PANEL_WIDTH = 640  # pixels: a quarter of a wide page, sharp on a dense screen
CANDIDATES_PER_FRAME = 12  # frames looked at for each one shown: enough for a spread, few enough for 24,502 frames
SMALLEST_IN_LEGEND = 0.002  # classes covering less than this of every panel are left out of the legend
BECAME_RIGHT, BECAME_WRONG = (46, 160, 67), (219, 68, 55)


@dataclass(frozen=True)
class Panel:
    """One picture of a row: RGB [h, PANEL_WIDTH, 3] uint8, a title above it and a note below."""

    title: str
    image: np.ndarray
    note: str


@dataclass(frozen=True)
class FrameRow:
    """One frame: its panels from left to right and the classes to be seen in them (name, RGB), largest first."""

    video: str
    frame: str
    note: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, tuple[int, int, int]], ...]


class Predictions(FrameFiles[LabelsReader]):
    """The label maps of one prediction, whichever shard file they are in."""

    def __init__(self, title: str, paths: Sequence[str | os.PathLike]) -> None:
        super().__init__(LabelsReader, paths)
        self.title = title

    def read(self, video: str, frame: str) -> np.ndarray:
        """Returns a label map [H, W]; a frame that no file has is a `UserError`."""
        return (self.get(video, frame) or self.readers[0]).read(video, frame)


def class_colours(classes: Sequence[str], chosen: Mapping[str, str], colours: Sequence[str] = ()) -> np.ndarray:
    """Returns RGB colours [C or more, 3] uint8 by train id: the overlay palette with the chosen colours in it.

    Args:
        classes: class names, position = train id.
        chosen: '#rrggbb' by class name.
        colours: '#rrggbb' by train id that the dataset gives its classes, '' or nothing where it gives none.

    Raises:
        UserError: a name is no class, or a colour is not of that form.
    """
    palette = overlay_palette(colours, num_classes=len(classes))
    for name, colour in chosen.items():
        if name not in classes:
            raise UserError(f"report.colours: {name!r} is no class of the dataset")
        try:
            palette[classes.index(name)] = tuple(bytes.fromhex(colour.removeprefix("#")))
        except ValueError:
            raise UserError(f"report.colours.{name}: {colour!r} is not of the form #rrggbb") from None
    return palette


def frame_rows(
    *,
    rows: pd.DataFrame,
    card: Card,
    predictions: Sequence[Predictions],
    count: int,
    colours: np.ndarray,
    alpha: float,
) -> list[FrameRow]:
    """Chooses frames and draws their panels: image, truth where there is one, each prediction, what the last changed.

    Args:
        rows: index rows of the split.
        card: of the dataset.
        predictions: those shown, in order; the last one ranks the frames.
        count: how many frames.
        colours: [C or more, 3] uint8 by train id.
        alpha: weight of the colour over the image, 0..1.
    """
    chosen = choose_frames(rows, card=card, prediction=predictions[-1], count=count)
    return [_frame_row(row, note, card, predictions, colours, alpha) for row, note in chosen]


def choose_frames(rows: pd.DataFrame, *, card: Card, prediction: Predictions, count: int) -> list[tuple]:
    """Returns up to `count` (index row, note) pairs, worst frame first.

    Candidates are taken evenly from every video: its middle frame, or more where there are few videos. Without truth
    they are not ranked and come in the index's order.
    """
    if (rows["mask"] != "").any():
        rows = rows[rows["mask"] != ""]
    requested = count * CANDIDATES_PER_FRAME
    videos = [frames for _, frames in rows.groupby("video", sort=True)]
    videos = [videos[at] for at in _evenly(len(videos), min(requested, len(videos)))]
    each = math.ceil(requested / max(1, len(videos)))
    candidates = [
        row
        for frames in videos
        for row in frames.iloc[_evenly(len(frames), min(each, len(frames)), inside=True)].itertuples(index=False)
    ]
    if not candidates or any(row.mask == "" for row in candidates):
        return [(candidates[at], "") for at in _evenly(len(candidates), min(count, len(candidates)), inside=True)]
    scored = []
    for row in track(candidates, what="report: rank frames"):
        score = _frame_score(row, card, prediction.read(row.video, row.frame))
        if not math.isnan(score):
            scored.append((score, row))
    scored.sort(key=lambda item: (item[0], item[1].video, item[1].frame))
    return [(scored[at][1], _rank(at, len(scored))) for at in _evenly(len(scored), min(count, len(scored)))]


def _evenly(total: int, count: int, *, inside: bool = False) -> list[int]:
    """Returns `count` positions of 0..total-1: from the first to the last, or (inside) in the middle of equal parts."""
    if inside or count == 1:
        return [(2 * at + 1) * total // (2 * count) for at in range(count)]
    return [at * (total - 1) // (count - 1) for at in range(count)]


def _rank(position: int, total: int) -> str:
    if total == 1:
        return ""
    place = {0: "worst of", total - 1: "best of", (total - 1) // 2: "median of"}
    return f"{place.get(position, f'number {position + 1} from the worst of')} {total} frames compared"


def _frame_score(row: Any, card: Card, labels: np.ndarray) -> float:
    truth = card.read_mask(row.mask)
    return mean_iou(confusion_matrix(labels, truth, len(card.classes)))


def _frame_row(
    row: Any, note: str, card: Card, predictions: Sequence[Predictions], colours: np.ndarray, alpha: float
) -> FrameRow:
    image = read_image(Path(card.root) / row.image)
    truth = card.read_mask(row.mask) if row.mask else None
    maps = [prediction.read(row.video, row.frame) for prediction in predictions]
    titles = _short_titles([prediction.title for prediction in predictions])
    panels = [Panel("image", scale_image(image, PANEL_WIDTH), f"{image.shape[1]}\u00d7{image.shape[0]}")]
    if truth is not None:
        void = float((truth == card.ignore_index).mean())
        panels.append(
            Panel(
                "truth",
                draw_labels(image, truth, colours, alpha),
                f"{void:.0%} without a class" if void >= 0.005 else "",
            )
        )
    for title, labels in zip(titles, maps, strict=True):
        score = "" if truth is None else f"mIoU {100 * _frame_score(row, card, labels):.1f}"
        panels.append(Panel(title, draw_labels(image, labels, colours, alpha), score))
    if truth is not None and len(maps) > 1:
        panels.append(_change_panel(image, truth, maps[-2], maps[-1]))
    seen = [truth, *maps] if truth is not None else maps
    return FrameRow(row.video, row.frame, note, tuple(panels), _legend(seen, card.classes, colours))


def _short_titles(titles: Sequence[str]) -> list[str]:
    """Returns the titles with what one repeats of the one before left out: a refinement is known by what it adds."""
    short = list(titles)
    for at in range(1, len(titles)):
        if titles[at].startswith(titles[at - 1]):
            short[at] = "\u2026" + titles[at].removeprefix(titles[at - 1])
    return short


def _legend(
    maps: Sequence[np.ndarray], classes: Sequence[str], colours: np.ndarray
) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    shares = np.array(
        [np.bincount(labels.ravel(), minlength=len(classes))[: len(classes)] / labels.size for labels in maps]
    )
    shown = [
        train_id for train_id in np.argsort(-shares[0], kind="stable") if shares[:, train_id].max() > SMALLEST_IN_LEGEND
    ]
    names = [one_line(classes[train_id].replace("_", " ")) for train_id in shown]
    return tuple((name, tuple(colours[train_id].tolist())) for name, train_id in zip(names, shown, strict=True))


def scale_image(image: np.ndarray, width: int) -> np.ndarray:
    """Returns an image [H, W, 3] uint8 scaled to a width: Lanczos up, area average down."""
    height = round(image.shape[0] * width / image.shape[1])
    how = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LANCZOS4
    return cv2.resize(image, (width, height), interpolation=how)


def draw_labels(
    image: np.ndarray, labels: np.ndarray, colours: np.ndarray, alpha: float, width: int = PANEL_WIDTH
) -> np.ndarray:
    """Returns the image with its labels over it and a thin light line between them.

    It is drawn at least twice as large as shown and averaged down, so that edges of small frames are sharp and those of
    large ones smooth. Pixels without a class stay grey.

    Args:
        image: RGB [H, W, 3] uint8.
        labels: train ids [H, W].
        colours: RGB [C or more, 3] uint8 by train id.
        alpha: weight of the colour, 0..1.
        width: of the result in pixels.

    Returns:
        RGB [h, width, 3] uint8.
    """
    enlarged = max(1, math.ceil(2 * width / image.shape[1]))
    large = scale_image(image, image.shape[1] * enlarged).astype(np.float32)
    ids = np.kron(labels, np.ones((enlarged, enlarged), labels.dtype))
    grey = large.mean(axis=2, keepdims=True)
    without = (ids == ignore_index(ids.dtype))[..., None]
    drawn = np.where(without, 0.6 * grey + 60, (1 - alpha) * large + alpha * colours[ids].astype(np.float32))
    line = _borders(ids, max(1, round(0.75 * image.shape[1] * enlarged / width)))[..., None]
    drawn = np.where(line, 0.25 * drawn + 0.75 * 255, drawn)
    return scale_image(np.clip(drawn, 0, 255).round().astype(np.uint8), width)


def _borders(ids: np.ndarray, thickness: int) -> np.ndarray:
    """Returns where a label ends [H, W] bool: the last pixels before another label, both ways, `thickness` wide."""
    edge = np.zeros(ids.shape, np.uint8)
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edge[:-1] |= ids[:-1] != ids[1:]
    return cv2.dilate(edge, np.ones((thickness, thickness), np.uint8)).astype(bool)


def _change_panel(image: np.ndarray, truth: np.ndarray, before: np.ndarray, after: np.ndarray) -> Panel:
    """Marks on a pale image what the last prediction made right (green) and wrong (red) against the one before."""
    known = truth != ignore_index(truth.dtype)
    right = known & (before != truth) & (after == truth)
    wrong = known & (before == truth) & (after != truth)
    enlarged = max(1, math.ceil(2 * PANEL_WIDTH / image.shape[1]))
    large = scale_image(image, image.shape[1] * enlarged)
    drawn = np.repeat((0.45 * large.mean(axis=2, keepdims=True) + 130).astype(np.uint8), 3, axis=2)
    for part, colour in ((right, BECAME_RIGHT), (wrong, BECAME_WRONG)):
        drawn[np.kron(part, np.ones((enlarged, enlarged), bool))] = colour
    share = [float(part.sum()) / max(1, int(known.sum())) for part in (right, wrong)]
    note = f"{share[0]:.1%} became right (green), {share[1]:.1%} wrong (red)"
    return Panel("what changed", scale_image(drawn, PANEL_WIDTH), note)
