"""SAM 2 proposals: the real code of transformers with a tiny random model, its windows, ids and memory."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Sam2VideoConfig, Sam2VideoInferenceSession, Sam2VideoModel

from tests.refine.masks import drawn_masks
from tests.refine.scenes import scene
from tests.stopped_jobs import stopped_and_run_again
from vss.core.errors import UserError
from vss.core.files import sha256_of_file
from vss.refine.proposals_file import ProposalsReader
from vss.refine.propose import build_video_proposer, propose, read_proposal_settings
from vss.refine.run import refine
from vss.refine.sam2 import Sam2Proposer, windows

SIDE = 64
TINY = {
    "model_type": "sam2_video",
    "image_size": SIDE,
    "vision_config": {
        "model_type": "sam2_vision_model",
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "image_size": [SIDE, SIDE],
            "window_positional_embedding_background_size": [4, 4],
            "blocks_per_stage": [1, 1, 2, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 1, 1],
            "window_size_per_stage": [4, 4, 4, 2],
            "global_attention_blocks": [3],
        },
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 128,
    },
    "prompt_encoder_config": {"hidden_size": 128, "image_size": SIDE},
    "mask_decoder_config": {"hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    "memory_attention_hidden_size": 128,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 32,
    "memory_attention_rope_feat_sizes": [4, 4],
    "memory_encoder_hidden_size": 128,
    "memory_encoder_output_channels": 64,
    "mask_downsampler_embed_dim": 128,
    "memory_fuser_num_layers": 1,
    "memory_fuser_embed_dim": 128,
    "memory_fuser_intermediate_dim": 32,
}
# Random weights promise no quality: keep every mask.
KEEP_ALL = {
    "method": "sam2",
    "points_per_side": 3,
    "pred_iou_thresh": 0,
    "stability_score_thresh": 0,
    "box_nms_thresh": 1,
}


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory):
    torch.manual_seed(0)
    model = Sam2VideoModel(Sam2VideoConfig.from_dict(TINY))
    for parameter in model.parameters():  # released models have learnt what is zero at initialisation
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("sam2")
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(TINY))
    return folder / "model.safetensors"


def proposer_of(weights, **settings) -> Sam2Proposer:
    options = read_proposal_settings({**KEEP_ALL, **settings}, weights=str(weights))
    return build_video_proposer(options, weights=str(weights), device="cpu")


def video(frames: int) -> list[np.ndarray]:
    return [scene(np.random.default_rng(number), 50, 75)[0] for number in range(frames)]


def test_objects_are_followed_through_windows_and_keep_their_ids(tiny_weights):
    found = list(proposer_of(tiny_weights, key_interval=3, overlap=2).propose_video(video(7)))
    assert len(found) == 7
    for masks in found:
        assert masks.size == (50, 75) and masks.runs.sum() == 50 * 75 * len(masks.lengths)
        assert 1 <= len(masks.lengths) <= 9 and len(set(masks.ids.tolist())) == len(masks.ids)
    for first in (0, 3):
        for masks in found[first : first + 3]:
            np.testing.assert_array_equal(masks.ids, found[first].ids)
    assert found[0].ids.tolist() == list(range(len(found[0].ids)))


def test_masks_are_those_of_a_session_that_forgets_nothing(tiny_weights):
    """What is dropped while a window is followed is what transformers' tracker does not read again."""
    images = video(10)  # longer than the 7 frames that SAM 2 remembers
    whole = proposer_of(tiny_weights, key_interval=10, overlap=0, objects_per_batch=100)
    with torch.inference_mode():
        grid = whole._masks_at_grid(whole._encoded(images[0]), 100)
        expected = _session_of(whole, images, grid)
    for masks, logits in zip(whole.propose_video(images), expected, strict=True):
        resized = torch.nn.functional.interpolate(logits, (50, 75), mode="bilinear", align_corners=False)[:, 0] > 0
        np.testing.assert_array_equal(drawn_masks(masks), resized.numpy())


def _session_of(proposer, images, grid):
    """Follows objects by transformers' own iterator over the pixels of all frames; the first frame as it was found."""
    pixels = proposer._processor([np.stack(images)], return_tensors="pt")["pixel_values_videos"][0]
    session = Sam2VideoInferenceSession(video=pixels, dtype=torch.float32)
    for number, logits in enumerate(grid):
        session.add_mask_inputs(session.obj_id_to_idx(number), 0, (logits > 0)[None, None])
    session.obj_with_new_inputs = list(session.obj_ids)
    followed = [found.pred_masks for found in proposer._model.propagate_in_video_iterator(session, start_frame_idx=0)]
    return [grid[:, None], *followed[1:]]


