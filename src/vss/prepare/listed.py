"""The frames that a split of a dataset lists, where `prepare` has written no index of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vss.configs.datasets import Dataset
from vss.core.errors import UserError
from vss.core.index import INDEX_COLUMNS
from vss.prepare.folders import list_dataset


def listed_rows(dataset: Dataset, root: Path, split: str) -> pd.DataFrame:
    """Returns index rows of a split of a dataset without an index; sizes are 0.

    Raises:
        UserError: the split lists nothing, or what is not there or damaged.
    """
    listing = list_dataset(dataset.layout, root)
    # What is wrong in this split stops: a score of fewer frames would look like that of all.
    for problem in listing.problems:
        if problem.left_out and problem.left_out.split == split:
            named = "" if problem.kind == "list_missing" else f"{problem.kind}: "
            raise UserError(f"{root / problem.file}: {named}{problem.found}")
    rows = [(f.video, f.frame, f.split, f.image, f.mask, 0, 0) for f in listing.frames if f.split == split]
    if not rows:
        source = dataset.layout.list_file(split) if split in dataset.layout.splits else None
        raise UserError(f"{root / (source or '.')}: lists no frame of split {split!r}")
    return pd.DataFrame(rows, columns=list(INDEX_COLUMNS))
