"""Measures what storing class scores costs and changes: `python -m benchmarks.scores`, `make bench-scores`.

The material is real: softmax volumes of three published networks on eight frames of a labelled clip, resized as a
network's head does it. Cases by how the probabilities at full size come about:

- `masks`: probabilities resized bilinearly (Mask2Former);
- `logits`: logits resized bilinearly, then softmax (UperNet);
- `views`: the mean of six scales of the latter (test-time augmentation), each with its own noise;
- `second softmax`: `masks` through one more softmax (Mask2Former as published).

Sizes are measured at 480x853. Agreement and mIoU are those of the equally weighted ensemble of the three, at the
clip's own 360x480: there the volumes are resized by exactly 4, as a network's score map is.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py
import hdf5plugin
import numpy as np

from benchmarks.shared import shared_folder, write_rows
from vss.core import codec
from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.images import read_mask
from vss.core.labels import VSPW
from vss.core.log import log
from vss.core.scores_file import ScoresReader, ScoresWriter

_SHARED = shared_folder() / "data"
SAMPLE = _SHARED / "preds" / "prob_sample_camvid_0016E5_8f.npz"
MASKS = _SHARED / "VSPW_480p" / "data" / "camvid_0016E5" / "mask"
FULL_SIZE, CLIP_SIZE = (480, 853), (360, 480)
_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_TABLES = {"espnet_camvid": "camvid12_to_vspw", "espnetv2_city": "city20_to_vspw", "espnet_city": "city20_to_vspw"}

Volume = np.ndarray  # [k, 90, 120] uint8 softmax over a network's own classes


# ---- material


def _resize(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in planes])


def _softmax(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits - logits.max(axis=0))
    return values / values.sum(axis=0)


def _logits(volume: Volume) -> np.ndarray:
    return np.log((volume.astype(np.float32) + 0.05) / 255)


def masks(volume: Volume, size: tuple[int, int]) -> np.ndarray:
    """Probabilities resized."""
    values = _resize(volume.astype(np.float32) / 255, size)
    return values / values.sum(axis=0)


def logits(volume: Volume, size: tuple[int, int]) -> np.ndarray:
    """Logits resized, then softmax."""
    return _softmax(_resize(_logits(volume), size))


def views(volume: Volume, size: tuple[int, int]) -> np.ndarray:
    """The mean over six scales; each view's score map is a quarter of its size and has noise of its own."""
    random = np.random.default_rng(0)
    total = np.zeros((len(volume), *size), np.float32)
    for scale in _SCALES:
        native = _resize(_logits(volume), (int(size[0] * scale / 4), int(size[1] * scale / 4)))
        native += random.normal(0, 0.15, native.shape).astype(np.float32)
        total += _softmax(_resize(native, size)) / len(_SCALES)
    return total


