"""SAM proposals: the real code of the package with a tiny random model."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamAutomaticMaskGenerator

from tests.refine.masks import drawn_masks, run_lengths
from vss.core.errors import UserError
from vss.refine.key_frames import KeyFrames
from vss.refine.proposals import RunLengths
from vss.refine.proposals_file import ProposalsReader
from vss.refine.propose import build_proposer, propose, read_proposal_settings
from vss.refine.run import refine
from vss.refine.sam import SamShape, build_sam

TINY = SamShape(
    embed_dim=32,
    depth=2,
    num_heads=2,
    global_attn_indexes=(1,),
    grid=8,
    patch_size=16,
    window_size=4,
    out_chans=32,
)
# Random weights promise no quality: keep every mask that is not a duplicate.
KEEP_ALL = {
    "points_per_side": 4,
    "pred_iou_thresh": -100.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 0.9,
    "crop_n_layers": 1,
    "crop_n_points_downscale_factor": 2,
    "min_mask_region_area": 4,
}


@pytest.fixture(scope="module")
def tiny_sam():
    torch.manual_seed(0)
    sam = build_sam(TINY)
    with torch.no_grad():  # released models have learnt positions; at initialisation they are zero
        for parameter in sam.image_encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return sam.eval()


@pytest.fixture(scope="module")
def tiny_weights(tiny_sam, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam") / "tiny.safetensors"
    save_file(tiny_sam.state_dict(), path)
    return path


def test_the_shape_is_read_off_the_weights(tiny_sam):
    assert SamShape.of(tiny_sam.state_dict(), path="tiny") == TINY


@pytest.mark.golden
@pytest.mark.parametrize("variant", ["b", "l", "h"])
def test_released_variants_have_their_parameters(golden_tables, variant):
    table = json.loads((golden_tables / "keys" / f"sam_vit_{variant}.json").read_text())
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in table.items()}
        built = build_sam(SamShape.of(state, path=variant))
    assert {name: list(value.shape) for name, value in built.state_dict().items()} == table


def test_proposals_are_the_generators_masks(tiny_sam, tiny_weights):
    image = np.random.default_rng(1).integers(0, 256, (48, 70, 3)).astype(np.uint8)
    # The settings allow no score below 0, which random weights predict.
    settings = replace(read_proposal_settings({}, weights=str(tiny_weights)), **KEEP_ALL)
    proposals = build_proposer(settings, weights=str(tiny_weights), device="cpu").propose(image)
    records = SamAutomaticMaskGenerator(tiny_sam, output_mode="binary_mask", **KEEP_ALL).generate(image)
    assert records
    masks = np.stack([record["segmentation"] for record in records])
    np.testing.assert_array_equal(proposals.runs, run_lengths(masks).runs)
    assert proposals.pixels()[1].tolist() == [record["area"] for record in records]


def test_masks_of_an_encoder_in_half_precision_are_nearly_the_same(tiny_weights, monkeypatch):
    """None is dropped as a duplicate, so that every mask has its own in float32 at the same point of the grid."""
    monkeypatch.setattr("vss.refine.precision.has_bfloat16", lambda: True)  # imitated where the CPU has none
    image = np.random.default_rng(1).integers(0, 256, (48, 70, 3)).astype(np.uint8)
    found = {}
    for precision in ("float32", "bfloat16"):
        settings = read_proposal_settings({"precision": precision}, weights=str(tiny_weights))
        settings = replace(settings, **{**KEEP_ALL, "box_nms_thresh": 1.0, "crop_n_layers": 0})
        proposer = build_proposer(settings, weights=str(tiny_weights), device="cpu")
        seen = []
        proposer._generator.predictor.model.image_encoder.blocks[0].attn.qkv.register_forward_hook(
            lambda *call, seen=seen: seen.append(call[2].dtype)
        )
        found[precision] = proposer.propose(image)
        assert seen == [getattr(torch, precision)]
    exact, half = (_dense(found[precision]) for precision in ("float32", "bfloat16"))
    shared = exact @ half.T
    iou = shared / (exact.sum(1)[:, None] + half.sum(1) - shared)
    assert len(exact) == len(half) >= 16
    assert iou.max(axis=1).min() > 0.98


def _dense(proposals) -> np.ndarray:
    """Returns the masks [M, H * W] float32 of 0 and 1."""
    pixels, counts = proposals.pixels()
    masks = np.zeros((len(counts), np.prod(proposals.size)), np.float32)
    masks[np.repeat(np.arange(len(counts)), counts), pixels] = 1
    return masks


def test_sam_proposals_through_the_stage(dataset, tiny_weights):
    common = {"index": dataset.index, "card": dataset.card, "split": "val", "shard": 0, "shards": 1}
    cached, out = dataset.folder / "sam.h5", dataset.folder / "sam.labels.h5"
    propose(
        settings={"method": "sam", **KEEP_ALL, "pred_iou_thresh": 0},
        weights=tiny_weights,
        out=cached,
        device="cpu",
        **common,
    )
    with ProposalsReader(cached) as reader:
        assert len(reader.keys()) == 4
        assert all(reader.read(*key).size == dataset.truths[key].shape for key in reader.keys())  # noqa: SIM118
    refine(settings={"method": "ssa"}, labels=dataset.labels, proposals=cached, out=out, **common)
    assert out.exists()


def test_authors_parameters_are_the_default(tiny_weights):
    settings = read_proposal_settings({"method": "sam"}, weights=str(tiny_weights))
    generator = build_proposer(settings, weights=str(tiny_weights), device="cpu")._generator
    assert [len(grid) for grid in generator.point_grids] == [64**2, 32**2]
    assert (generator.pred_iou_thresh, generator.stability_score_thresh) == (0.86, 0.92)
    assert (generator.crop_n_layers, generator.min_mask_region_area) == (1, 100)


def test_mistakes_are_named(tiny_sam, tmp_path, tiny_weights):
    def build(path, **parameters):
        settings = read_proposal_settings({"method": "sam", **parameters}, weights=str(path))
        return build_proposer(settings, weights=str(path), device="cpu")

    with pytest.raises(UserError, match="slow"):
        build(tiny_weights, preset="slow")
    with pytest.raises(UserError, match="points"):
        build(tiny_weights, points=3)
    with pytest.raises(UserError, match=r"absent\.pth: no such"):
        build(tmp_path / "absent.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: not weights of SAM"):
        build(tmp_path / "other.pth")
    state = tiny_sam.state_dict()
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(UserError, match="iou_token"):
        build(tmp_path / "part.pth")


def test_pickled_code_is_not_run(tmp_path):
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "code.pth")
    path = str(tmp_path / "code.pth")
    with pytest.raises(UserError, match=r"code\.pth"):
        build_proposer(read_proposal_settings({"method": "sam"}, weights=path), weights=path, device="cpu")


def decode_coco_counts(text: str | bytes) -> list[int]:
    """Returns the run lengths of a compressed COCO RLE string.

    Each number is a little-endian chain of 5-bit groups, one a character from "0" on, bit 5 = more follow, sign
    extended; from the fourth number on it is the difference to the number two places before
    (cocoapi common/maskApi.c `rleFrString`).
    """
    counts: list[int] = []
    value = shift = 0
    for byte in text.encode() if isinstance(text, str) else text:
        group = byte - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value = shift = 0
    return counts


def test_real_compressed_run_lengths(real_data):
    record = json.loads((real_data / "sam" / "sav_000001_auto.json").read_text())
    frames = record["masklet"]
    sizes = [[] for _ in record["masklet_id"]]
    for frame in frames:
        for number, mask in enumerate(frame):
            height, width = mask["size"]
            counts = decode_coco_counts(mask["counts"])
            assert sum(counts) == height * width
            area = sum(counts[1::2])
            if area:
                sizes[number].append(area)
    means = [float(np.mean(areas)) for areas in sizes]
    np.testing.assert_allclose(means, record["masklet_size_abs"], rtol=1e-6)


def test_points_that_do_not_fit_at_once_are_halved(tiny_weights, monkeypatch, capsys):
    image = np.random.default_rng(1).integers(0, 256, (48, 70, 3)).astype(np.uint8)
    settings = replace(read_proposal_settings({}, weights=str(tiny_weights)), **KEEP_ALL, points_per_batch=16)
    proposer = build_proposer(settings, weights=str(tiny_weights), device="cpu")
    expected = proposer.propose(image)
    whole, most = SamAutomaticMaskGenerator._process_batch, [5]

    def process(self, points, *rest):
        if len(points) > most[0]:
            raise torch.OutOfMemoryError
        return whole(self, points, *rest)

    monkeypatch.setattr(SamAutomaticMaskGenerator, "_process_batch", process)
    found = proposer.propose(image)
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert "propose sam: the GPU's memory is full; points at once from here on: 4" in capsys.readouterr().err
    most[0] = 0
    with pytest.raises(UserError, match="a 70x48 frame does not fit into the memory of cpu; use weights of a smaller"):
        proposer.propose(image)


class DrawnObjects:
    """Proposes an object that is brighter than the ground, and the whole frame; notes which frames it was given."""

    device = "cpu"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def propose(self, image: np.ndarray) -> RunLengths:
        self.seen.append(int(image[0, 0, 0]))
        grey = image.mean(axis=2)
        return run_lengths(np.stack([grey > 128, grey >= 0]))


def moving_square(frames: int) -> list[np.ndarray]:
    """Draws a square that moves 3 pixels per frame over a ground, both with a texture; a corner counts the frames."""
    rng = np.random.default_rng(0)
    ground, texture = rng.integers(20, 90, (72, 120, 3)), rng.integers(160, 255, (32, 32, 3))
    ground, texture = (cv2.GaussianBlur(part.astype(np.uint8), (0, 0), 1.5) for part in (ground, texture))
    video = []
    for number in range(frames):
        image = ground.copy()
        image[20:52, 10 + 3 * number : 42 + 3 * number] = texture
        image[0, 0] = number
        video.append(image)
    return video


def test_masks_of_key_frames_move_along_the_flow():
    video, every, second = moving_square(6), DrawnObjects(), DrawnObjects()
    expected = list(KeyFrames(every, 1).propose_video(video))
    found = list(KeyFrames(second, 3).propose_video(video))
    assert every.seen == [0, 1, 2, 3, 4, 5] and second.seen == [0, 3]
    for carried, own in zip(found, expected, strict=True):
        carried, own = drawn_masks(carried), drawn_masks(own)
        assert (carried & own).sum(axis=(1, 2))[0] > 0.9 * (carried | own).sum(axis=(1, 2))[0]
        assert carried[1].mean() > 0.85  # the frame, but for what the square uncovers


def test_key_frames_begin_at_theirs_and_where_the_size_changes():
    video, proposer = moving_square(6), DrawnObjects()
    frames = KeyFrames(proposer, 4)
    assert [frames.start_of(position) for position in range(6)] == [0, 0, 0, 0, 4, 4]
    whole = list(frames.propose_video(video))
    for ours, theirs in zip(frames.propose_video(video[4:]), whole[4:], strict=True):
        np.testing.assert_array_equal(ours.runs, theirs.runs)
    proposer.seen.clear()
    list(frames.propose_video([*video[:2], *(image[:60] for image in video[2:4])]))
    assert proposer.seen == [0, 2]
