"""Published checkpoints find their place in our models: every table of names and shapes, and where shapes differ."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from mmseg.models.utils.embed import PatchMerging
from safetensors.torch import save_file
from torch import Tensor, nn

from vss.core.errors import UserError
from vss.core.labels import COCO_STUFF, VSPW
from vss.models.build import build_on_meta, build_segmentor
from vss.models.rows import mask2former_config, segmentor_config, upernet_config
from vss.weights.class_names import classes_by_number, matching_classes
from vss.weights.import_checkpoint import described_model
from vss.weights.names import in_unfold_order, to_current_names
from vss.weights.tensor_files import TensorFile, save_tensors
from vss.weights.weights_file import WeightsFile, read_weights


def upernet(backbone: str, *, num_classes: int = 124) -> dict:
    return segmentor_config(backbone, upernet_config(backbone, num_classes=num_classes))


def mask2former(*, num_classes: int = 124, size: str = "authors", **overrides: int) -> dict:
    heads = mask2former_config("internimage-h", num_classes=num_classes, size=size, **overrides)
    return segmentor_config("internimage-h", heads)


@functools.cache
def meta_state(config: str) -> dict[str, Tensor]:
    """The state dict, without data, of a full-size model; `config` is JSON so that it can be remembered."""
    return build_on_meta(json.loads(config)).state_dict()


def without_memory(table: dict[str, list[int]]) -> dict[str, Tensor]:
    """Tensors of any size that all show one number."""
    return {name: torch.zeros(1).expand(shape) if shape else torch.tensor(0) for name, shape in table.items()}


def weights_of(tensors: dict[str, Tensor], path: str = "x.pth") -> WeightsFile:
    return WeightsFile.of(TensorFile(tensors), path)


def read_table(golden_tables: Path, name: str) -> dict[str, Tensor]:
    return without_memory(json.loads((golden_tables / "keys" / f"{name}.json").read_text()))


# Which model each published file is for, and the tensors of it that a file of that kind does not have.
SWIN_NORMS = {f"backbone.norm{i}.{p}" for i in range(4) for p in ("weight", "bias")}
CONVNEXT_NORMS = {f"backbone.norm{i}.{p}" for i in range(3) for p in ("weight", "bias")}
TARGETS = {
    "upernet_swin_l": (upernet("swin-l"), set()),
    "upernet_convnext_xl": (upernet("convnext-xl"), set()),
    "upernet_internimage_xl": (upernet("internimage-xl"), set()),
    "upernet_internimage_h": (upernet("internimage-h"), set()),
    "mask2former_internimage_h": (mask2former(), set()),
    "mask2former_internimage_h_cocostuff": (mask2former(num_classes=171), set()),
    "mask2former_internimage_h_1024d_200q_ade20k": (mask2former(num_classes=150, size="opengvlab"), set()),
    "mask2former_internimage_h_1024d_200q_cocostuff164k": (mask2former(num_classes=171, size="opengvlab"), set()),
    "internimage_h_jointto22k_384_classification": (mask2former(), set()),
    "internimage_xl_22k_192to384_classification": (upernet("internimage-xl"), set()),
    "swin_large_window12_backbone_mmseg": (upernet("swin-l"), set()),
    "swin_large_patch4_window12_384_22k_official": (upernet("swin-l"), SWIN_NORMS),
    "convnext_xlarge_in21k_mmcls": (upernet("convnext-xl"), CONVNEXT_NORMS),
    "convnext_xlarge_22k_official": (upernet("convnext-xl"), CONVNEXT_NORMS),
}
EXPECTED_UNUSED = (
    r"conv_head",
    r"dcnv3_head_x3",
    r"dcnv3_head_x4",
    r"clip_projector",
    r"fc_norm",
    r"head",
    r"norm",  # Swin's last norm before its classifier
)


@pytest.mark.golden
def test_every_published_table_has_a_target(golden_tables):
    for path in (golden_tables / "keys").glob("*.json"):
        kind = weights_of(read_table(golden_tables, path.stem)).kind
        assert kind is not None, path.stem
        assert path.stem in TARGETS or kind.is_refiner, path.stem


@pytest.mark.golden
@pytest.mark.parametrize("table", TARGETS)
def test_every_tensor_of_a_published_file_finds_its_place(table, golden_tables):
    config, absent = TARGETS[table]
    tensors, target = read_table(golden_tables, table), meta_state(json.dumps(config))
    filled, audit = weights_of(tensors, table).place(target)
    assert audit.resized == {}
    assert {name: tensor.shape for name, tensor in filled.items()} == {n: target[n].shape for n in filled}
    for name in audit.unused:
        assert name.removeprefix("backbone.").split(".")[0] in EXPECTED_UNUSED or name.endswith("attn_mask"), name
    missing = {name for name in audit.new if name.startswith("backbone.")}
    assert {name for name in missing if not name.endswith("relative_position_index")} == absent
    if any(name.startswith("decode_head.") for name in tensors):
        assert audit.new == []
        assert audit.unused == {}
    assert len(audit.loaded) + len(audit.renamed) + len(audit.unused) == len(tensors)


@pytest.mark.golden
def test_refiners_files_have_their_packages_names(golden_tables):
    found = set()
    for path in (golden_tables / "keys").glob("*.json"):
        tensors = read_table(golden_tables, path.stem)
        wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
        for file in (weights_of(tensors), weights_of(wrapped)):
            if not file.kind.is_refiner:
                continue
            found.add(file.kind.family)
            filled, audit = file.place(described_model(file.kind, where=path), whole=True)
            assert set(filled) == set(tensors)
            assert (audit.new, audit.unused) == ([], {})
    assert found == {"sam", "cascadepsp"}


@pytest.mark.golden
@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("mask2former_internimage_h", "Mask2Former InternImage-H, 124 classes, 256-d, 100 queries (names of mmdet 2)"),
        ("upernet_swin_l", "UperNet Swin-L, 124 classes"),
        ("internimage_h_jointto22k_384_classification", "backbone weights of InternImage-H (no prefix backbone.)"),
        ("swin_large_patch4_window12_384_22k_official", "backbone weights of Swin-L (names of the Swin authors)"),
        ("sam_vit_l", "Segment Anything vit_l"),
        ("cascadepsp", "CascadePSP"),
    ],
)
def test_a_files_kind_is_identified_from_its_contents(table, words, golden_tables):
    assert str(weights_of(read_table(golden_tables, table)).kind) == words


@pytest.mark.golden
def test_hugging_face_names_are_those_of_the_classifier(golden_tables):
    plain = read_table(golden_tables, "internimage_xl_22k_192to384_classification")
    renamed = {f"model.{n.replace('gamma', 'layer_scale')}": tensor for n, tensor in plain.items()}
    assert [*to_current_names(renamed).values()] == [*to_current_names(plain).values()]
    file = weights_of(renamed)
    filled, _ = file.place(meta_state(json.dumps(upernet("internimage-xl"))))
    assert sum(name.startswith("backbone.") for name in filled) == 875
    assert str(file.kind).endswith("(Hugging Face names)")


@pytest.mark.golden
@pytest.mark.parametrize("table", ["upernet_swin_l", "sam_vit_b", "upernet_internimage_xl", "cascadepsp"])
def test_a_file_of_another_family_is_refused_in_one_line(table, golden_tables):
    with pytest.raises(UserError, match=r"holds .*; the model's backbone is InternImage-H") as caught:
        weights_of(read_table(golden_tables, table)).place(meta_state(json.dumps(mask2former())))
    assert "\n" not in str(caught.value)


@pytest.mark.golden
def test_less_than_99_percent_of_a_backbone_is_an_error_with_names(golden_tables):
    tensors = read_table(golden_tables, "internimage_h_jointto22k_384_classification")
    target = meta_state(json.dumps(mask2former()))
    names = [name for name in tensors if name.startswith("levels.2.blocks.1")]
    few = {name: tensor for name, tensor in tensors.items() if name not in names[:5]}
    _, audit = weights_of(few).place(target)
    assert len([name for name in audit.new if name.startswith("backbone.")]) == 5
    many = {name: tensor for name, tensor in tensors.items() if name not in names}
    with pytest.raises(UserError, match=r"fills \d+ of 1335 backbone tensors.*lacks backbone\.levels\.2\."):
        weights_of(many).place(target)


@pytest.mark.golden
def test_queries_and_classes_of_other_numbers_on_the_published_files(golden_tables):
    tensors = read_table(golden_tables, "mask2former_internimage_h_1024d_200q_cocostuff164k")
    config = mask2former(num_classes=124, size="opengvlab", num_queries=100)
    _, audit = weights_of(tensors).place(meta_state(json.dumps(config)))
    assert "cut" in audit.resized["decode_head.query_feat.weight"]
    assert "no-object row kept" in audit.resized["decode_head.cls_embed.weight"]
    assert audit.new == []


@pytest.fixture(scope="module")
def nano() -> nn.Module:
    heads = mask2former_config("internimage-nano-h", num_classes=171, size="nano")
    return build_segmentor(segmentor_config("internimage-nano-h", heads))


@pytest.fixture(scope="module")
def nano_file(nano: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "coco.safetensors"
    save_tensors(nano.state_dict(), path)
    return path


def nano_model(num_classes: int, **overrides: int) -> nn.Module:
    heads = mask2former_config("internimage-nano-h", num_classes=num_classes, size="nano", **overrides)
    return build_segmentor(segmentor_config("internimage-nano-h", heads))


def test_weights_come_back_as_they_were_saved(nano, nano_file):
    model = nano_model(171)
    audit = read_weights(nano_file).fill(model)
    assert (audit.new, audit.unused, audit.resized, audit.renamed) == ([], {}, {}, {})
    for name, tensor in nano.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_our_own_files_are_neither_renamed_nor_filled_in_part(nano, tmp_path):
    state = nano.state_dict()
    name = "decode_head.query_feat.weight"
    without = {key: tensor for key, tensor in state.items() if key != name}
    for tensors, words in (
        (without, f"lacks 1 tensors of the model, such as {name}"),
        ({**state, "neck.weight": torch.ones(1)}, r"has 1 tensors beyond the model's, such as neck\.weight"),
        ({f"module.{key}": tensor for key, tensor in state.items()}, r"fills 0 of \d+ backbone tensors"),
    ):
        save_tensors(tensors, tmp_path / "ours.safetensors")
        with pytest.raises(UserError, match=rf"ours\.safetensors: {words}"):
            read_weights(tmp_path / "ours.safetensors").fill(nano_model(171))
    save_tensors({**state, "auxiliary_head.conv_seg.weight": torch.ones(1)}, tmp_path / "trained.safetensors")
    audit = read_weights(tmp_path / "trained.safetensors").fill(nano_model(171))
    assert audit.unused == {"auxiliary_head.conv_seg.weight": "auxiliary head, which only training uses"}


def test_files_that_we_wrote_before_they_were_marked_are_read(nano, nano_file, tmp_path):
    old = tmp_path / "weights.safetensors"
    save_file(nano.state_dict(), old)
    assert (read_weights(old).is_ours, read_weights(nano_file).is_ours) == (False, True)
    model = nano_model(171)
    audit = read_weights(old).fill(model)
    assert (audit.new, audit.unused, audit.renamed) == ([], {}, {})
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in nano.state_dict().items())


def test_a_class_change_starts_fresh_but_keeps_no_object(nano, nano_file):
    model = nano_model(124)
    before = model.decode_head.cls_embed.weight.detach().clone()
    audit = read_weights(nano_file).initialise(model)
    after = model.decode_head.cls_embed.weight
    assert torch.equal(after[-1], nano.decode_head.cls_embed.weight[-1])
    assert torch.equal(after[:-1], before[:-1])
    assert audit.classes == {}


def test_rows_of_classes_are_copied_by_name_where_requested(nano, nano_file):
    model = nano_model(124)
    before = model.decode_head.cls_embed.bias.detach().clone()
    audit = read_weights(nano_file).initialise(model, classes=VSPW.classes)
    source, after = nano.decode_head.cls_embed, model.decode_head.cls_embed
    pairs = {"car": "car", "person": "person", "cattle": "cow", "wall": "wall-other", "sofa": "couch"}
    for ours, theirs in pairs.items():
        row, origin = VSPW.classes.index(ours), COCO_STUFF.classes.index(theirs)
        assert torch.equal(after.weight[row], source.weight[origin]), ours
        assert audit.classes[ours] == theirs
    ladder = VSPW.classes.index("ladder")
    assert torch.equal(after.bias[ladder], before[ladder])
    assert torch.equal(after.bias[-1], source.bias[-1])


def test_the_files_own_class_names_count_first(nano, tmp_path):
    names = [f"class {i}" for i in range(170)] + ["ladder"]
    torch.save({"state_dict": nano.state_dict(), "meta": {"CLASSES": tuple(names)}}, tmp_path / "own.pth")
    model = nano_model(124)
    audit = read_weights(tmp_path / "own.pth").initialise(model, classes=VSPW.classes)
    assert audit.classes == {"ladder": "ladder"}
    row = VSPW.classes.index("ladder")
    assert torch.equal(model.decode_head.cls_embed.weight[row], nano.decode_head.cls_embed.weight[170])


def test_given_names_of_the_files_classes_are_checked(nano_file):
    with pytest.raises(UserError, match="171 classes, but 3 class names"):
        read_weights(nano_file).initialise(nano_model(124), classes=VSPW.classes, source_classes=["a", "b", "c"])


@pytest.mark.parametrize("queries", [12, 24, 60])
def test_queries_are_cut_or_repeated(queries, nano, nano_file):
    model = nano_model(171, num_queries=queries)
    read_weights(nano_file).initialise(model)
    source = nano.decode_head.query_feat.weight
    for i, row in enumerate(model.decode_head.query_feat.weight):
        assert torch.equal(row, source[i % len(source)])


def test_any_other_shape_is_an_error_where_the_model_is_filled_whole(nano_file):
    with pytest.raises(UserError, match=r"cls_embed.* has shape"):
        read_weights(nano_file).fill(nano_model(124))


def test_a_file_without_the_prefix_is_loaded_all_the_same(nano, tmp_path):
    bare = {n.removeprefix("backbone."): t for n, t in nano.state_dict().items() if n.startswith("backbone.")}
    torch.save({"model": {f"module.{name}": tensor for name, tensor in bare.items()}}, tmp_path / "bare.pth")
    model = nano_model(124)
    audit = read_weights(tmp_path / "bare.pth").initialise(model)
    assert len(audit.renamed) == len(bare)
    for name, tensor in nano.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor), name


def test_two_tensors_for_one_place_are_an_error(nano, tmp_path):
    state = nano.state_dict()
    name = next(iter(state))
    torch.save({**state, f"module.{name}": state[name]}, tmp_path / "double.pth")
    with pytest.raises(UserError, match="are both"):
        read_weights(tmp_path / "double.pth").initialise(nano_model(171))


def test_swins_tables_are_resized_to_another_window(tmp_path):
    heads = upernet_config("swin-nano", num_classes=5, size="nano")
    small = build_segmentor(segmentor_config("swin-nano", heads))
    save_tensors(small.state_dict(), tmp_path / "swin.safetensors")
    large = build_segmentor(segmentor_config("swin-nano", heads, window_size=8))
    index = large.backbone.stages[0].blocks[0].attn.w_msa.relative_position_index.clone()
    audit = read_weights(tmp_path / "swin.safetensors").initialise(large)
    name = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table"
    assert audit.resized[name] == "[49, 1] -> [225, 1]: bicubic"
    before, after = small.state_dict()[name].reshape(7, 7), large.state_dict()[name].reshape(15, 15)
    # The two grids share their centre, and bicubic interpolation goes through the points of the old grid there.
    assert torch.allclose(after[7, 7], before[3, 3], atol=1e-6)
    assert torch.equal(large.backbone.stages[0].blocks[0].attn.w_msa.relative_position_index, index)


def official_patch_merging(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Swin Transformer (arXiv 2103.14030, section 3.1): the 2x2 neighbours side by side, norm, linear; x [H, W, C]."""
    neighbours = [x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]]
    merged = torch.cat(neighbours, -1)
    normed = nn.functional.layer_norm(merged, merged.shape[-1:], state["norm.weight"], state["norm.bias"])
    return normed @ state["reduction.weight"].T


