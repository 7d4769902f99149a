"""Class probabilities of a frame, small: what a scores file keeps of [C, H, W] floats, and the way back.

A segmentation network computes its score map at a quarter of the frame's size or coarser and resizes it, so a class
probability is smooth over a few pixels, and almost all of the 124 classes are nowhere in the frame. Kept are therefore

- the label map, whole (the model's classes are never changed by storing them);
- one plane for each class that is somewhere in the frame: its probability at every second row and column, in 255 steps,
  or in 1020 where many pixels hardly prefer their class and a step would decide them;
- the mass that no plane holds: not stored, it is what is missing to 1, shared equally by all classes;
- corrections, where a plane interpolated back to full size misses the truth by more than a tolerance: at thin things
  and sharp edges. They make the error bounded everywhere, not on average.

Planes are stored as differences along rows and columns, which two `cumsum` undo, and signs are folded in (0, -1, 1, -2,
... as 0, 1, 2, 3, ...): what a general compressor needs to see. `docs/formats.md` shows the three lines of numpy that
read them; `docs/scores.md` the sizes and errors measured.

numpy only: the stages that read scores need no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vss.core.label_space import ignore_index, label_dtype


@dataclass(frozen=True)
class Grid:
    """How finely the probabilities of a frame are stored.

    Attributes:
        levels: steps from the lowest probability of the frame to the highest.
        dtype: of the codes.
        tolerance: steps that an interpolated plane may miss the truth by; half a step is the planes' own rounding.
        max_codes: codes kept on average at a sampled pixel. A frame with more of them (a long tail of hardly probable
            classes) loses its smallest: they would cost a megabyte and decide next to nothing.
    """

    levels: int
    dtype: type[np.unsignedinteger]
    tolerance: float
    max_codes: int


STRIDE = 2
FIX_UNIT = 0.5  # steps
COARSE = Grid(levels=255, dtype=np.uint8, tolerance=0.55, max_codes=10)
FINE = Grid(levels=1020, dtype=np.uint16, tolerance=0.8, max_codes=20)
# Share of the pixels that may prefer their class by less than a coarse step; a frame with more of them is kept finely.
UNDECIDED = 1.5e-3
_NUDGE = np.float32(1e-6)  # by which the label's class is put above an equal one


@dataclass(frozen=True)
class Encoded:
    """One frame's class probabilities as they are stored.

    Attributes:
        labels: argmax of the probabilities [H, W] of `label_dtype`.
        classes: ascending ids of the A classes that have a plane [A] of the same dtype.
        shares: their planes [A, ceil(H / stride), ceil(W / stride)] uint8 or uint16, in steps above the shared
            remainder, as differences along the last two axes, signs folded in.
        fix_at: flat positions in [A + 1, H, W] that are corrected, as differences, [n] uint32; the last plane is the
            remainder.
        fix_by: corrections in half steps, signs folded in, [n] uint16.
        step: probability of one step (about 1/255 or 1/1020; less where the highest probability is low).
        num_classes: C.
        stride: distance in pixels between the samples of a plane.
        deadzone: smallest code kept; 1 except in frames of many hardly probable classes.
    """

    labels: np.ndarray
    classes: np.ndarray
    shares: np.ndarray
    fix_at: np.ndarray
    fix_by: np.ndarray
    step: float
    num_classes: int
    stride: int
    deadzone: int

    @property
    def grid(self) -> Grid:
        """How finely this frame is stored."""
        return COARSE if self.shares.dtype == COARSE.dtype else FINE

    @property
    def tolerance(self) -> float:
        """By how many steps a probability may be off before it is corrected; more where the tail is long."""
        return max(self.deadzone / 2 if self.deadzone > 2 else 0, self.grid.tolerance)

    def codes(self) -> np.ndarray:
        """Returns the samples [A, h, w] in steps above the remainder."""
        steps, dtype = unfolded(self.shares), self.shares.dtype
        return steps.cumsum(axis=1, dtype=dtype).cumsum(axis=2, dtype=dtype)


@dataclass(frozen=True)
class Planes:
    """One frame's class probabilities at full size, without the planes that are the same for many classes.

    Attributes:
        classes: ascending ids of the A classes that have a plane [A].
        planes: their probabilities [A, H, W] float32, 0..1.
        rest: the probability of each other class [H, W] float32, 0..1.
        labels: argmax [H, W] of `label_dtype`.
        num_classes: C. `planes.sum(0) + (C - A) * rest` is 1 within rounding to steps.
    """

    classes: np.ndarray
    planes: np.ndarray
    rest: np.ndarray
    labels: np.ndarray
    num_classes: int

    def at(self, positions: np.ndarray) -> Planes:
        """Returns the probabilities of P pixels, given by flat positions: planes [A, P], rest and labels [P]."""
        planes = self.planes.reshape(len(self.planes), -1)[:, positions]
        rest, labels = self.rest.reshape(-1)[positions], self.labels.reshape(-1)[positions]
        return Planes(self.classes, planes, rest, labels, self.num_classes)

    def dense(self) -> np.ndarray:
        """Returns the probabilities of all classes [C, H, W] float32."""
        dense = np.empty((self.num_classes, *self.rest.shape), np.float32)
        dense[:] = self.rest
        dense[self.classes] = self.planes
        return dense


def encode(probabilities: np.ndarray, labels: np.ndarray | None = None, *, stride: int = STRIDE) -> Encoded:
    """Reduces class probabilities to what is stored.

    Args:
        probabilities: [C, H, W] float32, 0..1, summing to 1 over C.
        labels: their argmax [H, W] of `label_dtype` if the caller has it already; a tie goes to the lower class.
        stride: 1 stores every pixel of a plane, 2 every second row and column.

    Returns:
        The stored form. `decode` gives back the same argmax at every pixel. A probability that rises at least
        `deadzone` steps above the remainder comes back within `tolerance` steps, a smaller one within the larger of
        `deadzone` and `tolerance`; one of a class without a plane within twice that.
    """
    num_classes = len(probabilities)
    dtype = label_dtype(num_classes)
    if labels is None:
        labels = probabilities.argmax(axis=0).astype(dtype)
    # The grid: samples count in steps from the lowest probability of their pixel, which is the shared remainder.
    sampled = probabilities[:, ::stride, ::stride]
    floor = sampled.min(axis=0)
    highest = probabilities.reshape(num_classes, -1).max(axis=1)
    span = max(float(highest.max()) - float(floor.min()), 1e-6)
    grid = _grid(sampled, labels[::stride, ::stride], span)
    step = span / grid.levels
    if floor.max() > step:  # no class is nowhere: what counts is what rises above the lowest
        lowest = probabilities.min(axis=0)
        highest = np.array([(plane - lowest).max() for plane in probabilities])
    # A class has a plane where it is some pixel's label, or rises above the remainder by more than is tolerated.
    named = np.zeros(num_classes, bool)
    named[np.unique(labels)] = True
    classes = np.flatnonzero(named | (highest > grid.tolerance * step))
    codes = _quantised(sampled[classes] - floor, step, grid)
    # A long tail of hardly probable classes is cut where it would cost a megabyte.
    deadzone = _deadzone(codes, grid)
    if deadzone > 1:
        codes[codes < deadzone] = 0
        kept = named[classes] | (highest[classes] > deadzone * step) | codes.any(axis=(1, 2))
        classes, codes = classes[kept], codes[kept]
    # What decodes from this alone is compared with the truth, and corrected where it is off by more than is tolerated.
    empty = Encoded(
        labels=labels,
        classes=classes.astype(dtype),
        shares=folded(_differences(codes)),
        fix_at=np.empty(0, np.uint32),
        fix_by=np.empty(0, np.uint16),
        step=step,
        num_classes=num_classes,
        stride=stride,
        deadzone=deadzone,
    )
    at, by = _corrections(probabilities, classes, codes, empty)
    return replace(empty, fix_at=np.diff(at, prepend=0).astype(np.uint32), fix_by=folded(by))


def decode(encoded: Encoded) -> Planes:
    """Gives back the probabilities of a stored frame."""
    stack = _at_full_size(encoded.codes(), encoded.step, encoded.labels.shape, encoded.stride, encoded.num_classes)
    fix_by = unfolded(encoded.fix_by).view(np.int16)
    stack.reshape(-1)[encoded.fix_at.cumsum(dtype=np.int64)] += fix_by * np.float32(FIX_UNIT * encoded.step)
    np.maximum(stack, 0, out=stack)
    put_label_first(stack, encoded.classes, encoded.labels)
    return Planes(encoded.classes, stack[:-1], stack[-1], encoded.labels, encoded.num_classes)


def folded(signed: np.ndarray) -> np.ndarray:
    """Returns unsigned numbers 0, 1, 2, 3, ... for 0, -1, 1, -2, ...; those of uint8 and uint16 count as signed."""
    wide = signed.view(f"i{signed.itemsize}")
    return ((wide << 1) ^ (wide >> (8 * signed.itemsize - 1))).view(f"u{signed.itemsize}")


def unfolded(numbers: np.ndarray) -> np.ndarray:
    """Undoes `folded`, in the same unsigned type (modulo 256 or 65536)."""
    return (numbers >> 1) ^ -(numbers & 1)


def _grid(sampled: np.ndarray, labels: np.ndarray, span: float) -> Grid:
    """Chooses the grid by how many sampled pixels prefer their class by less than a coarse step."""
    others = sampled.copy()
    which = labels[None].astype(np.intp)
    np.put_along_axis(others, which, -1, 0)
    margin = np.take_along_axis(sampled, which, 0)[0] - others.max(axis=0)
    return FINE if (margin < span / COARSE.levels).mean() > UNDECIDED else COARSE


def _quantised(samples: np.ndarray, step: float, grid: Grid) -> np.ndarray:
    """Returns samples [A, h, w] in whole steps, in the grid's dtype, never summing to more than 1 at a pixel."""
    codes = np.rint(samples * np.float32(1 / step)).astype(grid.dtype)
    allowed = int(1 / step)
    excess = codes.sum(axis=0, dtype=np.int32) - allowed
    if (excess > 0).any():
        # Rounding up several classes at once: the surplus is taken from the largest, where it matters least.
        top = codes.argmax(axis=0)[None]
        largest = np.take_along_axis(codes, top, 0).astype(np.int32)
        reduced = np.maximum(largest - np.maximum(excess, 0), 0)
        np.put_along_axis(codes, top, reduced.astype(grid.dtype), 0)
    return codes


