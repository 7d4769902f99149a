"""What a reader must know before any figure: on what the scores stand, and what takes from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from vss.core.index import Card
from vss.core.log import one_line

SEARCHED_SPLIT = "val"  # where weights and settings are searched

# The whole of VSPW_480p: a smaller set is said to be one.
VSPW_FRAMES = {"train": 198_244, "val": 24_502, "test": 28_887}
_NAMED = 5  # frames or videos that a notice names


@dataclass(frozen=True)
class Remark:
    """A paragraph, plain text; a notice stands out."""

    text: str
    is_notice: bool = False


def remarks(
    table: pd.DataFrame, *, split: str, card: Card, counts: Mapping[str, int], best: str, searched: Collection[str]
) -> list[Remark]:
    """Returns how much was scored and how well, then the frames left out, drawn data, and a part of VSPW.

    Args:
        table: as `score_table` returns it.
        split: that was scored.
        card: of the dataset.
        counts: `counts` of scores.json.
        best: the prediction with the highest mIoU.
        searched: the ensembles and refinements whose weights or settings were searched on val.
    """
    row = table.set_index("prediction").loc[best]
    said = [
        f"{_many(len(table), 'prediction')} scored on the {split} split: {_many(counts['frames'], 'frame')} of"
        f" {_many(counts['videos'], 'video')}, with {counts['classes_in_truth']} of {len(card.classes)} classes."
    ]
    if pd.notna(row["mIoU"]):
        said.append(f"The highest mIoU is {row['mIoU']:.2f} ({row['title']}).")
        others = table[
            [not any(f"{name}.".startswith(f"{made_of}.") for made_of in searched) for name in table["prediction"]]
        ]
        if split == SEARCHED_SPLIT and best not in set(others["prediction"]):
            said.append("Its weights or settings were searched on these very frames, which flatters it.")
            if others["mIoU"].notna().any():
                honest = others.loc[others["mIoU"].idxmax()]
                said.append(f"The highest of the others is {honest['mIoU']:.2f} ({honest['title']}).")
    return [Remark(" ".join(said)), *_notices(split, card, counts)]


def _notices(split: str, card: Card, counts: Mapping[str, int]) -> list[Remark]:
    found = []
    if left_out := [item for item in card.left_out if item.split == split]:
        names = [one_line("/".join(filter(None, (item.video, item.frame))) or split) for item in left_out]
        named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        found.append(
            f"The scores are of fewer frames than the split lists: {_many(len(left_out), 'frame or video')} could"
            f" not be used and {'was' if len(left_out) == 1 else 'were'} left out ({named})."
        )
    whole = VSPW_FRAMES.get(split)
    if card.drawn:
        found.append(
            "Drawn data. The videos were drawn by this project, so the scores show that every stage works and say"
            " nothing about real video; the paper's figures stand beside them for orientation only."
        )
    elif card.name == "vspw" and whole is not None and counts["frames"] != whole:
        found.append(
            f"Real video, but not the whole of VSPW: {counts['frames']:,} of its {whole:,} {split} frames. The"
            " paper's figures are for the whole and stand here for orientation only."
        )
    return [Remark(text, is_notice=True) for text in found]


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
