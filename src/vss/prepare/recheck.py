"""A prepared dataset whose files have changed since: masks may be replaced without a new index, and are checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from vss.core.dataset_content import dataset_content
from vss.core.dataset_layout import DatasetLayout
from vss.core.errors import UserError
from vss.core.index import Card, read_dataset, write_card
from vss.prepare.checks import CheckedFrame, MaskLabels, check_frames, check_labels
from vss.prepare.listing import Listing, RawFrame

_SHOWN = 3


def check_masks(*, index: str | os.PathLike, card: str | os.PathLike, split: str, out: str | os.PathLike) -> None:
    """Writes the card of one split with the digest of its files as they are now, which are checked where they changed.

    Args:
        index, card: of the dataset.
        split: "train", "val" or "test".
        out: card to write; what reads the split's masks takes this one, and reruns when it changes.

    Raises:
        UserError: a file of the split cannot be used any more.
    """
    rows, dataset = read_dataset(index, card)
    write_card(out, replace(dataset, content=checked_content(rows, dataset, [split])))


def checked_content(rows: pd.DataFrame, dataset: Card, splits: Iterable[str]) -> dict[str, str]:
    """Returns by split the digest of a real dataset's files as they are now; nothing for a drawn one.

    The files of a split whose digest is not the card's are checked, as by `checks: full`.

    Raises:
        UserError: a changed split has a file that cannot be used.
    """
    splits = [split for split in splits if split in dataset.content]
    if not splits or not dataset.layout:  # a card of an earlier version has none
        return {split: dataset.content[split] for split in splits}
    now = dataset_content(DatasetLayout.from_json(dataset.layout, where=dataset.name), dataset.root)
    for split in splits:
        if now[split] != dataset.content[split]:
            _check(rows[rows["split"] == split], dataset, split)
    return {split: now[split] for split in splits}


def _check(rows: pd.DataFrame, dataset: Card, split: str) -> None:
    frames = [RawFrame(row.video, row.frame, split, row.image, row.mask) for row in rows.itertuples(index=False)]
    checked = list(check_frames(frames, root=Path(dataset.root), labels=MaskLabels.of_card(dataset), checks="full"))
    listing = Listing()
    check_labels(checked, listing)
    found = [problem.line() for item in checked for problem in item.problems]
    found += [problem.line() for problem in listing.problems] + list(_other_sizes(checked, rows))
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UserError(
            f"{dataset.root}: files of {split} have changed and cannot be used: {'; '.join(found[:_SHOWN])}{more}; fix"
            " them and rerun"
        )


def _other_sizes(checked: list[CheckedFrame], rows: pd.DataFrame) -> Iterator[str]:
    for item, height, width in zip(checked, rows["height"], rows["width"], strict=True):
        if item.height and (item.height, item.width) != (height, width):
            yield f"{item.frame.image}: is {item.width}x{item.height}, the index says {width}x{height}"
