"""Measures refinement against the peers: `python -m benchmarks.refine`, `make bench-refine`.

- The vote of SSA against the authors' loop over masks (sam/sam_post.py, its rule written again): equal label maps.
- CascadePSP against `segmentation_refinement.Refiner.refine`: the same random weights, equal masks.
- `only_uncertain` against whole parts: passes of CascadePSP's network over a frame, to which its time is in proportion.
- Optical flow by DIS: frames per second of one core.
- The vote over time, from labels and from class scores: frames per second of one core, flow and scores given.
- The vote in tubes of superpixels, from labels: seconds per frame of the superpixels, and of linking and voting.
- Proposals of SAM against the package's mask generator: a small SAM with random weights, equal masks.

The material is a real labelled clip with real networks' predictions, enlarged to 480x853 except for the networks. One
thread; CPU time, the fastest of the rounds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.utils.amg import mask_to_rle_pytorch
from segmentation_refinement import Refiner
from segmentation_refinement.models.psp.pspnet import RefinementModule

from benchmarks.scores import masks as resized_scores
from benchmarks.shared import shared_folder, write_rows
from vss.configs.schema import read_section
from vss.core import codec
from vss.core.images import read_image, read_raw_mask
from vss.core.labels import VSPW
from vss.core.log import log
from vss.flow.run import cell_means, open_method
from vss.refine.cascadepsp import high_res, image_tensor, mask_tensor
from vss.refine.network import load_network
from vss.refine.parts import around_uncertain, split_components
from vss.refine.proposals import RunLengths
from vss.refine.sam import SamProposer, SamShape, build_sam
from vss.refine.settings import FelzenszwalbSettings
from vss.refine.soft_labels import SoftLabels
from vss.refine.ssa import vote_proposals
from vss.refine.superpixels import build_superpixels
from vss.refine.temporal import PredictedFrame, TemporalSettings, agreement, smooth
from vss.refine.tubes import MaskedFrame, TubesSettings, vote_in_tubes

_SHARED = shared_folder() / "data"
IMAGES = _SHARED / "VSPW_480p" / "data" / "camvid_0016E5" / "origin"
LABELS = _SHARED / "preds" / "espnetv2_s2.0_cityscapes" / "camvid_0016E5"
SAMPLE = _SHARED / "preds" / "prob_sample_camvid_0016E5_8f.npz"
SIZE, SMALL = (480, 853), (96, 128)
SMALL_SAM = SamShape(64, 2, 2, (1,), grid=16, patch_size=16, window_size=4, out_chans=32)
EVERY_MASK = {"pred_iou_thresh": -1e9, "stability_score_thresh": 0.0, "points_per_side": 8}  # weights are random

Result = TypeVar("Result")


def main() -> None:
    """Measures and writes the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refine", description=main.__doc__)
    parser.add_argument("--frames", type=int, default=30, help="frames of the vote over time")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/bench/refine.json"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    clip = read_clip(options.frames)
    rows = [
        ssa(clip[0].labels, read_colour(0), options.rounds),
        cascadepsp(read_colour(0, SMALL), clip[0].labels, options.rounds),
        only_uncertain(clip),
        optical_flow(options.rounds),
        over_time("labels", clip, options.rounds),
        over_time("class scores", with_scores(), options.rounds),
        *in_tubes(clip, options.rounds),
        sam_proposals(read_colour(0, SMALL), options.rounds),
    ]
    for row in rows:
        log(f"{row['case']}: {row['ours']:.4g} against {row['peer']} {row['unit']}, equal: {row['equal']}")
    write_rows(options.out, rows)


def row(case: str, ours: float, peer: float | None, unit: str, equal: bool | None) -> dict[str, Any]:
    """Returns a row; `ratio` is how many times as good ours is. Raises where results that are compared differ."""
    assert equal is not False, case
    less_is_better = not unit.startswith("frames/s")
    ratio = None if peer is None else (peer / ours if less_is_better else ours / peer)
    return {"case": case, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "equal": equal}


def fastest(call: Callable[[], Result], rounds: int) -> tuple[float, Result]:
    """Returns the least CPU time in seconds, and what the call returned."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        result = call()
        taken.append(time.process_time() - start)
    return min(taken), result


# ---- material


def names() -> list[str]:
    """Returns the names of the clip's frames."""
    return sorted(path.stem for path in IMAGES.glob("*.jpg"))