def test_memory_does_not_grow_with_frames_or_objects(tiny_weights, monkeypatch):
    """Of every object that is followed at a time, 7 frames are remembered and no mask at full size."""
    proposer = proposer_of(tiny_weights, key_interval=12, overlap=0, objects_per_batch=2)
    forward, most = proposer._model.forward, SimpleNamespace(objects=0, memories=0, masks=0)

    def watched(session, **options):
        most.objects = max(most.objects, session.get_obj_num())
        for outputs in session.output_dict_per_obj.values():
            stored = [*outputs["cond_frame_outputs"].values(), *outputs["non_cond_frame_outputs"].values()]
            most.memories = max(most.memories, sum("maskmem_features" in frame for frame in stored))
            most.masks += sum("high_res_masks" in frame for frame in stored)
        return forward(session, **options)

    monkeypatch.setattr(proposer._model, "forward", watched)
    assert len(next(proposer.propose_video(video(12))).ids) > 2
    assert most.objects == 2 and most.memories <= 7 and most.masks == 0


def test_batches_of_objects_change_nothing_and_are_halved_where_memory_is_full(tiny_weights, monkeypatch, capsys):
    expected = list(proposer_of(tiny_weights, key_interval=3, overlap=1).propose_video(video(4)))
    proposer = proposer_of(tiny_weights, key_interval=3, overlap=1, objects_per_batch=4, points_per_batch=5)
    forward = proposer._model.forward

    def full(session, **options):
        if session.get_obj_num() > 2:
            raise torch.OutOfMemoryError
        return forward(session, **options)

    monkeypatch.setattr(proposer._model, "forward", full)
    for found, masks in zip(proposer.propose_video(video(4)), expected, strict=True):
        np.testing.assert_array_equal(found.ids, masks.ids)
        assert (drawn_masks(found) != drawn_masks(masks)).mean() < 1e-3
    assert "propose sam2: the GPU's memory is full; objects at once from here on: 2" in capsys.readouterr().err


def test_a_frame_that_does_not_fit_is_one_line(tiny_weights, monkeypatch):
    def full(pixels):
        raise torch.OutOfMemoryError

    proposer = proposer_of(tiny_weights, key_interval=3, overlap=1)
    monkeypatch.setattr(proposer._model, "get_image_features", full)
    with pytest.raises(
        UserError, match=r"^propose sam2: 4 frames do not fit into the memory of cpu; lower key_interval"
    ):
        next(proposer.propose_video(video(1)))


def test_windows_overlap_and_the_last_ones_are_shorter():
    assert list(windows(range(7), 3, 5)) == [[0, 1, 2, 3, 4], [3, 4, 5, 6], [6]]
    assert list(windows(range(6), 3, 3)) == [[0, 1, 2], [3, 4, 5]]
    assert list(windows([], 3, 5)) == []


def test_an_object_keeps_its_id_where_most_of_it_is_the_same_in_the_overlap(tiny_weights):
    proposer = proposer_of(tiny_weights, key_interval=2, overlap=2, least_iou=0.5)
    first = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], dtype=torch.bool)
    # Object 0 is the second of before, object 1 is nobody's, object 2 is the first but for a pixel.
    second = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    before = SimpleNamespace(shared={2: first, 3: first}, ids=np.array([4, 7]))
    assert proposer._ids_of({0: second, 1: second}, 3, before, known=9).tolist() == [7, 9, 4]
    assert proposer._ids_of({0: second, 1: second}, 3, None, known=0).tolist() == [0, 1, 2]


def test_a_shard_stopped_in_a_video_goes_on_with_the_same_ids_and_its_tubes_vote(dataset, tiny_weights, monkeypatch):
    common = {"index": dataset.index, "card": dataset.card, "split": "val", "shard": 0, "shards": 1}
    settings = {**KEEP_ALL, "points_per_side": 2, "key_interval": 1, "overlap": 1}

    def job(folder):
        propose(settings=settings, weights=tiny_weights, out=folder / "0.h5", **common)

    job(dataset.folder / "whole")
    proposals = dataset.folder / "whole" / "0.h5"
    expected = proposals.read_bytes()
    assert stopped_and_run_again(job, dataset.folder / "stopped", monkeypatch, frames=3) == (expected,)
    with ProposalsReader(proposals) as reader:
        assert reader.forms() == {"tubes"}
        assert reader.provenance["config_sha256"] == sha256_of_file(tiny_weights.with_name("config.json"))
    out = dataset.folder / "tubes.h5"
    refine(settings={"method": "tubes"}, labels=dataset.labels, proposals=proposals, out=out, **common)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: no such file"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "sam"}'), r"config\.json: not a config of"),
        (
            lambda folder: (folder / "config.json").write_text(json.dumps({**TINY, "num_maskmem": 5})),
            r"model\.safetensors: memory_temporal_positional_encoding has shape",
        ),
    ],
)
def test_mistakes_with_the_files_are_named(tiny_weights, tmp_path, damage, named):
    for file in tiny_weights.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(UserError, match=named):
        proposer_of(tmp_path / "model.safetensors")
