"""Class scores of a frame in the form that votes read: one byte per pixel and class that is in the frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vss.core.codec import Planes
from vss.core.errors import UserError
from vss.core.label_space import ignore_index
from vss.core.scores_file import ScoresReader


@dataclass(frozen=True)
class SoftLabels:
    """One frame's class scores.

    The probability that a class without scores has of a pixel is subtracted from all: it decides no vote.

    Attributes:
        classes: ascending ids of the A classes that have scores [A].
        shares: [A, H, W] uint8 by how many 255ths a class's probability exceeds that of a class without scores.
        top: [H, W] uint8 the share of the pixel's label.
    """

    classes: np.ndarray
    shares: np.ndarray
    top: np.ndarray

    @classmethod
    def of(cls, planes: Planes) -> SoftLabels:
        """Rounds a frame's stored probabilities to 255ths."""
        shares = np.empty(planes.planes.shape, np.uint8)
        for share, plane in zip(shares, planes.planes, strict=True):
            np.rint((plane - planes.rest) * 255, out=share, casting="unsafe")
        plane_of = np.zeros(ignore_index(planes.labels.dtype) + 1, np.intp)
        plane_of[planes.classes] = np.arange(len(planes.classes))
        top = np.take_along_axis(shares, plane_of[planes.labels][None], axis=0)[0]
        return cls(planes.classes, shares, top)


def read_soft_labels(reader: ScoresReader, video: str, frame: str, labels: np.ndarray) -> SoftLabels:
    """Reads the class scores of which a frame's labels [H, W] are the argmax.

    Raises:
        UserError: the file has no such frame, or its labels are others.
    """
    planes = reader.read_planes(video, frame)
    # An imported label map may have pixels without a class; in its scores all classes are equal there.
    known = labels != ignore_index(labels.dtype)
    if planes.labels.shape != labels.shape or (planes.labels != labels)[known].any():
        raise UserError(f"{reader.path}: frame {frame!r} of video {video!r} is not that of the labels file")
    return SoftLabels.of(planes)
