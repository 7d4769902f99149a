"""The dataset index and its card: which frames there are, in which shard each one is, and what their labels mean."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vss.core.errors import UserError
from vss.core.files import JsonObject, atomic_path, read_json, regular_file, sha256_of_file, write_json
from vss.core.images import read_mask, read_raw_mask
from vss.core.label_space import ignore_index, label_dtype
from vss.core.labels import overlay_palette
from vss.core.masks import PLAIN_IDS, MaskCoding
from vss.core.order import natural_key
from vss.core.shards import shard_of

INDEX_COLUMNS = ("video", "frame", "split", "image", "mask", "height", "width")
INDEX_KEY = ("split", "video", "frame")  # what a row is found and sorted by
_RAW_IDS = 256  # of a mask of one byte per pixel


@dataclass(frozen=True)
class LeftOut:
    """What a dataset's lists or folders promise and its index lacks, because `on_problem: skip` left it out.

    Attributes:
        split: "train", "val" or "test".
        video: its id; "" where the whole split is left out.
        frame: its name; "" where the whole video is left out.
        reason: kind of problem, for example "image_broken"; docs/your-data.md lists them.
    """

    split: str
    video: str
    frame: str
    reason: str


@dataclass(frozen=True)
class Card:
    """What a dataset index means: where its files are and how its masks map to train ids.

    Attributes:
        name: the dataset's key in the config's `data`, such as "vspw".
        root: folder that the index's paths are relative to.
        classes: class names, position = train id.
        label_map: 256 or more train ids, position = raw id of the masks; `ignore_index` = ignore.
        drawn: True where the data were drawn by this project.
        frames: number of index rows by split.
        sha256: of the index file.
        content: by split, a digest of the files of a real dataset (`dataset_content`); empty for a drawn one.
        left_out: what the index lacks because of problems; empty where there were none.
        space: name of the label space that the train ids are of, where it is not that of the dataset.
        colours: "#rrggbb" by train id, "" for the overlay palette's; empty where the class table gives none.
        coding: how the masks hold raw ids.
        ignored: raw ids that mean "no label".
        layout: where the files of a real dataset are (`DatasetLayout.to_json`); empty for a drawn one.
    """

    name: str
    root: str
    classes: list[str]
    label_map: list[int]
    drawn: bool
    frames: dict[str, int]
    sha256: str
    content: dict[str, str] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    space: str = ""
    colours: tuple[str, ...] = ()
    coding: MaskCoding = PLAIN_IDS
    ignored: tuple[int, ...] = ()
    layout: JsonObject = field(default_factory=dict)

    @property
    def label_space(self) -> str:
        """Returns the name of the label space that the train ids are of."""
        return self.space or self.name

    @property
    def label_dtype(self) -> np.dtype:
        """Returns the dtype of label maps of its classes."""
        return label_dtype(len(self.classes))

    @property
    def ignore_index(self) -> int:
        """Returns which value of label maps of its classes is no class."""
        return ignore_index(self.label_dtype)

    @cached_property
    def raw_to_train(self) -> np.ndarray:
        """Returns `label_map` as a table [256 or more] of `label_dtype`."""
        return np.asarray(self.label_map, self.label_dtype)

    def palette(self) -> np.ndarray:
        """Returns the RGB colours [256 or 65536, 3] uint8 that label maps are shown in, by train id."""
        return overlay_palette(self.colours, num_classes=len(self.classes))

    def read_raw_mask(self, mask: str) -> np.ndarray:
        """Decodes a mask of the index to raw ids [H, W], uint8 or uint16."""
        return read_raw_mask(os.path.join(self.root, mask), self.coding)

    def read_mask(self, mask: str) -> np.ndarray:
        """Decodes a mask of the index to train ids [H, W] of `label_dtype`."""
        return read_mask(os.path.join(self.root, mask), self.raw_to_train, self.coding)


def write_index(index: str | os.PathLike, rows: pd.DataFrame) -> None:
    """Writes one row per frame with `INDEX_COLUMNS`, sorted by split, video and, in natural order, frame."""
    with atomic_path(index) as aside:
        _in_order(rows.loc[:, list(INDEX_COLUMNS)]).to_csv(aside, index=False, lineterminator="\n")


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    columns = zip(table["split"], table["video"], table["frame"], strict=True)
    keys = [(split, video, natural_key(frame)) for split, video, frame in columns]
    return table.iloc[sorted(range(len(table)), key=keys.__getitem__)]


def read_index(index: str | os.PathLike) -> pd.DataFrame:
    """Reads a dataset index: strings stay strings (a frame may be called 00000001), a missing mask is "".

    Rows are in the order of `write_index`, whatever their order in the file (early versions wrote text order).
    """
    try:
        table = pd.read_csv(regular_file(index), dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{index}: no such dataset index; run the prepare stage") from None
    except OSError as error:
        raise UserError(f"{index}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{index}: not a dataset index ({error})") from None
    if tuple(table.columns) != INDEX_COLUMNS:
        raise UserError(f"{index}: columns are {list(table.columns)}, expected {list(INDEX_COLUMNS)}")
    try:
        table = table.astype({"height": int, "width": int})
    except (ValueError, OverflowError) as error:
        raise UserError(f"{index}: height and width must be whole numbers ({error})") from None
    _check_rows(table, index)
    return _in_order(table).reset_index(drop=True)


def _check_rows(table: pd.DataFrame, index: str | os.PathLike) -> None:
    mistakes = {
        "the frame is there twice": table.duplicated(list(INDEX_KEY)),
        "height and width must be at least 1": (table["height"] < 1) | (table["width"] < 1),
        **{
            f"{column} must be below the dataset's root": table[column].str.contains(r"^/|(?:^|/)\.\.(?:/|$)|\0")
            for column in ("image", "mask")
        },
    }
    for mistake, found in mistakes.items():
        if found.any():
            row = table[found].iloc[0]
            raise UserError(f"{index}: {row.split!r}, {row.video!r}, {row.frame!r}: {mistake}; run prepare again")


def read_dataset(index: str | os.PathLike, card: str | os.PathLike) -> tuple[pd.DataFrame, Card]:
    """Reads a dataset's index and card.

    Raises:
        UserError: one of them cannot be read, or the card was written for another index.
    """
    table, dataset = read_index(index), read_card(card)
    if dataset.sha256 != sha256_of_file(index):
        raise UserError(f"{index}: not the index that {card} was written for, it was cut or changed; run prepare again")
    return table, dataset


def write_card(path: str | os.PathLike, card: Card) -> None:
    """Writes a dataset card as JSON."""
    write_json(path, asdict(card))


def prepared_folder(results: Path, classes: Sequence[str], provenance: Mapping[str, Any]) -> Path | None:
    """Returns the folder of the prepared dataset that a prediction is of, None where the results folder has none.

    Args:
        results: the results folder.
        classes: that the prediction's files name.
        provenance: of its files. Without the digest of an index there, a dataset of these classes is taken.
    """
    datasets = [(path.parent, read_card(path)) for path in sorted(results.glob("prepare/*/dataset.json"))]
    made_with = [folder for folder, card in datasets if card.sha256 == provenance.get("index_sha256")]
    of_classes = [folder for folder, card in datasets if card.classes == list(classes)]
    return next(iter([*made_with, *of_classes]), None)


def read_card(path: str | os.PathLike) -> Card:
    """Reads a dataset card; anything else is a `UserError` that names the file."""
    try:
        return _card_of(read_json(path))
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a dataset card ({error})") from None


def _card_of(content: JsonObject) -> Card:
    left_out = tuple(LeftOut(**item) for item in content.get("left_out", ()))
    coding = MaskCoding.from_json(content.get("coding", {}))
    tuples = {key: tuple(content.get(key, ())) for key in ("colours", "ignored")}
    card = Card(**{**content, **tuples, "left_out": left_out, "coding": coding})
    _check_card(card)
    return card


def _check_card(card: Card) -> None:
    if not (isinstance(card.root, str) and "\0" not in card.root):
        raise ValueError(f"root is {card.root!r}, must be a path")
    if not (isinstance(card.classes, list) and all(isinstance(name, str) for name in card.classes)):
        raise ValueError("classes must be a list of names")
    if not (isinstance(card.content, dict) and isinstance(card.frames, dict)):
        raise ValueError("content and frames must be maps by split")
    allowed = {*range(len(card.classes)), card.ignore_index}
    if wrong := [value for value in card.label_map if type(value) is not int or value not in allowed]:
        raise ValueError(
            f"label_map holds {wrong[0]!r}, must hold train ids of the {len(card.classes)} classes or"
            f" {card.ignore_index}"
        )
    if 0 < len(card.label_map) < _RAW_IDS:
        raise ValueError(f"label_map has {len(card.label_map)} entries, must have one for each of {_RAW_IDS} values")


def shard_rows(index: pd.DataFrame, *, split: str, shard: int, shards: int) -> pd.DataFrame:
    """Returns the index rows of one shard of a split, in index order.

    Raises:
        UserError: there is no such shard.
    """
    if not 0 <= shard < shards:
        raise UserError(f"shard: found shard {shard} of {shards}; shards are counted from 0, and there is at least one")
    rows = index[index["split"] == split]
    shard_of_video = {video: shard_of(video, shards) for video in rows["video"].unique()}
    return rows[rows["video"].map(shard_of_video) == shard]
