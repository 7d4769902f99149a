"""Class probabilities of a frame, small: what a scores file keeps of [C, H, W] floats, and the way back.

A segmentation network computes its score map at a quarter of the frame's size or coarser and resizes it, so a class
probability is smooth over a few pixels, and almost all of the 124 classes are nowhere in the frame. Kept are therefore

- the label map, whole (what the model says is never changed by storing it);
- one plane for each class that is somewhere in the frame: its probability at every second row and column, in 255 steps;
- the mass that no plane holds: not stored, it is what is missing to 1, shared equally by all classes;
- corrections, where a plane interpolated back to full size misses the truth by more than `TOLERANCE` steps: at thin
  things and sharp edges. They make the error bounded everywhere, not on average.

Planes are stored as differences along rows and columns, modulo 256, which undoes by two `cumsum` and is what a general
compressor needs to see. `docs/formats.md` shows the three lines of numpy that read them; `docs/scores.md` the sizes and
errors measured.

numpy only: the stages that read scores need no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STRIDE = 2
LEVELS = 255
TOLERANCE = 0.55  # steps; half a step is the rounding of the planes themselves
FIX_UNIT = 0.5  # steps
# Codes kept on average at a sampled pixel. A frame with more of them (a long tail of hardly probable classes) loses its
# smallest: they would cost a megabyte and decide next to nothing.
MAX_CODES = 10
_NUDGE = np.float32(1e-6)  # by which the label's class is put above an equal one


@dataclass(frozen=True)
class Encoded:
    """One frame's class probabilities as they are stored.

    Attributes:
        labels: argmax of the probabilities [H, W] uint8.
        classes: ascending ids of the A classes that have a plane [A] uint8.
        shares: their planes [A, ceil(H / stride), ceil(W / stride)] uint8, in steps above the shared remainder, as
            differences along the last two axes modulo 256.
        fix_at: flat positions in [A + 1, H, W] that are corrected, as differences, [n] uint32; the last plane is the
            remainder.
        fix_by: corrections in half steps, [n] int16.
        step: probability of one step (about 1/255; less where the whole frame is undecided).
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


@dataclass(frozen=True)
class Planes:
    """One frame's class probabilities at full size, without the planes that are the same for many classes.

    Attributes:
        classes: ascending ids of the A classes that have a plane [A].
        planes: their probabilities [A, H, W] float32, 0..1.
        rest: the probability of each other class [H, W] float32, 0..1.
        labels: argmax [H, W] uint8.
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
        probabilities: [C, H, W] float32, 0..1, summing to 1 over C; C at most 255.
        labels: their argmax [H, W] uint8 if the caller has it already; a tie goes to the lower class.
        stride: 1 stores every pixel of a plane, 2 every second row and column.

    Returns:
        The stored form. `decode` gives back the same argmax at every pixel. A probability that rises at least
        `deadzone` steps above the remainder comes back within `tolerance(deadzone)` steps, a smaller one within
        `deadzone` steps; one of a class without a plane within twice that.
    """
    num_classes = len(probabilities)
    assert 1 < num_classes <= 255, num_classes
    if labels is None:
        labels = probabilities.argmax(axis=0).astype(np.uint8)
    sampled = probabilities[:, ::stride, ::stride]
    floor = sampled.min(axis=0)
    highest = probabilities.reshape(num_classes, -1).max(axis=1)
    step = max(float(highest.max()) - float(floor.min()), 1e-6) / LEVELS
    if floor.max() > step:  # no class is nowhere: what counts is what rises above the lowest
        lowest = probabilities.min(axis=0)
        highest = np.array([(plane - lowest).max() for plane in probabilities])
    named = np.zeros(num_classes, bool)
    named[np.unique(labels)] = True
    classes = np.flatnonzero(named | (highest > TOLERANCE * step))
    codes = _quantised(sampled[classes] - floor, step)
    deadzone = _deadzone(codes)
    if deadzone > 1:
        codes[codes < deadzone] = 0
        kept = named[classes] | (highest[classes] > deadzone * step) | codes.any(axis=(1, 2))
        classes, codes = classes[kept], codes[kept]
    at, by = _corrections(probabilities, classes, codes, step, stride, deadzone)
    return Encoded(
        labels=labels,
        classes=classes.astype(np.uint8),
        shares=_differences(codes),
        fix_at=np.diff(at, prepend=0).astype(np.uint32),
        fix_by=by,
        step=step,
        num_classes=num_classes,
        stride=stride,
        deadzone=deadzone,
    )


