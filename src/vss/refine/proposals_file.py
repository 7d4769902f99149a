"""Stored mask proposals: one HDF5 file per shard of frames, shared by every prediction that is refined.

Layout: that of `FramesWriter`, without classes; groups /frames/<n> with the attribute `form`. Form "partitions" has
the dataset `maps` [S, H, W] uint16 or uint32; form "rle" has the attribute `size` and the datasets `runs` and `lengths`
(see `RunLengths`). All datasets are deflated.
"""

from __future__ import annotations

import h5py
import numpy as np

from vss.core.frames_file import FramesReader, FramesWriter, one_chunk
from vss.refine.proposals import Partitions, Proposals, RunLengths

PROPOSALS_FORMAT, PROPOSALS_VERSION = "vss-proposals", 1


class ProposalsWriter(FramesWriter):
    """Writes the proposals of one shard."""

    FORMAT, VERSION = PROPOSALS_FORMAT, PROPOSALS_VERSION

    def write(self, video: str, frame: str, proposals: Proposals) -> None:
        """Adds one frame's proposals."""
        group = self._frames.create_group(self._new(video, frame))
        group.attrs["video"], group.attrs["frame"] = video, frame
        if isinstance(proposals, Partitions):
            group.attrs["form"] = "partitions"
            _put(group, "maps", proposals.maps)
        else:
            assert isinstance(proposals, RunLengths)
            group.attrs["form"], group.attrs["size"] = "rle", proposals.size
            _put(group, "runs", proposals.runs)
            _put(group, "lengths", proposals.lengths)


def _put(group: h5py.Group, name: str, data: np.ndarray) -> None:
    group.create_dataset(name, data=data, **one_chunk(data))


def _proposals_of(group: h5py.Group) -> Proposals:
    """Reads what `ProposalsWriter.write` wrote.

    Raises:
        ValueError: the arrays do not fit together; what h5py raises, where they are missing or cannot be read.
    """
    form = group.attrs["form"]
    if form == "partitions":
        maps = group["maps"][()]
        if maps.ndim != 3:
            raise ValueError(f"maps have shape {maps.shape}")
        return Partitions(maps)
    if form != "rle":
        raise ValueError(f"form is {form!r}")
    (height, width), runs, lengths = (int(n) for n in group.attrs["size"]), group["runs"][()], group["lengths"][()]
    if lengths.sum() != runs.size:
        raise ValueError(f"{runs.size} runs where {lengths.sum()} are announced")
    return RunLengths((height, width), runs, lengths)


class ProposalsReader(FramesReader):
    """Reads a shard of proposals by (video, frame).

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """

    FORMAT, VERSION = PROPOSALS_FORMAT, PROPOSALS_VERSION
    KIND = "proposals"

    def _read_header(self) -> None:
        pass  # masks without classes

    def read(self, video: str, frame: str) -> Proposals:
        """Returns one frame's proposals.

        Raises:
            UserError: the file has no such frame, or it is broken.
        """
        with self._naming(video, frame):
            return _proposals_of(self._object(video, frame))