def test_official_patch_merging_gives_the_same_numbers_after_reordering():
    generator = torch.Generator().manual_seed(0)
    shapes = {"norm.weight": [12], "norm.bias": [12], "reduction.weight": [6, 12]}
    official = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    ours = PatchMerging(in_channels=3, out_channels=6)
    prefix = "backbone.stages.0.downsample."
    ours.load_state_dict({name: in_unfold_order(prefix + name, tensor) for name, tensor in official.items()})
    x = torch.randn(4, 6, 3, generator=generator)
    found, _ = ours(x.reshape(1, 24, 3), (4, 6))
    expected = official_patch_merging(x, official)
    assert torch.allclose(found.reshape(2, 3, 6), expected, atol=1e-5)
    assert in_unfold_order("backbone.norm0.weight", x) is x


def test_class_names_match_by_meaning():
    matches = matching_classes(
        ["Playground_slide", "other_animal", "ship_or_boat", "flower_pot_or_vase"], ["vase", "boat"]
    )
    assert matches == [None, None, 1, 0]
    ade = classes_by_number(150)
    found = dict(zip(VSPW.classes, matching_classes(VSPW.classes, ade), strict=True))
    assert [ade[found[name]].strip() for name in ("bed", "toy", "window", "other_animal")] == [
        "bed",
        "plaything",
        "windowpane",
        "animal",
    ]
    assert classes_by_number(19) is None


@pytest.mark.parametrize("count", [124, 150, 171])
def test_every_label_space_matches_itself(count):
    names = classes_by_number(count)
    matched = matching_classes(names, names)
    assert [names[i] for i in matched if i is not None] == [
        n for n, i in zip(names, matched, strict=True) if i is not None
    ]
    assert sum(i == j for i, j in enumerate(matched)) >= 0.97 * count
