"""The class probabilities of a prediction: one HDF5 file per shard, in the compact form of `vss.core.codec`."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from vss.core import codec
from vss.core.frames_file import FramesReader, FramesWriter, read_own_array

SCORES_FORMAT, SCORES_VERSION = "vss-scores", 3
# Types and numbers of axes of the arrays of a frame.
_KINDS = {
    "labels": ("uint8[2]", "uint16[2]"),
    "classes": ("uint8[1]", "uint16[1]"),
    "shares": ("uint8[3]", "uint16[3]"),
    "fix_at": ("uint32[1]",),
    "fix_by": ("uint16[1]",),
}


class ScoresWriter(FramesWriter):
    """Writes the class probabilities of one shard in the compact form of `vss.core.codec`.

    Each frame is a group with the arrays of `codec.Encoded` as datasets (`labels`, `classes`, `shares`, `fix_at`,
    `fix_by`) and its numbers as attributes (`step`, `stride`, `num_classes`, `deadzone`). See docs/formats.md.
    """

    FORMAT, VERSION = SCORES_FORMAT, SCORES_VERSION

    def write(self, video: str, frame: str, probabilities: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Adds one frame's class probabilities.

        Args:
            video, frame: its key.
            probabilities: [C, H, W] float32, 0..1, summing to 1 over C.
            labels: their argmax [H, W], if the caller has it.
        """
        assert len(probabilities) == len(self._classes), (probabilities.shape, len(self._classes))
        self.write_encoded(video, frame, codec.encode(probabilities, labels))

    def write_encoded(self, video: str, frame: str, encoded: codec.Encoded) -> None:
        """Adds one frame that is already in its stored form."""
        values = {field.name: getattr(encoded, field.name) for field in fields(codec.Encoded)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        numbers = {name: value for name, value in values.items() if name not in arrays}
        self._store_group(video, frame, arrays, numbers)


class ScoresReader(FramesReader):
    """Reads a shard of class probabilities by (video, frame).

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """

    FORMAT, VERSION = SCORES_FORMAT, SCORES_VERSION
    UNCHECKED = (2,)

    def read(self, video: str, frame: str) -> np.ndarray:
        """Returns one frame's class probabilities [C, H, W] float32.

        Raises:
            UserError: the file has no such frame, or it is broken.
        """
        return self.read_planes(video, frame).dense()

    def read_classes(self, video: str, frame: str) -> np.ndarray:
        """Returns the ids of the classes that have a plane in a frame [A], reading nothing else."""
        with self._naming(video, frame):
            return read_own_array(self._group(video, frame), "classes", _KINDS["classes"])

    def read_planes(self, video: str, frame: str) -> codec.Planes:
        """Returns one frame's class probabilities without the planes that are the same for many classes."""
        encoded = self.read_encoded(video, frame)
        with self._naming(video, frame):
            return codec.decode(encoded)

    def read_encoded(self, video: str, frame: str) -> codec.Encoded:
        """Returns one frame in its stored form."""
        arrays, attributes = self._load_group(video, frame, _KINDS)
        with self._naming(video, frame):
            values = {
                field.name: arrays[field.name] if field.name in _KINDS else attributes[field.name].item()
                for field in fields(codec.Encoded)
            }
            if values["stride"] not in (1, 2):
                raise ValueError(f"stride is {values['stride']}")
        return codec.Encoded(**values)