def _as_vspw(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Moves a network's classes [k, H, W] to VSPW's [124, H, W]; what has no VSPW class is shared by all."""
    out = np.zeros((VSPW.num_classes, *values.shape[1:]), np.float32)
    for plane, raw in zip(values, table, strict=True):
        if raw > 0:
            out[raw - 1] += plane
    out += values[table <= 0].sum(axis=0) / VSPW.num_classes
    return out / out.sum(axis=0)


CASES: dict[str, Callable[[Volume, tuple[int, int]], np.ndarray]] = {
    "masks": masks,
    "logits": logits,
    "views": views,
    "second softmax": masks,
}


def members(sample: Any, case: str, frame: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Returns the probabilities [124, H, W] float32 of each network for a frame of the sample."""
    found = [_as_vspw(CASES[case](sample[net][frame], size), sample[table]) for net, table in _TABLES.items()]
    return [_softmax(dense) for dense in found] if case == "second softmax" else found


# ---- peers: other ways to store a frame


def _stored(arrays: dict[str, np.ndarray], **settings: Any) -> int:
    """Returns the bytes of arrays in an HDF5 file, one chunk each."""
    with h5py.File("in memory", "w", driver="core", backing_store=False) as file:
        sets = [file.create_dataset(n, data=a, chunks=a.shape, **settings) for n, a in arrays.items() if a.size]
        file.flush()
        return sum(dataset.id.get_storage_size() for dataset in sets)


def top_three(dense: np.ndarray) -> tuple[int, np.ndarray]:
    """The three most probable classes of every pixel and their probabilities in 255 steps, under zstd."""
    ids = np.argpartition(-dense, 2, axis=0)[:3]
    share = np.rint(np.take_along_axis(dense, ids, 0) * 255).astype(np.uint8)
    size = _stored({"ids": ids.astype(np.uint8), "share": share}, **hdf5plugin.Zstd(clevel=9))
    back = np.zeros_like(dense)
    np.put_along_axis(back, ids, share / np.float32(255), 0)
    return size, back + (1 - back.sum(axis=0)) / len(dense)


def all_in_eight_bits(dense: np.ndarray) -> tuple[int, np.ndarray]:
    """Every class of every pixel in 255 steps, under zstd."""
    codes = np.rint(dense * 255).astype(np.uint8)
    return _stored({"codes": codes}, **hdf5plugin.Zstd(clevel=9)), codes / np.float32(255)


def half_floats(dense: np.ndarray) -> tuple[int, np.ndarray]:
    """Every class of every pixel as float16, shuffled, under zstd."""
    values = dense.astype(np.float16)
    return _stored({"values": values}, **hdf5plugin.Blosc(cname="zstd", clevel=1)), values.astype(np.float32)


def ours(dense: np.ndarray, stride: int = codec.STRIDE) -> tuple[int, np.ndarray]:
    """What a scores file holds for the frame, all of it, and what is read from it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frame.scores.h5")
        with ScoresWriter(path, classes=VSPW.classes, provenance={}) as writer:
            writer.write_encoded("v", "f", codec.encode(dense, stride=stride))
        with ScoresReader(path) as reader:
            back = reader.read("v", "f")
        return os.path.getsize(path), back


def ours_whole(dense: np.ndarray) -> tuple[int, np.ndarray]:
    """The same with planes at every pixel."""
    return ours(dense, stride=1)


WAYS = {"vss": ours, "vss, stride 1": ours_whole, "top 3 of 124": top_three, "all in 8 bits": all_in_eight_bits,
        "float16, zstd": half_floats}  # fmt: skip
_PEERS_ON = "views"


# ---- measurements


def _rows(sample: Any, mask_folder: Path, frames: int) -> Iterator[dict[str, Any]]:
    dense_bytes = VSPW.num_classes * FULL_SIZE[0] * FULL_SIZE[1] * 2
    names = [str(name) for name in sample["frames"][:frames]]
    for case in CASES:
        for way, store in WAYS.items():
            if way != "vss" and case != _PEERS_ON:
                continue
            label = f"{case}, {way}"
            few = names if way == "vss" else names[:2]
            sizes = [store(dense)[0] for k in range(len(few[::4])) for dense in members(sample, case, 4 * k, FULL_SIZE)]
            yield _row(
                f"bytes per frame: {label}", float(np.mean(sizes)), dense_bytes, "B", dense_bytes / np.mean(sizes)
            )
            agree, miou = _ensemble(sample, case, store, mask_folder, few)
            yield _row(f"ensemble agrees: {label}", agree, 100.0, "% of pixels", agree / 100, equal=agree >= 99.95)
            dense_miou, stored_miou = 100 * miou[0], 100 * miou[1]
            same = abs(dense_miou - stored_miou) <= 0.02
            yield _row(f"ensemble mIoU: {label}", stored_miou, dense_miou, "%", stored_miou / dense_miou, equal=same)
    yield from _times(members(sample, "views", 0, FULL_SIZE)[1])


def _row(case: str, found: float, peer: float, unit: str, ratio: float, equal: bool | None = None) -> dict[str, Any]:
    row = {"case": case, "ours": found, "peer": peer, "unit": unit, "ratio": float(ratio), "equal": equal}
    log(f"{case}: {found:.6g} against {peer:.6g} {unit}")
    return row


def _ensemble(
    sample: Any, case: str, store: Callable[[np.ndarray], tuple[int, np.ndarray]], mask_folder: Path, names: list[str]
) -> tuple[float, tuple[float, float]]:
    """Returns the percentage of pixels on which stored and dense ensemble agree, and the mIoU of (dense, stored)."""
    same, confusion = [], [0, 0]
    for frame, name in enumerate(names):
        each = members(sample, case, frame, CLIP_SIZE)
        labels = [sum(each).argmax(axis=0), sum(store(dense)[1] for dense in each).argmax(axis=0)]
        same.append((labels[0] == labels[1]).mean())
        mask = f"{int(Path(name).stem.split('_')[1]):08d}.png"  # 0016E5_07959.png is frame 00007959 of the clip
        truth = read_mask(mask_folder / mask, VSPW.raw_to_train())
        for which, found in enumerate(labels):
            confusion[which] = confusion[which] + confusion_matrix(found.astype(np.uint8), truth, VSPW.num_classes)
    return 100 * float(np.mean(same)), (mean_iou(confusion[0]), mean_iou(confusion[1]))


def _times(dense: np.ndarray) -> Iterator[dict[str, Any]]:
    labels = dense.argmax(axis=0).astype(np.uint8)
    encoded = codec.encode(dense, labels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frames.scores.h5")

        def write() -> None:
            with ScoresWriter(path, classes=VSPW.classes, provenance={}) as writer:
                writer.write("v", "f", dense, labels)

        def read() -> None:
            with ScoresReader(path) as reader:
                reader.read_planes("v", "f")

        peer = _milliseconds(lambda: half_floats(dense))
        calls = {
            "encode a frame": lambda: codec.encode(dense, labels),
            "decode a frame": lambda: codec.decode(encoded),
            "encode and write a file of one frame": write,
            "open, read and decode a file of one frame": read,
        }
        for case, call in calls.items():
            found = _milliseconds(call)
            yield _row(case, found, peer, "ms", peer / found)


def _milliseconds(call: Callable[[], object], times: int = 5) -> float:
    """Returns the median CPU time of a call: the machine may be shared."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return 1e3 * float(np.median(taken))


def main() -> None:
    """Measures and writes the rows; the peer is dense float16 (its times: zstd and one more conversion)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scores", description=main.__doc__)
    parser.add_argument("--sample", type=Path, default=SAMPLE, help="real softmax volumes (npz)")
    parser.add_argument("--masks", type=Path, default=MASKS, help="folder of the clip's raw masks")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("results/bench/scores.json"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    write_rows(options.out, list(_rows(np.load(options.sample), options.masks, options.frames)))


if __name__ == "__main__":
    main()
