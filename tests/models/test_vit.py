"""EoMT and the frozen encoder: equal to transformers' own models, whose files they read, and trained as they should."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from vss.configs.resolve import resolve
from vss.core.errors import UserError
from vss.models.build import build_on_meta, build_segmentor
from vss.models.rows import eomt_config, plain_mask_config, segmentor_config
from vss.models.segmentor import Segmentor
from vss.models.vit import FrozenEncoder, eomt_modules, pad_to_patches
from vss.weights.tensor_files import TensorFile
from vss.weights.weights_file import WeightsFile

SIDE, PATCH, CLASSES = 64, 16, 7
ENCODERS = {"dinov2": "dinov2-nano", "dinov3": "dinov3-nano"}
# Native, landscape, portrait, and neither side a multiple of the patch.
SIZES = [(64, 64), (48, 96), (96, 32), (50, 75)]


def eomt(architecture: str) -> Segmentor:
    heads = eomt_config(ENCODERS[architecture], num_classes=CLASSES, size="nano")
    heads["backbone"]["image_size"] = SIDE
    return build_segmentor(segmentor_config(None, heads)).eval()


def as_file(state: dict[str, Tensor]) -> WeightsFile:
    return WeightsFile.of(TensorFile(state), "published.safetensors")


def of_transformers(segmentor: Segmentor, architecture: str) -> Any:
    """transformers' own EoMT of the same sizes, with weights of its own."""
    backbone, head = segmentor.backbone, segmentor.decode_head
    torch.manual_seed(1)
    whole = eomt_modules(
        architecture,
        hidden_size=head.query.weight.shape[1],
        num_heads=head.layers[0].attention.num_heads,
        num_layers=len(backbone.layers) + len(head.layers),
        patch_size=PATCH,
        image_size=SIDE,
        num_queries=head.num_queries,
        num_classes=CLASSES,
    )
    whole.config.num_blocks = len(head.layers)
    whole.attn_mask_probs = torch.nn.Buffer(torch.ones(len(head.layers)))
    for parameter in whole.parameters():  # biases and scales too, so that none can be forgotten unnoticed
        torch.nn.init.normal_(parameter, std=0.2)
    return whole.eval()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("masked", [1.0, 0.0])