def _deadzone(codes: np.ndarray, grid: Grid) -> int:
    """Returns the smallest code to keep so that at most `max_codes` per pixel are left on average."""
    _, h, w = codes.shape
    allowed = grid.max_codes * h * w
    deadzone = 1
    while np.count_nonzero(codes >= deadzone) > allowed:
        deadzone += 1
    return deadzone


def _differences(codes: np.ndarray) -> np.ndarray:
    """Returns [A, h, w] whose two cumulative sums (rows, then columns), modulo what the dtype holds, are `codes`."""
    zero = codes.dtype.type(0)
    return np.diff(np.diff(codes, axis=2, prepend=zero), axis=1, prepend=zero)


def _at_full_size(codes: np.ndarray, step: float, size: tuple[int, int], stride: int, num_classes: int) -> np.ndarray:
    """Returns probabilities [A + 1, H, W] float32: each class's, and last that of every class without a plane.

    Samples stay where they were taken; between them the probabilities are interpolated.
    """
    assert stride in (1, 2), stride
    stack = np.empty((len(codes) + 1, *size), np.float32)
    planes, rest = stack[:-1], stack[-1]
    total = np.zeros(size, np.float32)
    for plane, code in zip(planes, codes, strict=True):
        sample = code * np.float32(step)
        if stride == 2:
            tall = np.empty((size[0], sample.shape[1]), np.float32)
            _interleave(sample, tall)
            _interleave(tall.T, plane.T)
            np.maximum(plane, 0, out=plane)  # the cubic overshoots at edges
        else:
            plane[:] = sample
        total += plane
    np.subtract(1, total, out=rest)
    np.maximum(rest, 0, out=rest)
    rest /= np.float32(num_classes)
    planes += rest
    return stack


