"""The page that plays videos: image, truth and predictions under one slider, in one file that needs no network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np
import pandas as pd

from vss.core.confusion import confusion_matrix, iou, mean_iou
from vss.core.images import data_url, read_image
from vss.core.index import Card
from vss.core.label_space import ignore_index
from vss.core.log import log, one_line, track
from vss.core.page.document import document, json_script, resource
from vss.report.overlays import Predictions, scale_image

STORED_WIDTH = 640  # pixels at most: half of a wide page, sharp enough to see a contour
_WEBP_QUALITY = 80
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Video:
    """What the page holds of one video; every list is one entry per frame.

    Attributes:
        name: of the video.
        frames: names of the frames, in order.
        images: data URLs of the images (WebP).
        truth: data URLs of the truth's train ids as PNGs, None where a frame has no mask; red and, above 255, green.
        labels: the same of each prediction.
        scores: mIoU of each prediction's frames in percent, None without truth.
        flicker: percent of the pixels whose truth stays and whose label changes since the frame before; None for the
            first frame. Without truth all pixels count.
        iou: of each prediction, IoU in percent over the frames held, by train id, of the classes that the truth has.
        confusions: of each prediction's frames, pixels by (true, predicted) train id, -1 = no class, where they differ.
        truth_pixels: of each frame, pixels by train id. The page holds neither of these two.
    """

    name: str
    frames: list[str]
    images: list[str]
    truth: list[str | None]
    labels: list[list[str]]
    scores: list[list[float | None]]
    flicker: list[list[float | None]]
    iou: list[dict[int, float]]
    confusions: list[list[dict[tuple[int, int], int]]]
    truth_pixels: list[dict[int, int]]


_NOT_HELD = ("confusions", "truth_pixels")


def read_videos(
    *,
    rows: pd.DataFrame,
    card: Card,
    predictions: Sequence[Predictions],
    shown: Iterable[tuple[str, str]],
    megabytes: float,
) -> list[Video]:
    """Returns what the page holds of its videos, and logs which frames those are.

    Args:
        rows: index rows of the split.
        card: of the dataset.
        predictions: those that can be chosen, in order.
        shown: (video, frame) pairs, one per video. Of a video too long for its part of the budget the frames around
            that one are held.
        megabytes: of all videos at most, shared evenly.
    """
    shown = list(shown)
    videos = []
    for name, middle in shown:
        frames = rows[rows["video"] == name]
        room = megabytes * _MEGABYTE / len(shown)
        held = _around(frames, middle, _fitting(frames[frames["frame"] == middle], card, predictions, room))
        following = track(list(held.itertuples(index=False)), what=f"report: {one_line(name)}")
        videos.append(_video(name, following, card, predictions))
        log(f"report: the viewer holds {len(held)} of the {len(frames)} frames of {one_line(name)}")
    return videos


def viewer_page(
    *,
    title: str,
    card: Card,
    predictions: Sequence[Predictions],
    videos: Sequence[Video],
    colours: np.ndarray,
    megabytes: float,
) -> str:
    """Returns the page as HTML and logs how large it is.

    Args:
        title: plain text.
        card: of the dataset.
        predictions: those that can be chosen, in order.
        videos: as `read_videos` returns them.
        colours: RGB [C or more, 3] uint8 by train id.
        megabytes: of all videos at most.
    """
    content = {
        "classes": [one_line(name.replace("_", " ")) for name in card.classes],
        "colours": ["#" + bytes(colour).hex() for colour in colours[: len(card.classes)]],
        "ignore": card.ignore_index,
        "predictions": [prediction.title for prediction in predictions],
        "videos": [{key: value for key, value in vars(video).items() if key not in _NOT_HELD} for video in videos],
    }
    held = json_script("content", content)
    log(f"report: the viewer takes {len(held) / _MEGABYTE:.1f} MB of at most {megabytes:g} MB")
    body = resource("vss.report", "viewer.html").replace("{title}", escape(title))
    return document(
        title, body + held, style=resource("vss.report", "viewer.css"), script=resource("vss.report", "viewer.js")
    )


@dataclass(frozen=True)
class Places:
    """Where in the viewer something is best seen, as what follows "#" in its address.

    Attributes:
        truth: by train id, where the class is largest.
        classes: of each prediction by train id, where most of the class is missed.
        confusions: of each prediction by (true, predicted) train id, where most pixels are taken so.
    """

    truth: dict[int, str]
    classes: list[dict[int, str]]
    confusions: list[dict[tuple[int, int], str]]


def places(videos: Sequence[Video], classes: Sequence[str], count: int) -> Places:
    """Returns where in the viewer each class and each confusion of `count` predictions is best seen."""
    names = [one_line(name.replace("_", " ")) for name in classes]
    truth: dict[int, tuple[int, Video, int]] = {}
    missed: list[dict[int, tuple[int, Video, int]]] = [{} for _ in range(count)]
    taken: list[dict[tuple[int, int], tuple[int, Video, int]]] = [{} for _ in range(count)]
    for video in videos:
        for frame in range(len(video.frames)):
            for train_id, pixels in video.truth_pixels[frame].items():
                _keep_largest(truth, train_id, pixels, video, frame)
            for member in range(count):
                lost: Counter[int] = Counter()
                for (true, label), pixels in video.confusions[member][frame].items():
                    _keep_largest(taken[member], (true, label), pixels, video, frame)
                    lost[true] += pixels
                for true, pixels in lost.items():
                    _keep_largest(missed[member], true, pixels, video, frame)

    def address(best: tuple[int, Video, int], train_id: int, right: str) -> str:
        _, video, frame = best
        state = {"video": video.name, "frame": video.frames[frame], "left": "truth", "right": right}
        return urlencode(state | {"solo": names[train_id]})

    return Places(
        truth={key: address(best, key, "image") for key, best in truth.items()},
        classes=[
            {key: address(best, key, f"prediction-{member}") for key, best in found.items()}
            for member, found in enumerate(missed)
        ],
        confusions=[
            {key: address(best, key[0], f"errors-{member}") for key, best in found.items()}
            for member, found in enumerate(taken)
        ],
    )


def _keep_largest(best: dict[Any, tuple[int, Video, int]], key: Any, pixels: int, video: Video, frame: int) -> None:
    if pixels > best.get(key, (0,))[0]:
        best[key] = (pixels, video, frame)


def _fitting(row: pd.DataFrame, card: Card, predictions: Sequence[Predictions], room: float) -> int:
    """Returns how many frames fit into `room` bytes, at least one, by what one of them takes."""
    one = _video("", row.itertuples(index=False), card, predictions)
    size = sum(len(text) for text in [*one.images, *filter(None, one.truth), *(maps[0] for maps in one.labels)])
    return max(1, int(room / size))


def _around(frames: pd.DataFrame, middle: str, count: int) -> pd.DataFrame:
    """Returns up to `count` consecutive frames with `middle` near their centre."""
    at = frames["frame"].tolist().index(middle)
    first = max(0, min(at - count // 2, len(frames) - count))
    return frames.iloc[first : first + count]


def _video(name: str, rows: Iterable, card: Card, predictions: Sequence[Predictions]) -> Video:
    """Reads and encodes frames, and counts per frame what the page points to: scores and flicker."""
    count, members = len(card.classes), range(len(predictions))
    each: list[list[list]] = [[[] for _ in members] for _ in range(4)]
    labels_of, scores, flicker, confusions = each
    video = Video(name, [], [], [], labels_of, scores, flicker, [], confusions, [])
    totals = [np.zeros((count, count + 1), np.int64) for _ in members]
    truth_before: np.ndarray | None = None
    before: list[np.ndarray | None] = [None for _ in members]
    for row in rows:
        image = read_image(Path(card.root) / row.image)
        truth = card.read_mask(row.mask) if row.mask else None
        video.frames.append(row.frame)
        video.images.append(data_url(_smaller(image), "webp", quality=_WEBP_QUALITY))
        video.truth.append(None if truth is None else _labels_url(_smaller(truth)))
        video.truth_pixels.append({} if truth is None else _pixels(truth, count))
        for member, prediction in enumerate(predictions):
            labels = prediction.read(row.video, row.frame)
            video.labels[member].append(_labels_url(_smaller(labels)))
            score, wrong = math.nan, {}
            if truth is not None:
                matrix = confusion_matrix(labels, truth, count)
                totals[member] += matrix
                score = mean_iou(matrix)
                wrong = {
                    (true, label if label < count else -1): int(matrix[true, label])
                    for true, label in np.argwhere(matrix).tolist()
                    if true != label
                }
            video.confusions[member].append(wrong)
            video.scores[member].append(None if math.isnan(score) else round(100 * score, 2))
            video.flicker[member].append(_flicker(truth_before, truth, before[member], labels))
            before[member] = labels
        truth_before = truth
    for total in totals:
        values = iou(total)
        present = np.flatnonzero(total.sum(axis=1) > 0)
        video.iou.append({int(train_id): round(100 * float(values[train_id]), 1) for train_id in present})
    return video


def _pixels(truth: np.ndarray, count: int) -> dict[int, int]:
    """Returns the pixels of each class that a label map has, by train id."""
    pixels = np.bincount(truth.ravel(), minlength=count)[:count]
    return {int(train_id): int(pixels[train_id]) for train_id in np.flatnonzero(pixels)}


def _flicker(
    truth_before: np.ndarray | None, truth: np.ndarray | None, before: np.ndarray | None, labels: np.ndarray
) -> float | None:
    """Returns the percentage of pixels whose label changes though their truth does not, None where none can."""
    if before is None or before.shape != labels.shape:
        return None
    counted = np.ones(labels.shape, bool)
    if truth is not None and truth_before is not None and truth.shape == truth_before.shape:
        counted = (truth == truth_before) & (truth != ignore_index(truth.dtype))
    total = int(counted.sum())
    return round(100 * int(((before != labels) & counted).sum()) / total, 2) if total else None


def _smaller(picture: np.ndarray) -> np.ndarray:
    """Returns an image or a label map at most `STORED_WIDTH` wide; labels are sampled, never mixed."""
    height, width = picture.shape[:2]
    if width <= STORED_WIDTH:
        return picture
    if picture.ndim == 3:
        return scale_image(picture, STORED_WIDTH)
    size = (STORED_WIDTH, round(height * STORED_WIDTH / width))
    return cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST_EXACT)


def _labels_url(labels: np.ndarray) -> str:
    if labels.dtype == np.uint16:  # browsers cut 16 bits to 8: the low byte goes to red, the high one to green
        labels = np.dstack([labels & 255, labels >> 8, np.zeros(labels.shape, np.uint8)]).astype(np.uint8)
    return data_url(labels, "png")