def read_colour(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Returns a frame of the clip [H, W, 3] uint8 RGB."""
    return cv2.resize(read_image(IMAGES / f"{names()[number]}.jpg"), size[::-1], interpolation=cv2.INTER_AREA)


def read_clip(count: int) -> list[PredictedFrame]:
    """Returns frames of the clip with a network's labels and the flow between them."""
    labels = []
    for name in names()[:count]:
        found = read_raw_mask(LABELS / f"{name}.png")
        found = VSPW.raw_to_train()[np.where(found == 0, 1, found)].astype(np.uint8)
        labels.append(cv2.resize(found, SIZE[::-1], interpolation=cv2.INTER_NEAREST))
    return linked([cv2.cvtColor(read_colour(n), cv2.COLOR_RGB2GRAY) for n in range(len(labels))], labels)


def with_scores(count: int = 24) -> list[PredictedFrame]:
    """Returns the frames that class scores are known of, back and forth, with these as they are stored."""
    sample = np.load(SAMPLE)
    volumes, table = sample["espnetv2_city"], VSPW.raw_to_train()[np.maximum(sample["city20_to_vspw"], 1)]
    planes = []
    for volume in volumes:
        dense = np.zeros((len(VSPW.classes), *SIZE), np.float32)
        np.add.at(dense, table, resized_scores(volume, SIZE))
        planes.append(codec.decode(codec.encode(dense)))
    order = (list(range(len(planes))) + list(range(len(planes) - 2, 0, -1))) * count
    grey = [cv2.cvtColor(read_colour(n), cv2.COLOR_RGB2GRAY) for n in range(len(planes))]
    chosen = order[:count]
    soft = [SoftLabels.of(frame) for frame in planes]
    return linked([grey[n] for n in chosen], [planes[n].labels for n in chosen], [soft[n] for n in chosen])


def linked(
    images: list[np.ndarray], labels: list[np.ndarray], scores: list[SoftLabels] | None = None
) -> list[PredictedFrame]:
    """Returns frames with optical flow between neighbours."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    frames = []
    for number, (image, found) in enumerate(zip(images, labels, strict=True)):
        flow = None
        if number + 1 < len(images):
            following = images[number + 1]
            flow = cell_means(dis.calc(image, following, None)), cell_means(dis.calc(following, image, None))
        frames.append(PredictedFrame("clip", found, image, flow, scores[number] if scores else None))
    return frames


# ---- cases


def ssa(labels: np.ndarray, image: np.ndarray, rounds: int) -> dict[str, Any]:
    """Votes over superpixels as masks; the peer is given them decoded, ours as run lengths."""
    proposer = build_superpixels(read_section(FelzenszwalbSettings, "felzenszwalb", {"scales": [60]}, where="bench"))
    segments = proposer.propose(image).maps[0]
    masks = segments == np.arange(int(segments.max()) + 1)[:, None, None]
    counts = [rle["counts"] for mask in masks for rle in mask_to_rle_pytorch(torch.from_numpy(mask[None]))]
    runs = RunLengths.from_coco(SIZE, counts)

    def authors() -> np.ndarray:
        refined = labels.copy()
        for mask in sorted(masks, key=np.count_nonzero, reverse=True):
            refined[mask] = np.bincount(labels[mask]).argmax()
        return refined

    ours, found = fastest(lambda: vote_proposals(labels, runs), rounds)
    peer, expected = fastest(authors, rounds)
    case = f"SSA's vote, {len(masks)} masks; peer: the authors' loop"
    return row(case, 1e3 * ours, 1e3 * peer, "ms per frame", bool((found == expected).all()))


def cascadepsp(image: np.ndarray, labels: np.ndarray, rounds: int) -> dict[str, Any]:
    """Refines one class, globally and locally."""
    small = cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    mask, side = small == np.bincount(small.ravel()).argmax(), 80
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        state = RefinementModule().state_dict()
        torch.save({f"module.{name}": value for name, value in state.items()}, Path(folder) / "model")
        package = Refiner(model_folder=folder, download_and_check_model=False)
        _, network = load_network(Path(folder) / "model", device="cpu")

    @torch.inference_mode()
    def refined() -> np.ndarray:
        probability = high_res(network, image_tensor(image), mask_tensor(mask), L=side)
        return (probability[0, 0].numpy() * 255).astype(np.uint8)

    ours, found = fastest(refined, rounds)
    peer, expected = fastest(lambda: package.refine(image, mask.astype(np.uint8) * 255, L=side), rounds)
    equal = bool((np.abs(found.astype(int) - expected) <= 1).all())
    return row("CascadePSP, global and local, 96x128; peer: Refiner.refine", ours, peer, "s per mask", equal)


def only_uncertain(clip: list[PredictedFrame]) -> dict[str, Any]:
    """Counts the pixels of all crops, as a multiple of the frame, by how often the network passes over each.

    The global step has three passes and the local one two; a crop around uncertain pixels has the global step alone.
    """
    settings = read_section(TemporalSettings, "temporal", {}, where="bench")
    narrowed, whole = [], []
    for frame, share in zip(clip, agreement(clip, settings), strict=True):
        parts = split_components(frame.labels, min_area=1024, dilate=10, margin=0.25)
        uncertain = share < 0.9 * 255
        for crops, chosen in ((whole, parts), (narrowed, around_uncertain(parts, uncertain))):
            crops.append(sum(_area(part.box) * (5 if part.used is None else 3) for part in chosen))
    pixels = SIZE[0] * SIZE[1]
    case = "CascadePSP, only_uncertain 0.9 by agreement over time; peer: whole parts"
    return row(case, float(np.mean(narrowed)) / pixels, float(np.mean(whole)) / pixels, "passes over a frame", None)


def _area(box: tuple[int, int, int, int]) -> int:
    top, bottom, left, right = box
    return (bottom - top) * (right - left)


def optical_flow(rounds: int) -> dict[str, Any]:
    """Estimates DIS flow in both directions, as the flow stage stores it."""
    dis = open_method("dis", weights=None, device="cpu")
    first, second = (dis.prepare(read_colour(number)) for number in (0, 1))

    def both() -> list[np.ndarray]:
        return [cell_means(dis.between(*pair)) for pair in ((first, second), (second, first))]

    taken, _ = fastest(both, max(rounds, 5))
    return row("optical flow by DIS, both directions", 1 / taken, None, "frames/s per core", None)


def over_time(what: str, clip: list[PredictedFrame], rounds: int) -> dict[str, Any]:
    """Votes with the default settings."""
    settings = read_section(TemporalSettings, "temporal", {}, where="bench")
    taken, _ = fastest(lambda: list(smooth(clip, settings)), rounds)
    return row(f"vote over time, from {what}", len(clip) / taken, None, "frames/s per core", None)


def in_tubes(clip: list[PredictedFrame], rounds: int) -> list[dict[str, Any]]:
    """Makes superpixels and votes in tubes of them, both with the default settings."""
    proposer = build_superpixels(read_section(FelzenszwalbSettings, "felzenszwalb", {}, where="bench"))
    images = [read_colour(number) for number in range(len(clip))]
    made, masks = fastest(lambda: [proposer.propose(image) for image in images], 1)
    frames = [
        MaskedFrame(frame.video, frame.labels, found, frame.flow) for frame, found in zip(clip, masks, strict=True)
    ]
    settings = read_section(TubesSettings, "tubes", {}, where="bench")
    taken, _ = fastest(lambda: list(vote_in_tubes(frames, settings)), rounds)
    return [
        row("superpixels of a frame, felzenszwalb", made / len(clip), None, "s per frame", None),
        row("vote in tubes of superpixels, from labels", taken / len(clip), None, "s per frame", None),
    ]


def sam_proposals(image: np.ndarray, rounds: int) -> dict[str, Any]:
    """Makes every mask of a small SAM."""
    torch.manual_seed(0)
    sam = build_sam(SMALL_SAM).eval()
    proposer = SamProposer(sam, **EVERY_MASK)
    package = SamAutomaticMaskGenerator(sam, output_mode="uncompressed_rle", **EVERY_MASK)
    ours, found = fastest(lambda: proposer.propose(image), rounds)
    with torch.inference_mode():
        peer, records = fastest(lambda: package.generate(image), rounds)
    expected = RunLengths.from_coco(image.shape[:2], [record["segmentation"]["counts"] for record in records])
    equal = len(records) > 0 and np.array_equal(found.runs, expected.runs)
    case = f"proposals of a small SAM, {len(records)} masks; peer: the package's generator"
    return row(case, ours, peer, "s per frame", equal)


if __name__ == "__main__":
    main()
