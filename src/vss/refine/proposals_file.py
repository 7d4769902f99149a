"""Stored mask proposals: one HDF5 file per shard of frames, shared by every prediction that is refined.

Layout: that of `FramesWriter`, without classes; groups /frames/<n> with the attribute `form`. Form "partitions" has
the dataset `maps` [S, H, W] uint16 or uint32; form "rle" has the attribute `size` and the datasets `runs` and `lengths`
(see `RunLengths`); form "tubes" has those of "rle" and the dataset `ids`. All datasets are deflated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vss.core.frames_file import FramesReader, FramesWriter
from vss.refine.proposals import Partitions, Proposals, RunLengths

PROPOSALS_FORMAT, PROPOSALS_VERSION = "vss-proposals", 2
# Types and numbers of axes of the arrays of a frame.
_KINDS = {"maps": ("uint16[3]", "uint32[3]"), "runs": ("uint32[1]",), "lengths": ("int64[1]",), "ids": ("int64[1]",)}


class ProposalsWriter(FramesWriter):
    """Writes the proposals of one shard."""

    FORMAT, VERSION = PROPOSALS_FORMAT, PROPOSALS_VERSION

    def write(self, video: str, frame: str, proposals: Proposals) -> None:
        """Adds one frame's proposals."""
        if isinstance(proposals, Partitions):
            self._store_group(video, frame, {"maps": proposals.maps}, {"form": "partitions"})
        else:
            assert isinstance(proposals, RunLengths)
            arrays = {"runs": proposals.runs, "lengths": proposals.lengths}
            arrays |= {} if proposals.ids is None else {"ids": proposals.ids}
            form = "rle" if proposals.ids is None else "tubes"
            self._store_group(video, frame, arrays, {"form": form, "size": proposals.size})


def _proposals_of(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> Proposals:
    """Returns the proposals that `ProposalsWriter.write` stored.

    Raises:
        ValueError: the arrays do not fit together.
        KeyError: one is missing.
    """
    form = attributes["form"]
    if form == "partitions":
        return Partitions(arrays["maps"])
    if form not in ("rle", "tubes"):
        raise ValueError(f"form is {form!r}")
    (height, width), runs, lengths = (int(n) for n in attributes["size"]), arrays["runs"], arrays["lengths"]
    if lengths.sum() != runs.size:
        raise ValueError(f"{runs.size} runs where {lengths.sum()} are expected")
    ids = arrays["ids"] if form == "tubes" else None
    if ids is not None and len(np.unique(ids)) != len(lengths):
        raise ValueError(f"{len(np.unique(ids))} ids of {len(lengths)} masks")
    return RunLengths((height, width), runs, lengths, ids)


class ProposalsReader(FramesReader):
    """Reads a shard of proposals by (video, frame).

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """

    FORMAT, VERSION = PROPOSALS_FORMAT, PROPOSALS_VERSION
    UNCHECKED = (1,)
    KIND = "proposals"

    def _read_header(self, header: Mapping[str, Any]) -> None:
        pass  # masks without classes

    def forms(self) -> set[str]:
        """Returns in which forms the file has proposals: "partitions", "rle", "tubes"."""
        return {str(form) for form in self._with_attribute("form").values()}

    def read(self, video: str, frame: str) -> Proposals:
        """Returns one frame's proposals.

        Raises:
            UserError: the file has no such frame, or it is broken.
        """
        arrays, attributes = self._load_group(video, frame, _KINDS)
        with self._naming(video, frame):
            return _proposals_of(arrays, attributes)