@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_eomt_equals_transformers_own_whose_file_fills_it(architecture: str, masked: float, size: tuple[int, int]):
    ours = eomt(architecture)
    theirs = of_transformers(ours, architecture)
    theirs.attn_mask_probs.fill_(masked)
    audit = as_file(theirs.state_dict()).fill(ours)
    assert audit.kind.startswith("EoMT DINOv") and not audit.new and set(audit.unused) == {"criterion.empty_weight"}

    images = torch.randn(2, 3, *size)
    padded = pad_to_patches(images, PATCH)
    grid = tuple(side // PATCH for side in padded.shape[-2:])
    theirs.grid_size = grid  # it knows one square size only
    if architecture == "dinov2" and grid != (4, 4):
        table = theirs.embeddings.position_embeddings.weight.detach().T.reshape(1, -1, 4, 4)
        table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)[0].flatten(1).T
        theirs.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(table)
        theirs.embeddings.position_ids = torch.arange(len(table))[None]
    with torch.no_grad():
        expected = theirs(padded)
        classes, masks = ours.decode_head(ours.extract_feat(images))
        scores = ours.class_logits(images)
    assert len(classes) == (3 if masked else 1)
    height, width = (-(-side // 4) for side in size)
    torch.testing.assert_close(classes[-1], expected.class_queries_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(masks[-1], expected.masks_queries_logits[..., :height, :width], atol=1e-5, rtol=1e-5)
    assert scores.shape == (2, CLASSES, height, width) and (scores >= 0).all()
    assert torch.allclose(ours.probabilities(scores).sum(1), torch.ones(2, height, width))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("architecture", ENCODERS)
def test_a_frozen_encoder_equals_transformers_own(architecture: str, size: tuple[int, int]):
    from transformers import Dinov2Config, Dinov2Model, DINOv3ViTConfig, DINOv3ViTModel

    numbers = dict(architecture=architecture, hidden_size=32, num_heads=2, num_layers=3, patch_size=PATCH)
    ours = FrozenEncoder(**numbers, out_layers=(0, 2), num_register_tokens=2 * (architecture == "dinov3"))
    common = dict(hidden_size=32, num_attention_heads=2, num_hidden_layers=3, patch_size=PATCH)
    if architecture == "dinov2":
        theirs, prefix = Dinov2Model(Dinov2Config(**common, image_size=518)), 1
    else:
        theirs, prefix = DINOv3ViTModel(DINOv3ViTConfig(**common, intermediate_size=128, num_register_tokens=2)), 3
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    holder = torch.nn.ModuleDict({"backbone": ours})
    filled, audit = as_file(theirs.state_dict()).place(holder.state_dict(), whole=True)
    holder.load_state_dict(filled)
    assert list(audit.unused) == ["embeddings.mask_token"]
    images = torch.randn(2, 3, *size)
    features = ours.train()(images)
    with torch.no_grad():
        expected = theirs.eval()(pad_to_patches(images, PATCH), output_hidden_states=True).hidden_states
    norm = theirs.layernorm if architecture == "dinov2" else theirs.norm
    for level, number in zip(features.maps, (1, 3), strict=True):
        tokens = norm(expected[number])[:, prefix:]
        torch.testing.assert_close(level.flatten(2).transpose(1, 2), tokens, atol=1e-5, rtol=1e-5)


def loss_of(segmentor: Segmentor) -> Tensor:
    labels = torch.zeros(1, 50, 75, dtype=torch.long)
    labels[:, 20:, 30:] = 3
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    losses = segmentor.train().loss(torch.randn(1, 3, 50, 75), [sample])
    assert sum("loss_mask" in name for name in losses) == 3  # before each of the two layers, and at the end
    return sum(losses.values())


def test_everything_of_an_eomt_is_trained():
    segmentor = eomt("dinov2")
    loss_of(segmentor).backward()
    assert not [name for name, parameter in segmentor.named_parameters() if parameter.grad is None]


def test_of_a_frozen_model_only_the_decoder_is_trained():
    heads = plain_mask_config("dinov3-nano", num_classes=CLASSES, size="nano")
    segmentor = build_segmentor(segmentor_config(None, heads))
    before = copy.deepcopy(segmentor.backbone.state_dict())
    loss_of(segmentor).backward()
    trained = {name.split(".")[0] for name, parameter in segmentor.named_parameters() if parameter.requires_grad}
    assert trained == {"decode_head"} and not segmentor.backbone.training
    assert not [n for n, p in segmentor.decode_head.named_parameters() if p.grad is None]
    assert all(parameter.grad is None for parameter in segmentor.backbone.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in segmentor.backbone.state_dict().items())


def test_masks_are_annealed_layer_after_layer_and_kept_with_the_weights():
    head = eomt("dinov2").decode_head
    found = []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        head.anneal(progress)
        found.append([round(value, 3) for value in head.attn_mask_probs.tolist()])
    assert found == [[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    other = eomt("dinov2")
    other.decode_head.load_state_dict(head.state_dict())
    with torch.no_grad():
        assert len(other.decode_head(other.extract_feat(torch.randn(1, 3, 64, 64)))[0]) == 1


def test_an_eomt_starts_from_dinov2():
    """Its last layers and its norm are the head's; patches of 14 pixels and positions become the model's."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=48, num_attention_heads=3, num_hidden_layers=6, patch_size=14, image_size=70)
    theirs = Dinov2Model(config)
    ours = eomt("dinov2")
    audit = as_file(theirs.state_dict()).initialise(ours)
    assert audit.kind == "backbone weights of DINOv2-nano (names of transformers)"
    layers, last = ours.decode_head.layers, theirs.encoder.layer[4:]
    assert torch.equal(layers[1].mlp.fc1.weight, last[1].mlp.fc1.weight)
    assert torch.equal(layers[0].attention.out_proj.weight, last[0].attention.o_proj.weight)
    assert torch.equal(ours.decode_head.layernorm.weight, theirs.layernorm.weight)
    assert ours.backbone.embeddings.position_embeddings.weight.shape == (16, 48)
    new = {name for name in audit.new if not name.startswith("decode_head.")}
    assert new == {"backbone.embeddings.register_tokens"}
    # A resampled patch answers alike to a picture of one colour.
    old, now = (m.projection for m in (theirs.embeddings.patch_embeddings, ours.backbone.embeddings.patch_embeddings))
    torch.testing.assert_close(now(torch.ones(1, 3, 16, 16)), old(torch.ones(1, 3, 14, 14)), atol=1e-5, rtol=1e-4)


def test_a_row_of_any_timm_backbone():
    model = build_on_meta(resolve({"config": "timm:resnet18"}).model)
    assert model.decode_head.in_channels == [64, 128, 256, 512] and model.auxiliary_head.in_channels == 256
    with torch.device("meta"), torch.no_grad():
        assert model.eval().class_logits(torch.empty(1, 3, 64, 96)).shape == (1, 124, 16, 24)


@pytest.mark.parametrize("name", ["resnet18a", "hf-hub:someone/model", "local-dir:/etc"])
def test_timm_is_asked_for_its_own_backbones_only(name: str):
    with pytest.raises(UserError, match="has no such backbone"):
        build_on_meta(resolve({"config": f"timm:{name}"}).model)