def tolerance(deadzone: int) -> float:
    """Returns by how many steps a probability may be off before it is corrected; more where the tail is long."""
    return deadzone / 2 if deadzone > 2 else TOLERANCE


def decode(encoded: Encoded) -> Planes:
    """Gives back the probabilities of a stored frame."""
    codes = encoded.shares.cumsum(axis=1, dtype=np.uint8).cumsum(axis=2, dtype=np.uint8)
    stack = _at_full_size(codes, encoded.step, encoded.labels.shape, encoded.stride, encoded.num_classes)
    stack.reshape(-1)[encoded.fix_at.cumsum(dtype=np.int64)] += encoded.fix_by * np.float32(FIX_UNIT * encoded.step)
    np.maximum(stack, 0, out=stack)
    put_label_first(stack, encoded.classes, encoded.labels)
    return Planes(encoded.classes, stack[:-1], stack[-1], encoded.labels, encoded.num_classes)


def _quantised(samples: np.ndarray, step: float) -> np.ndarray:
    """Returns samples [A, h, w] in whole steps, uint8, never summing to more than 1 at a pixel."""
    codes = np.rint(samples * np.float32(1 / step)).astype(np.uint8)
    allowed = int(1 / step)
    excess = codes.sum(axis=0, dtype=np.int32) - allowed
    if (excess > 0).any():
        # Rounding up several classes at once: the surplus is taken from the largest, where it matters least.
        top = codes.argmax(axis=0)[None]
        largest = np.take_along_axis(codes, top, 0).astype(np.int32)
        reduced = np.maximum(largest - np.maximum(excess, 0), 0)
        np.put_along_axis(codes, top, reduced.astype(np.uint8), 0)
    return codes


def _deadzone(codes: np.ndarray) -> int:
    """Returns the smallest code to keep so that at most `MAX_CODES` a pixel are left on average."""
    _, h, w = codes.shape
    allowed = MAX_CODES * h * w
    deadzone = 1
    while np.count_nonzero(codes >= deadzone) > allowed:
        deadzone += 1
    return deadzone


def _differences(codes: np.ndarray) -> np.ndarray:
    """Returns [A, h, w] uint8 whose two cumulative sums (rows, then columns) modulo 256 are `codes`."""
    across = np.diff(codes, axis=2, prepend=np.uint8(0))
    return np.diff(across, axis=1, prepend=np.uint8(0))


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
    probabilities: np.ndarray, classes: np.ndarray, codes: np.ndarray, step: float, stride: int, deadzone: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where, as ascending flat positions in [A + 1, H, W], and by how much what is decoded is put right."""
    num_classes, H, W = probabilities.shape
    stack = _at_full_size(codes, step, (H, W), stride, num_classes)
    rest = stack[-1].copy()
    limit = tolerance(deadzone) * step
    at, by = [], []
    others = np.ones((H, W), np.float32)  # true mean probability of a class without a plane
    missed, size = np.empty((H, W), np.float32), np.empty((H, W), np.float32)
    for i, guess in enumerate(stack):
        if i < len(classes):
            truth = probabilities[classes[i]]
            others -= truth
        elif len(classes) < num_classes:
            truth = others / (num_classes - len(classes))
        else:
            break
        np.subtract(truth, guess, out=missed)
        bad = np.flatnonzero(np.abs(missed, out=size) > limit)
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
    plane_of = np.zeros(256, np.intp)
    plane_of[classes] = np.arange(len(classes))
    which = plane_of[labels][None]
    own = np.take_along_axis(stack, which, 0)
    np.put_along_axis(stack, which, -1, 0)
    others = stack.max(axis=0, keepdims=True)
    np.put_along_axis(stack, which, np.maximum(own, others * (1 + _NUDGE) + _NUDGE), 0)
