"""The label maps of a prediction: one HDF5 file per shard, lossless."""

from __future__ import annotations

import numpy as np

from vss.core.frames_file import FramesReader, FramesWriter
from vss.core.label_space import label_dtype

LABELS_FORMAT, LABELS_VERSION = "vss-labels", 2


class LabelsWriter(FramesWriter):
    """Writes the label maps of one shard, lossless: each frame is a dataset [H, W] of train ids (`label_dtype`)."""

    FORMAT, VERSION = LABELS_FORMAT, LABELS_VERSION

    def write(self, video: str, frame: str, labels: np.ndarray, *, unrefined: str = "") -> None:
        """Adds one frame's label map.

        Args:
            video, frame: its key.
            labels: [H, W] of train ids 0..num_classes-1, or the ignore index: unknown.
            unrefined: why a refiner kept the labels as they were; empty where it did not.
        """
        assert labels.ndim == 2 and labels.dtype == label_dtype(len(self._classes)), (labels.shape, labels.dtype)
        self._store_array(video, frame, labels, {"unrefined": unrefined} if unrefined else {})


class LabelsReader(FramesReader):
    """Reads a shard of label maps by (video, frame).

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """

    FORMAT, VERSION = LABELS_FORMAT, LABELS_VERSION
    UNCHECKED = (1,)

    def unrefined(self) -> dict[tuple[str, str], str]:
        """Returns the frames (video, frame) whose labels a refiner kept as they were, and why."""
        return self._with_attribute("unrefined")

    def read(self, video: str, frame: str) -> np.ndarray:
        """Returns one frame's label map [H, W], uint8 or of more than 255 classes uint16.

        Raises:
            UserError: the file has no such frame, or it is broken.
        """
        return self._load_array(video, frame, f"{label_dtype(len(self.classes))}[2]")
