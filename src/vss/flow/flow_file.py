"""Stored optical flow: one HDF5 file per shard of frames, shared by every prediction that is refined along it.

Layout: that of `FramesWriter`, without classes; /frames/<n> is a dataset [2, 2, h, w] int16 in half pixels: forward
flow of the frame to the next one of its video, and backward flow of the next one to it; x, then y; one vector per cell
of 4 x 4 pixels, h and w rounded up. All datasets are deflated. The last frame of a video has no dataset, nor has a
frame whose successor is of another size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vss.core.frames_file import FramesReader, FramesWriter

FLOW_FORMAT, FLOW_VERSION = "vss-flow", 1
CELL = 4  # pixels of a cell's sides
_UNITS = 2  # steps per pixel


class FlowWriter(FramesWriter):
    """Writes the optical flow of one shard."""

    FORMAT, VERSION = FLOW_FORMAT, FLOW_VERSION

    def write(self, video: str, frame: str, forward: np.ndarray, backward: np.ndarray) -> None:
        """Adds the flow between one frame and the next.

        Args:
            video, frame: key of the first of the two.
            forward, backward: displacement in pixels [h, w, 2] float32 of every cell, x first; see the module.
        """
        limit = np.iinfo(np.int16).max
        steps = np.stack([forward, backward]).transpose(0, 3, 1, 2) * _UNITS
        steps = np.rint(np.nan_to_num(steps, nan=limit)).clip(-limit, limit).astype(np.int16)
        self._store_array(video, frame, steps)


class FlowReader(FramesReader):
    """Reads a shard of optical flow by (video, frame).

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """

    FORMAT, VERSION = FLOW_FORMAT, FLOW_VERSION
    KIND = "flow"

    def _read_header(self, header: Mapping[str, Any]) -> None:
        pass  # displacements without classes

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._at

    def read(self, video: str, frame: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns forward and backward flow in pixels [h, w, 2] float32, as `FlowWriter.write` took them, rounded.

        Raises:
            UserError: the file has no such frame, or it is broken.
        """
        steps = self._load_array(video, frame, "int16[4]")
        with self._naming(video, frame):
            if steps.shape[:2] != (2, 2):
                raise ValueError(f"flow has shape {steps.shape}")
        forward, backward = np.ascontiguousarray(steps.transpose(0, 2, 3, 1), np.float32) / _UNITS
        return forward, backward
