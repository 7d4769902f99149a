"""Which classes a prediction rules out where it is not sure enough to give a label.

After U2PL (arXiv 2203.03884, section 3.3): an unreliable pixel still says which classes it is not of.
"""

from __future__ import annotations

import numpy as np

from vss.core.codec import Planes
from vss.core.negatives import MOST_ROWS, Negatives

# The improbable classes that together have at most this probability are ruled out, but never the two most probable
# ones: where a pixel is left out because its class has enough others, ruling out the rest would label it after all.
WRONG_MASS = 0.05
_NEVER = 2


def ruled_out(planes: Planes, pixels: np.ndarray) -> Negatives:
    """Returns which classes some pixels of a frame surely do not have.

    Args:
        planes: the class probabilities.
        pixels: [H, W] bool; of the others nothing is known.
    """
    positions = np.flatnonzero(pixels)
    planes = planes.at(positions)
    # Every class with a plane, and last all those without one, which are as probable as each other. Together they have
    # what the planes leave: the rounding of a hundred small numbers would add up.
    each = np.vstack([planes.planes, planes.rest[None]])  # [A + 1, P]
    together = np.vstack([planes.planes, 1 - planes.planes.sum(axis=0, keepdims=True)])
    order = each.argsort(axis=0, kind="stable")
    below = np.take_along_axis(together, order, 0).cumsum(axis=0)
    wrong = np.empty(each.shape, bool)
    np.put_along_axis(wrong, order, below <= WRONG_MASS, 0)
    first = each[:-1].argsort(axis=0, kind="stable")[-_NEVER:]
    np.put_along_axis(wrong, first, False, 0)

    rows, number, pixels_of = np.unique(np.packbits(wrong, axis=0).T, axis=0, return_inverse=True, return_counts=True)
    return _as_table(rows, number.reshape(-1), pixels_of, planes, positions, pixels.shape)


def _as_table(
    rows: np.ndarray,
    number: np.ndarray,
    pixels_of: np.ndarray,
    planes: Planes,
    positions: np.ndarray,
    shape: tuple[int, ...],
) -> Negatives:
    """Returns the negatives of pixels at flat positions, of which `number` [P] says their row.

    Rows [S, ...] hold packed bits, one for each plane and one for the classes without. A row that rules nothing out
    gets no number; of more rows than a file can number, the rarest are left out.
    """
    bits = np.unpackbits(rows, axis=1, count=len(planes.classes) + 1).astype(bool)
    wrong = np.repeat(bits[:, -1:], planes.num_classes, axis=1)  # [S, C]
    wrong[:, planes.classes] = bits[:, :-1]
    commonest = np.argsort(-pixels_of, kind="stable")
    kept = commonest[wrong[commonest].any(axis=1)][:MOST_ROWS]
    renumbered = np.zeros(len(rows), np.uint8 if len(kept) <= 255 else np.uint16)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    which = np.zeros(shape, renumbered.dtype)
    which.reshape(-1)[positions] = renumbered[number]
    return Negatives(which, wrong[kept])