def _interleave(samples: np.ndarray, out: np.ndarray) -> None:
    """Fills every second row of `out` with `samples`, and the rows between by cubic interpolation (-1, 9, 9, -1) / 16.

    Past the last sample it is repeated; so are the outer ones where the interpolation reaches past them.
    """
    out[0::2] = samples
    if len(out) % 2 == 0:
        out[-1] = samples[-1]
    between = out[1 : 2 * len(samples) - 2 : 2]
    if len(between) == 0:
        return
    np.add(samples[:-1], samples[1:], out=between)
    between *= np.float32(9 / 16)
    outer = samples * np.float32(1 / 16)
    between[1:] -= outer[:-2]
    between[0] -= outer[0]
    between[:-1] -= outer[2:]
    between[-1] -= outer[-1]


def _corrections(
    probabilities: np.ndarray, classes: np.ndarray, codes: np.ndarray, encoded: Encoded
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where, as ascending flat positions in [A + 1, H, W], and by how much what is decoded is put right."""
    num_classes, H, W = probabilities.shape
    step, deadzone = encoded.step, encoded.deadzone
    stack = _at_full_size(codes, step, (H, W), encoded.stride, num_classes)
    rest = stack[-1].copy()
    limit = encoded.tolerance * step
    at, by = [], []
    others = np.ones((H, W), np.float32)  # true mean probability of a class without a plane
    missed, size = np.empty((H, W), np.float32), np.empty((H, W), np.float32)
    for i, guess in enumerate(stack):
        # The last plane is that of every class without one: its truth is their mean.
        if i < len(classes):
            truth = probabilities[classes[i]]
            others -= truth
        elif len(classes) < num_classes:
            truth = others / (num_classes - len(classes))
        else:
            break
        np.subtract(truth, guess, out=missed)
        bad = np.flatnonzero(np.abs(missed, out=size) > limit)
        # A probability that the cut took away is let go, unless it missed by more than the cut itself.
        if deadzone > 1:
            small = (truth.reshape(-1)[bad] - rest.reshape(-1)[bad]) < deadzone * step
            bad = bad[~small | (size.reshape(-1)[bad] > deadzone * step)]
        at.append(bad + i * missed.size)
        by.append(np.rint(missed.reshape(-1)[bad] * np.float32(1 / (FIX_UNIT * step))).astype(np.int16))
    return np.concatenate(at), np.concatenate(by)


def put_label_first(stack: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> None:
    """Raises the label's class just above all others where it is not already, in place.

    Args:
        stack: probabilities [A + 1, H, W] float32, the last plane being that of every class without one.
        classes: ids of the A classes.
        labels: ids [H, W], each one of `classes`.
    """
    plane_of = np.zeros(ignore_index(labels.dtype) + 1, np.intp)
    plane_of[classes] = np.arange(len(classes))
    which = plane_of[labels][None]
    own = np.take_along_axis(stack, which, 0)
    np.put_along_axis(stack, which, -1, 0)
    others = stack.max(axis=0, keepdims=True)
    np.put_along_axis(stack, which, np.maximum(own, others * (1 + _NUDGE) + _NUDGE), 0)
