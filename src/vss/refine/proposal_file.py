"""Stored mask proposals: one HDF5 file a shard of frames, shared by every prediction that is refined.

Layout: root attributes `format`, `version`, `provenance` (JSON); groups /frames/<n> with attributes `video`, `frame`
and `form`. Form "partitions" has the dataset `maps` [S, H, W] uint16; form "rle" has the attribute `size` and the
datasets `runs` and `lengths` (see `RunLengths`). All datasets are deflated.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vss import formats
from vss.errors import UserError
from vss.refine.proposals import Partitions, Proposals, RunLengths

FORMAT = ("vss-proposals", 1)


class ProposalsWriter:
    """Writes the proposals of one shard; a context manager, and the file appears only when its block ends well."""

    def __init__(self, path: str | os.PathLike, *, provenance: dict[str, Any]) -> None:
        self._path, self._provenance = Path(path), provenance

    def __enter__(self) -> ProposalsWriter:
        self._context = formats.atomic_path(self._path)
        self._file = h5py.File(self._context.__enter__(), "w", libver=("v110", "v110"))
        self._file.attrs["format"], self._file.attrs["version"] = FORMAT
        self._file.attrs["provenance"] = formats.canonical_json(self._provenance)
        self._frames = self._file.create_group("frames", track_order=True)
        return self

    def write(self, video: str, frame: str, proposals: Proposals) -> None:
        """Adds one frame's proposals."""
        group = self._frames.create_group(str(len(self._frames)))
        group.attrs["video"], group.attrs["frame"] = video, frame
        if isinstance(proposals, Partitions):
            group.attrs["form"] = "partitions"
            _deflated(group, "maps", proposals.maps)
        else:
            assert isinstance(proposals, RunLengths)
            group.attrs["form"], group.attrs["size"] = "rle", proposals.size
            _deflated(group, "runs", proposals.runs)
            _deflated(group, "lengths", proposals.lengths)

    def __exit__(self, *exception: Any) -> None:
        self._file.close()
        self._context.__exit__(*exception)


def _deflated(group: h5py.Group, name: str, data: np.ndarray) -> None:
    if data.size:
        group.create_dataset(name, data=data, chunks=data.shape, compression="gzip", shuffle=True)
    else:  # HDF5 has no chunks of size 0
        group.create_dataset(name, data=data)


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


class ProposalsReader:
    """Reads a shard of proposals by (video, frame).

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._file = formats.open_hdf5(path, FORMAT, kind="proposals")
        try:
            self.provenance: dict[str, Any] = json.loads(self._file.attrs["provenance"])
            self._at = {(g.attrs["video"], g.attrs["frame"]): name for name, g in self._file["frames"].items()}
        except formats.BROKEN_HDF5 as error:
            self._file.close()
            raise UserError(f"{path}: broken proposals file ({error}); delete it and make it again") from None

    def keys(self) -> list[tuple[str, str]]:
        """Returns every (video, frame) of the file."""
        return list(self._at)

    def read(self, video: str, frame: str) -> Proposals:
        """Returns one frame's proposals.

        Raises:
            UserError: the file has no such frame, or it is broken.
        """
        if (video, frame) not in self._at:
            raise UserError(f"{self.path}: no proposals for frame {frame!r} of video {video!r}")
        try:
            return _proposals_of(self._file["frames"][self._at[video, frame]])
        except formats.BROKEN_HDF5 as error:
            raise UserError(f"{self.path}: frame {frame!r} of video {video!r} is broken ({error})") from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ProposalsReader:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
