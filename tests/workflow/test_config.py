"""Every mistake in a config is one line that names the key, before any rule exists."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.raw_dataset import FRAMES, RawVspw, save_mask
from vss import configs
from vss.configs.datasets import read_dataset_row
from vss.core.class_table import SHIPPED_MAPS, read_class_map, shipped_space
from vss.core.errors import UserError
from vss.core.shards import shard_of
from vss.workflow import jobs
from vss.workflow import plan as plan_module
from vss.workflow.config import check_command_line, check_files, load_config, read_config
from vss.workflow.plan import Plan, any_of
from vss.workflow.settings import check_soups, check_views, counted_settings, resolved_rows, training_digest

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = ("upernet_small", "mask2former_small", "mask2former_small_coco")


@pytest.fixture
def config() -> dict[str, Any]:
    return {
        "data": {"vspw": {"root": None, "shards": {"val": 2}}, "coco_stuff": {}},
        "models": {
            "a": {"finetune": {"config": "upernet_small", "max_iters": 10, "batch_size": 2}},
            "b": {
                "pretrain": {"config": "mask2former_small_coco"},
                "finetune": {"config": "mask2former_small"},
                "test": {"size_divisor": 32},
            },
        },
        "tta": {"single": {"img_ratios": [1.0]}, "flip": {"flip": True}},
        "ensembles": {"both": {"members": {"a.single": 1, "b.flip": 2}}},
        "refiners": {"ssa": {"method": "ssa"}, "cascadepsp": {"method": "cascadepsp"}},
        "predictions": {"a.single": None, "b.flip.ssa": {"table": 4, "paper": {"test": 64.11}}, "both": {}},
        "targets": {"submit": ["both.ssa.cascadepsp"]},
    }


def plan_of(config: dict[str, Any]) -> Plan:
    return Plan(read_config(config), row_names=ROWS)


def put(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for key in parents:
        config = config.setdefault(key, {})
    if value is DELETE:
        del config[last]
    else:
        config[last] = value


DELETE = object()

MISTAKES = [
    # (where, what, words the one line must hold)
    ("results", "", ["results: is '', must not be empty"]),
    ("colour", "red", ["unknown key 'colour'", "allowed: data"]),
    ("protocoll", "paper", ["unknown key 'protocoll'", "did you mean 'protocol'"]),
    ("protocol", "published", ["protocol", "'published'", "'as_published'"]),
    ("retrain_on_code_change", "yes", ["retrain_on_code_change", "'yes'", "true or false"]),
    ("data", DELETE, ["'data' is missing"]),
    ("targets/flow", "raft", ["targets.flow_weights", "raft_large", "flow is 'raft', flow_weights None"]),
    ("targets/flow_weights", "no/such.pth", ["targets.flow_weights", "null elsewhere", "'no/such.pth'"]),
    ("refiners/ssa/flow", "raft", ["refiners.ssa.flow_weights: must be the weights of torchvision's raft_large"]),
    ("refiners/ssa", {"method": "ssa", "flow": "raft", "flow_weights": __file__}, ["ssa.flow: allowed only next to"]),
    ("data/vspw/root", 7, ["data.vspw.root", "7", "text or null"]),
    ("data/vspw/root", "no/such/folder", ["data.vspw.root", "no folder 'no/such/folder'"]),
    ("data/coco_stuff/root", "no/such/coco", ["data.coco_stuff.root", "no folder"]),
    ("data/vspw/on_problem", "ignore", ["data.vspw.on_problem", "'ignore'", "'stop', 'skip'"]),
    ("data/vspw/shards/val", 0, ["data.vspw.shards.val", "0", "at least 1"]),
    ("data/vspw/shards/val", 1001, ["data.vspw.shards.val", "1001", "at most 1000"]),
    ("models/a/finetune/micro_batch", 1, ["'micro_batch' is a setting of the row", "cfg_options: {micro_batch: 1}"]),
    ("data/vspw/shards/valid", 2, ["data.vspw.shards", "unknown key 'valid'"]),
    ("data/vspw/drawn", {"frames": 18}, ["data.vspw.drawn", "unknown key 'frames'", "allowed: height"]),
    ("data/coco_stuff/drawn", {"height": 8}, ["data.coco_stuff.drawn.height", "8", "at least 32"]),
    ("data/street", {"root": "no/street"}, ["data.street.images", "is missing"]),
    ("models/a/finetune/data", "vspv", ["models.a.finetune.data", "'vspv'", "did you mean 'vspw'"]),
    ("targets/data", "vspv", ["targets.data", "did you mean 'vspw'"]),
    ("models", {}, ["models", "empty"]),
    ("models/c.d", {"finetune": {"config": "upernet_small"}}, ["models", "'c.d'", "dot"]),
    ("models/a/finetune/max_itters", 3, ["models.a.finetune", "'max_itters'", "did you mean 'max_iters'"]),
    ("models/a/finetune/max_iters", "200", ["models.a.finetune.max_iters", "'200'", "whole number"]),
    ("models/a/finetune/max_iters", 0, ["models.a.finetune.max_iters", "at least 1"]),
    ("models/a/finetune/batch_size", 2.5, ["models.a.finetune.batch_size", "2.5", "whole number"]),
    ("models/a/finetune/config", "upernet_smal", ["models.a.finetune.config", "did you mean 'upernet_small'"]),
    ("models/a/finetune/config", DELETE, ["models.a.finetune", "'config' is missing"]),
    ("models/a/finetune/init", "no/weights.pth", ["models.a.finetune.init", "no file 'no/weights.pth'"]),
    ("models/b/finetune/init", "no/weights.pth", ["models.b.finetune.init", "pretrain"]),
    ("models/a/weights", "no/w.safetensors", ["models.a", "exactly one of"]),
    ("models/c", {"weights": "w.pth"}, ["models.c.config", "missing"]),
    ("models/c", {"weights": "no/w.pth", "config": "upernet_small"}, ["models.c.weights", "no file 'no/w.pth'"]),
    ("models/c", {}, ["models.c", "exactly one of", "none"]),
    ("models/c", {"soup": ["a", "z"]}, ["models.c.soup", "'z'"]),
    ("models/both", {"finetune": {"config": "upernet_small"}}, ["both", "taken"]),
    ("tta/flip/img_ratios", [0.001], ["tta.flip.img_ratios.0", "0.001", "at least 0.125"]),
    ("tta", {640: {}}, ["tta: name 640 (a whole number) must be text"]),
    ("predictions", {1.5: {}}, ["predictions: name 1.5 (a number) must be text"]),
    ("tta/flip/img_ratios", [], ["tta.flip.img_ratios", "at least 1"]),
    ("tta/flip/flip", 1, ["tta.flip.flip", "true or false"]),
    ("tta/flip/mode", "sliding", ["tta.flip.mode", "'whole', 'slide'"]),
    ("ensembles/both/members/a.singel", 1, ["ensembles.both.members", "'a.singel'", "did you mean 'single'"]),
    ("ensembles/both/members/c.single", 1, ["ensembles.both.members", "no model 'c'"]),
    ("ensembles/both/members/a.single", -1, ["ensembles.both.members.a.single", "more than 0"]),
    ("ensembles/both/members", {}, ["ensembles.both.members", "empty"]),
    ("refiners/ssa/method", "crf", ["refiners.ssa.method", "'crf'"]),
    ("refiners/ssa/weights", "no/sam.pth", ["refiners.ssa.weights", "no file"]),
    ("refiners/ssa/settings", {"min_purty": 0.5}, ["refiners.ssa.settings", "did you mean 'min_purity'"]),
    ("refiners/ssa/settings", {"min_area": 9}, ["refiners.ssa.settings", "unknown key 'min_area'"]),
    ("refiners/ssa/proposals", {"methd": "slic"}, ["refiners.ssa.proposals", "did you mean 'method'"]),
    ("refiners/ssa/proposals", {"points_per_side": 8}, ["refiners.ssa.proposals", "unknown key 'points_per_side'"]),
    ("refiners/ssa/proposals", {"segments": [9]}, ["refiners.ssa.proposals", "unknown key 'segments'"]),
    ("refiners/ssa/proposals", {"method": "slic", "scales": [9]}, ["refiners.ssa.proposals", "unknown key 'scales'"]),
    ("refiners/ssa/proposals", {"method": "sam"}, ["refiners.ssa.proposals.method", "'felzenszwalb', 'slic'"]),
    ("refiners/ssa", {"method": "tubes", "weights": __file__}, ["refiners.ssa.proposals.method: must be sam2 where"]),
    (
        "refiners/ssa",
        {"method": "tubes", "weights": __file__, "proposals": {"method": "sam2", "preset": "fast"}},
        ["refiners.ssa.proposals", "unknown key 'preset'"],
    ),
    (
        "refiners/ssa",
        {"method": "tubes", "weights": __file__, "proposals": {"method": "sam2"}},
        ["refiners.ssa.weights: no file", "config.json"],
    ),
    ("refiners/ssa/training", {"max_iters": 9}, ["refiners.ssa.training", "allowed only next to method cascadepsp"]),
    ("refiners/ssa/search_settings", True, ["refiners.ssa.search_settings", "allowed only next to method temporal"]),
    ("refiners/cascadepsp/proposals", {"sigma": 1}, ["refiners.cascadepsp.proposals", "only next to method ssa"]),
    ("refiners/cascadepsp/training", {"crop": 33}, ["refiners.cascadepsp.training.crop: is 33", "a multiple of 8"]),
    ("refiners/cascadepsp/settings", {"L": 65}, ["refiners.cascadepsp.settings.L: is 65", "at least 66"]),
    ("refiners/cascadepsp/settings", {"mode": "double_pass"}, ["settings.mode: is 'double_pass'", "'scene_parsing'"]),
    ("refiners/cascadepsp/settings", {"min_purity": 0.5}, ["refiners.cascadepsp.settings", "unknown key 'min_purity'"]),
    (
        "refiners/cascadepsp/settings",
        {"classes": ["sky", "treee"]},
        ["refiners.cascadepsp.settings.classes", "'treee'", "did you mean 'tree'"],
    ),
    ("ensembles/both/members/a.single", {"wieght": 2}, ["members.a.single", "did you mean 'weight'"]),
    ("ensembles/both/members/a.single", {"class_weights": {"skyy": 2}}, ["class_weights", "did you mean 'sky'"]),
    ("targets/flow", "gma", ["targets.flow", "'gma'", "'dis'"]),
    ("refiners/single", {"method": "ssa"}, ["refiners.single", "taken by tta.single"]),
    ("predictions/a", {}, ["predictions: 'a' names no ensemble; a model needs a tta: a.single"]),
    ("predictions/a.single.sa", {}, ["predictions: 'a.single.sa' names no refiner 'sa' (did you mean 'ssa'?)"]),
    ("predictions/a.singel.ssa", {}, ["predictions: 'a.singel.ssa' names no tta 'singel' (did you mean 'single'?)"]),
    ("predictions/both.crf.ssa", {}, ["predictions: 'both.crf.ssa' names no refiner 'crf'"]),
    ("ensembles/both/members/a.single.ssa", 1, ["ensembles.both.members: 'a.single.ssa' is no `model.tta`"]),
    ("ensembles/more", {"members": {"both": 1}}, ["ensembles.more.members: 'both' is no `model.tta`"]),
    ("predictions/nobody.single", {}, ["predictions", "no model 'nobody'"]),
    ("predictions/a.single", {"table": 5}, ["predictions.a.single.table", "at most 4"]),
    ("targets/submit", ["both", "both"], ["targets.submit: holds 'both' more than once"]),
    ("targets/submit", ["bth"], ["targets.submit", "'bth'", "did you mean 'both'"]),
    ("targets/score_split", "test", ["targets.score_split", "'test'", "'val', 'train'"]),
    ("report/colours", {"dragon": "#ff0000"}, ["report.colours", "'dragon'"]),
    ("report/colours", {"wall": "red"}, ["report.colours.wall", "'red'"]),
    ("report/overlays", ["a.flip"], ["report.overlays", "'a.flip'", "not among predictions"]),
]


def test_the_config_without_mistakes_is_accepted(config: dict[str, Any]) -> None:
    plan_of(config)


@pytest.mark.parametrize(
    ("path", "value", "words"), MISTAKES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_mistake_is_one_line_that_names_it(config: dict[str, Any], path: str, value: Any, words: list[str]) -> None:
    put(config, path, value)
    with pytest.raises(UserError) as caught:
        plan_of(config)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("config: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize("written", ["no", "8", "~", "on"])
def test_names_that_yaml_takes_for_something_else(config: dict[str, Any], written: str) -> None:
    (name,) = yaml.safe_load(f"{written}: 1")
    config["models"][name] = config["models"]["a"]
    with pytest.raises(UserError, match=r"^config: models: name .* must be text; put it in quotes$"):
        plan_of(config)


def test_defaults_are_filled_in_and_the_users_values_kept(config: dict[str, Any]) -> None:
    before = copy.deepcopy(config)
    filled = read_config(config)
    assert config == before
    assert filled["protocol"] == "paper"
    assert filled["data"]["vspw"]["shards"] == {"train": 1, "val": 2, "test": 1}
    assert filled["data"]["coco_stuff"]["on_problem"] == "stop"
    assert filled["models"]["a"]["finetune"]["max_iters"] == 10
    assert filled["models"]["a"]["finetune"]["gpus"] == 1
    assert filled["report"]["frames"] > 0


def test_questions(config: dict[str, Any]) -> None:
    plan = plan_of(config)
    assert plan.pretrained() == ["b"]
    assert plan.finetuned() == ["a", "b"]
    assert plan.refinement("both.ssa.cascadepsp") == ("both.ssa", "cascadepsp")
    assert plan.base("both.ssa.cascadepsp") == "both"
    assert plan.refinement("b.flip") is None
    assert plan.with_scores() == ["a.single", "b.flip"]
    assert plan.views("b", "flip") == {"size_divisor": 32, "flip": True}
    assert plan.shards("val") == ["00", "01"]
    assert plan.title("b.flip.ssa") == "b + flip + ssa"
    assert plan.title("b.single.ssa") == "b + ssa"


def test_scores_are_stored_only_for_ensembles_that_are_used(config: dict[str, Any]) -> None:
    del config["predictions"]["both"]
    config["targets"] = {}
    assert plan_of(config).with_scores() == []


def test_scores_are_stored_for_a_refiner_that_needs_them(config: dict[str, Any]) -> None:
    del config["predictions"]["both"]
    config["targets"] = {}
    config["refiners"]["temporal"] = {"method": "temporal", "settings": {"votes": "scores"}}
    config["refiners"]["either"] = {"method": "temporal"}
    config["predictions"] = {"a.single.temporal": {}, "b.single.either": {}, "a.single.either.ssa": {}}
    plan = plan_of(config)
    assert plan.with_scores() == ["a.single"]
    assert plan.reads_scores("a.single", "temporal") and plan.reads_scores("a.single", "either")
    assert not plan.reads_scores("b.single", "either") and not plan.reads_scores("a.single", "ssa")
    assert plan.reads_flow("a.single", "temporal") and not plan.reads_flow("a.single", "ssa")
    config["predictions"] = {"both.temporal": {}}
    with pytest.raises(UserError, match=r"both.temporal.*settings\.votes is 'scores'"):
        plan_of(config)


def test_refiners_share_proposals_that_are_made_alike(config: dict[str, Any]) -> None:
    config["refiners"]["tubes"] = {"method": "tubes", "proposals": {"scales": [4]}}
    plan = plan_of(config)
    assert plan.proposal_set("tubes") in plan.proposal_sets() and plan.reads_flow("a.single", "tubes")
    config["refiners"]["pure"] = {"method": "ssa", "settings": {"min_purity": 0.9}}
    config["refiners"]["fine"] = {"method": "ssa", "proposals": {"scales": [4]}}
    plan = plan_of(config)
    assert plan.proposal_set("pure") == plan.proposal_set("ssa") != plan.proposal_set("fine")
    assert set(plan.proposal_sets()) == {plan.proposal_set("ssa"), plan.proposal_set("fine")}


def test_flow_is_named_by_its_method_and_weights(config: dict[str, Any], tmp_path: Path) -> None:
    weights = tmp_path / "raft.pth"
    weights.write_bytes(b"weights")
    config["refiners"]["temporal"] = {"method": "temporal"}
    raft = {"flow": "raft", "flow_weights": str(weights)}
    config["refiners"]["along-raft"] = {"method": "temporal", **raft}
    config["refiners"]["tubes"] = {"method": "tubes", **raft}
    plan = plan_of(config)
    assert plan.flow_set("temporal") == "dis" and plan.flow_set("along-raft") == plan.flow_set("tubes")
    (named,) = set(plan.flow_sets()) - {"dis"}
    assert named == f"raft-{plan.content_of(str(weights))[:8]}"
    assert (plan.flow_gpu("dis"), plan.flow_gpu(named)) == (0, 1)
    assert (jobs.flow_method(plan, named), jobs.flow_weights(plan, named)) == ("raft", str(weights))
    weights.unlink()
    with pytest.raises(UserError, match=r"refiners.along-raft.flow_weights: no file"):
        plan_of(config)


def test_a_member_is_a_weight_or_a_map(config: dict[str, Any]) -> None:
    config["ensembles"]["both"]["members"]["b.flip"] = {"temperature": 1.5, "class_weights": {"sky": 2}}
    assert plan_of(config).member_settings("both") == [
        {"name": "a.single", "weight": 1},
        {"name": "b.flip", "weight": 1, "temperature": 1.5, "class_weights": {"sky": 2}},
    ]


@pytest.mark.parametrize(
    "settings",
    [{"L": 66}, {"mode": "generic", "min_size": 0}, {"mode": "single_pass", "L": 448, "min_size": 224}],
)
def test_cascadepsp_sees_sides_that_its_procedure_can_work_at(config: dict[str, Any], settings: dict) -> None:
    config["refiners"]["cascadepsp"]["settings"] = settings
    plan_of(config)


def test_tubes_of_sam_2_follow_no_flow_and_count_its_config(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    weights = str(tmp_path / "model.safetensors")
    config["refiners"]["tubes"] = {"method": "tubes", "weights": weights, "proposals": {"method": "sam2"}}
    config["refiners"]["linked"] = {"method": "tubes"}
    plan = plan_of(config)
    assert not plan.refiners["tubes"].follows_flow and plan.refiners["linked"].follows_flow
    assert plan.proposal_set("tubes").startswith("sam2-") and plan.proposals_gpu(plan.proposal_set("tubes")) == 1
    (tmp_path / "config.json").write_text('{"num_maskmem": 5}')
    assert plan_of(config).proposal_set("tubes") != plan.proposal_set("tubes")


def test_all_that_is_not_there_is_named_at_once(config: dict[str, Any]) -> None:
    config["data"]["vspw"]["root"] = "no/vspw"
    config["models"]["a"]["finetune"]["init"] = "no/init.pth"
    config["refiners"]["ssa"]["weights"] = "no/sam.pth"
    with pytest.raises(UserError) as caught:
        plan_of(config)
    for word in ("data.vspw.root: no folder 'no/vspw'", "init: no file 'no/init.pth'", "no file 'no/sam.pth'; README"):
        assert word in str(caught.value)


def test_a_key_that_is_there_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("models:\n  a: {x: 1}\n  b: [1, {y: 2}]\n  a: {x: 2}\n")
    with pytest.raises(UserError, match=r"^config: .*c\.yaml, line 4: key 'a' is there twice$"):
        check_files([tmp_path / "c.yaml"])
    (tmp_path / "c.yaml").write_text("models: {a: {x: 1}, b: {x: 1}}\nx: [{x: 1}, {x: 2}]\n")
    check_files([tmp_path / "c.yaml"])


@pytest.mark.parametrize("spelling", ["out", "./out/", "{here}/out", "{link}/out"])
def test_a_folder_has_one_name(spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict) -> None:
    here, link = tmp_path / "here", tmp_path / "link"
    here.mkdir()
    link.symlink_to(here)
    (tmp_path / "disk").mkdir()
    (here / "out").symlink_to(tmp_path / "disk")  # results kept elsewhere keep their name here
    monkeypatch.chdir(here)
    checked = read_config(config | {"results": spelling.format(here=here, link=link), "work": "~/w"})
    assert checked["results"] == "out"
    assert checked["work"] == str(Path.home() / "w")


def test_a_refiner_with_weights_is_not_trained(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    config["refiners"]["cascadepsp"] |= {"weights": str(tmp_path / "weights"), "training": {"max_iters": 9}}
    with pytest.raises(
        UserError, match=r"^config: refiners.cascadepsp.training: allowed only next to .* without weights"
    ):
        plan_of(config)


def default_config() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))


def resolved_plan(config: dict[str, Any]) -> Plan:
    """What the Snakefile asks before any rule is defined."""
    plan = Plan(read_config(config), row_names=configs.names())
    resolved_rows(plan)
    check_soups(plan)
    check_views(plan)
    return plan


COCO_ROW, VSPW_ROW = "mask2former_internimage-nano-h_coco_stuff", "mask2former_internimage-nano-h_vspw"
RESOLVED_MISTAKES = [
    (
        "models/mix",
        {"soup": ["convnext", "swin"]},
        ["models.mix.soup: convnext", "and swin", "differ in model.backbone"],
    ),
    ("models/mix", {"soup": ["swin", "big"]}, ["models.mix.soup: swin", "and big", "model.data_preprocessor.size"]),
    ("models/swin/finetune/config", COCO_ROW, ["models.swin.finetune.config", COCO_ROW, "coco_stuff, must be", "vspw"]),
    (
        "models/internimage-h-m2f-coco/pretrain/config",
        VSPW_ROW,
        ["models.internimage-h-m2f-coco.pretrain.config", VSPW_ROW, "is for vspw, must be one for coco_stuff"],
    ),
    ("models/done/config", COCO_ROW, ["models.done.config", COCO_ROW, "must be one for vspw"]),
    (
        "models/swin/finetune/cfg_options",
        {"optim_wrapper.optimizer.weight_deacy": 1.0},
        ["models.swin.finetune", "optimizer (AdamW) takes no 'weight_deacy' (did you mean 'weight_decay'?)"],
    ),
    ("models/swin/cfg_options", {"optim_wrapper": {"clip_gard": None}}, ["no 'clip_gard' (did you mean 'clip_grad'?)"]),
    (
        "models/swin/finetune/cfg_options",
        {"optim_wrapper.optimizer.lr": -1.0},
        ["models.swin.finetune", "optim_wrapper.optimizer.lr is -1.0, must be a number above 0"],
    ),
    ("models/swin/cfg_options", {"optim_wrapper.optimizer.weight_decay": -1}, ["weight_decay is -1", "at least 0"]),
]


@pytest.mark.parametrize(
    ("path", "value", "words"), RESOLVED_MISTAKES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_does_not_fit_its_row_stops_before_anything_is_trained(
    path: str, value: Any, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "w.pth").touch()
    config = default_config()
    config["models"]["big"] = {"finetune": {"config": "upernet_swin-nano_vspw", "cfg_options": {"crop_size": [96, 96]}}}
    config["models"]["done"] = {"weights": str(tmp_path / "w.pth"), "config": "upernet_swin-nano_vspw"}
    spared = {"finetune": {"config": "upernet_swin-nano_vspw", "cfg_options": {"grad_checkpoint": True}}}
    config["models"] |= {"spared": spared, "alike": {"soup": ["swin", "done", "spared"]}}
    resolved_plan(config)
    put(config, path, value)
    with pytest.raises(UserError) as caught:
        resolved_plan(config)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("config: models.")
    for word in words:
        assert word in line


def test_settings_of_how_a_training_runs_do_not_count() -> None:
    config = default_config()
    plan = resolved_plan(config)
    config["models"]["swin"]["cfg_options"] = {"num_workers": 2, "micro_batch": 1, "log_interval": 7}
    config["models"]["swin"]["finetune"] |= {"checkpoint_interval": 7, "cfg_options": {"grad_checkpoint": True}}
    other = resolved_plan(config)
    assert other.training_settings("finetune", "swin") != plan.training_settings("finetune", "swin")
    assert counted_settings(other, "finetune", "swin") == counted_settings(plan, "finetune", "swin")
    for name in ("finetune/swin", "pretrain/internimage-h-m2f-coco"):
        assert training_digest(other, name) == training_digest(plan, name)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"mode": "slide"}, ["swin.bad", "slide needs"]),
        ({"mode": "slide", "crop_size": [32, 32], "stride": [64, 32]}, ["swin.bad", "tta.stride"]),
    ],
)
def test_views_that_cannot_work_are_refused_before_anything_is_trained(views: dict, words: list[str]) -> None:
    config = default_config()
    config["tta"]["bad"] = views
    plan = Plan(read_config(config), row_names=configs.names())
    check_views(plan)  # nothing uses it yet
    config["predictions"]["swin.bad"] = {}
    with pytest.raises(UserError) as error:
        check_views(Plan(read_config(config), row_names=configs.names()))
    assert all(word in str(error.value) for word in words), error.value


def test_the_data_digest_follows_settings_and_lists(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "train.txt").write_text("one\n")
    config["data"]["vspw"]["root"] = str(tmp_path)
    first = plan_of(config).data_digest("vspw", ["train"])
    config["data"]["vspw"]["shards"]["val"] = 3
    (tmp_path / "val.txt").write_text("three\n")
    assert plan_of(config).data_digest("vspw", ["train"]) == first
    (tmp_path / "train.txt").write_text("two\n")
    assert plan_of(config).data_digest("vspw", ["train"]) != first


def test_training_settings_hold_what_the_result_depends_on_and_nothing_else(config: dict[str, Any]) -> None:
    config["models"]["a"]["finetune"]["gpus"] = 4
    config["models"]["a"]["cfg_options"] = {"x.y": 1}
    settings = plan_of(config).training_settings("finetune", "a")
    assert "gpus" not in settings
    assert settings["cfg_options"] == {"x.y": 1}


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    """Label maps of another system, which plans do not open."""
    for video in ("v0", "v1"):
        (tmp_path / "peer" / video).mkdir(parents=True)
        (tmp_path / "peer" / video / "1.png").write_text(video)
    return tmp_path / "peer"


def test_an_imported_prediction_is_a_prediction_like_any_other(config: dict[str, Any], peer: Path) -> None:
    config["predictions"] |= {"peer": {"title": "A peer", "labels": str(peer)}, "peer.ssa": {}, "mixed": {}}
    config["ensembles"]["mixed"] = {"members": {"peer": 1, "a.single": 2}}
    plan = plan_of(config)
    assert plan.scored() == ["a.single", "b.flip.ssa", "both", "peer", "peer.ssa", "mixed"]
    assert plan.inferred() == ["a.single", "b.flip"]
    assert plan.with_scores() == ["a.single", "b.flip", "peer"]
    assert list(plan.imports) == ["peer"] and plan.title("peer.ssa") == "A peer + ssa"
    config["predictions"]["peer"] = {
        "title": "A peer",
        "labels": str(peer),
        "confidence": 0.7,
        "splits": ["val", "test"],
    }
    plan = plan_of(config)
    assert jobs.import_settings(plan, "peer") == {"prediction": "peer", "labels": str(peer), "confidence": 0.7}
    del config["predictions"]["mixed"]
    assert jobs.import_settings(plan_of(config), "peer") == {"prediction": "peer", "labels": str(peer)}


def test_a_prediction_of_test_alone_is_submitted_and_not_scored(config: dict[str, Any], peer: Path) -> None:
    config["predictions"]["peer"] = {"labels": str(peer), "splits": ["test"]}
    config["targets"]["submit"] = ["peer.ssa"]
    plan = plan_of(config)
    assert "peer" not in plan.scored()
    assert "peer" not in [row["name"] for row in jobs.report_settings(plan)["rows"]]


def test_only_the_shard_of_a_changed_file_is_imported_again(config: dict[str, Any], peer: Path, tmp_path: Path) -> None:
    config["predictions"]["peer"] = {"labels": str(peer)}
    config["data"]["vspw"]["shards"] = {"val": 2}
    mine = f"{shard_of('v0', 2):02d}"
    other = {"00": "01", "01": "00"}[mine]
    before = {shard: plan_of(config).import_content("peer", "val", shard) for shard in ("00", "01")}
    (peer / "v0" / "1.png").write_text("fixed")
    after = {shard: plan_of(config).import_content("peer", "val", shard) for shard in ("00", "01")}
    assert before[mine] != after[mine]
    assert before[other] == after[other]
    (tmp_path / "ids.csv").write_text("id,name\n0,wall\n")
    config["predictions"]["peer"]["ids"] = str(tmp_path / "ids.csv")
    with_table = plan_of(config).import_content("peer", "val", other)
    assert with_table != after[other]
    (tmp_path / "ids.csv").write_text("id,name\n0,door\n")
    assert plan_of(config).import_content("peer", "val", other) != with_table


def test_job_arrays_are_refused() -> None:
    with pytest.raises(SystemExit, match=r"^--slurm-array-jobs: waits for ever [^\n]*; leave it out$"):
        check_command_line(["--cores", "2", "--slurm-array-jobs", "all"])


def test_no_shard_looks_at_all_shards_or_videos(config: dict[str, Any], peer: Path, monkeypatch: Any) -> None:
    """What every job asks is worked out once: 1,000 shards of 100 predictions would take it a million times."""
    config["predictions"]["peer"] = {"labels": str(peer)}
    config["data"]["vspw"]["shards"] = {"val": 1000}
    asked: list[str] = []
    monkeypatch.setattr(plan_module, "shard_of", lambda video, shards: asked.append(video) or shard_of(video, shards))
    plan = plan_of(config)
    contents = [plan.import_content("peer", "val", shard) for shard in plan.shards("val")]
    videos = {folder.name for folder in peer.iterdir() if folder.is_dir()}
    assert sorted(asked) == sorted(videos)
    assert len({content["files"] for content in contents}) == 1 + len({shard_of(video, 1000) for video in videos})
    assert plan.shards("val") is plan.shards("val") and len(plan.shards("val")) == 1000


IMPORT_MISTAKES = [
    ("predictions/peer/labels", "no/such", ["predictions.peer.labels: no folder 'no/such'"]),
    ("predictions/peer/labels", "{peer}/{{video}}/mask/{{frame}}.png", ["predictions.peer.labels: no file matches"]),
    ("predictions/peer/scores", "x/{{frame}}.npz", ["predictions.peer: an imported", "found both"]),
    ("predictions/peer/layout", "dvsi", ["predictions.peer.layout: is 'dvsi', must be one of 'vspw', 'dvis'"]),
    ("predictions/peer/ids", "no/ids.csv", ["predictions.peer.ids: no file 'no/ids.csv'"]),
    ("predictions/peer/segments", "no.json", ["predictions.peer.segments: no file 'no.json'"]),
    ("predictions/a.single", {"ids": "raw"}, ["predictions.a.single", "exactly one of labels and scores; found none"]),
    ("predictions/a.single", {"labels": "{peer}"}, ["name 'a.single' of an imported prediction may hold letters"]),
    ("predictions/both", {"labels": "{peer}"}, ["predictions.both: is imported", "taken by ensembles.both"]),
    ("predictions/pear.ssa", {}, ["'pear.ssa' names no", "did you mean 'peer'"]),
    ("predictions/pear", {}, ["'pear' names no ensemble (did you mean 'peer'?)"]),
    ("predictions/peer.sa", {}, ["'peer.sa' names no refiner 'sa' (did you mean 'ssa'?)"]),
    ("ensembles/both/members", {"peer.ssa": 1}, ["'peer.ssa' is no `model.tta` or imported prediction"]),
    ("ensembles/both/members", {"pear": 1}, ["ensembles.both.members: 'pear' names no", "did you mean 'peer'"]),
    ("targets/submit", ["peer"], ["targets.submit: 'peer' needs peer on test; predictions.peer.splits is ['val']"]),
    ("ensembles/both/members", {"peer": 1}, ["targets.submit: 'both.ssa.cascadepsp' needs peer on test"]),
    ("targets/score_split", "train", ["predictions: 'peer.ssa' needs peer on train"]),
    ("report/overlays", ["pear"], ["report.overlays: 'pear' is not among predictions"]),
]


@pytest.mark.parametrize(("path", "value", "words"), IMPORT_MISTAKES)
def test_a_mistake_of_an_import_is_one_line(
    path: str, value: Any, words: list[str], config: dict[str, Any], peer: Path
) -> None:
    config["predictions"] |= {"peer": {"labels": str(peer)}, "peer.ssa": {}}
    plan_of(config)
    if isinstance(value, str):
        value = value.format(peer=peer)
    elif isinstance(value, dict) and "labels" in value:
        value = {"labels": str(peer)}
    put(config, path, value)
    with pytest.raises(UserError) as caught:
        plan_of(config)
    line = str(caught.value)
    assert line.startswith("config: ") and "\n" not in line
    for word in words:
        assert word in line


def test_predictions_that_none_covers_the_scored_split_are_refused(config: dict[str, Any], peer: Path) -> None:
    config["predictions"] = {"peer": {"labels": str(peer), "splits": ["test"]}}
    config["targets"] = {}
    with pytest.raises(UserError, match=r"^config: predictions: none covers 'val', which targets.score_split names$"):
        plan_of(config)


def test_any_of_matches_names_exactly() -> None:
    import re

    assert re.fullmatch(any_of(["a.b", "c"]), "a.b")
    assert not re.fullmatch(any_of(["a.b", "c"]), "axb")
    assert not re.fullmatch(any_of([]), "")


@pytest.mark.parametrize(
    "path", sorted([*REPOSITORY.glob("config.yaml"), *(REPOSITORY / "workflow/configs").glob("*.yaml")])
)
def test_every_config_in_the_tree_fits_the_schema(path: Path) -> None:
    read_config(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("results", "-rf", ["results: is '-rf'", "write ./-rf"]),
        ("results", "/", ["results: is '/'", "must be a folder of its own"]),
        ("results", ".", ["results: is '.'", "must be a folder of its own"]),
        ("work", "..", ["work: is '..'", "must be a folder of its own"]),
        ("results", "src", ["results: is 'src'", "the project's own folder src"]),
        ("results", "workflow/rules/out", ["results: is 'workflow/rules/out'", "folder workflow"]),
        ("results", "work", ["neither may be or hold the other"]),
        ("work", "results/work", ["neither may be or hold the other"]),
        ("results", "a_file", ["results: is 'a_file', which is a file"]),
        ("results", "nul\0", ["results: is 'nul\\x00'"]),
        ("report/title", "two\nlines", ["report.title: is 'two\\nlines', must be text without line breaks"]),
        ("report/overlay_alpha", float("nan"), ["report.overlay_alpha: is nan, must be a finite number"]),
        ("ensembles/both/members/a.single", float("inf"), ["ensembles.both.members.a.single: is inf"]),
        ("models/a/cfg_options", {"ema": float("nan")}, ["models.a.cfg_options.ema: is nan"]),
        ("models/c\n", {"finetune": {"config": "upernet_small"}}, ["models: is 'c\\n', must be text"]),
        (f"models/{'n' * 101}", {"finetune": {"config": "upernet_small"}}, ["at most 100 characters; has 101"]),
        (f"predictions/{'.'.join(['both', *['ssa'] * 50])}", {}, ["has 204 bytes", "at most 180"]),
    ],
)
def test_what_would_harm_or_hang_is_one_line(
    config: dict[str, Any], path: str, value: Any, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    put(config, path, value)
    with pytest.raises(UserError) as caught:
        plan_of(config)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [" * 20_000, "is nested more than 100 levels deep"),
        (b"a: \xe9", "is not UTF-8 text (byte 3)"),
        (b"a: {b: 1", "is not valid YAML"),
        (b"a: 1\na: 2\n", "line 2: key 'a' is there twice"),
        (b"- 1\n", "is no map of keys"),
        (b"a: &a [*a]\n", "line 1: an anchor holds itself"),
        (b"x: 1\na: &a {b: *a}\n", "line 2: an anchor holds itself"),
        (
            b"a: &a [x, x, x, x, x, x, x, x, x]\n"
            + b"".join(b"%c: &%c [%b]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(8)),
            "its anchors multiply to",
        ),
        (
            b"a0: &a0 {x: 1}\n" + b"".join(b"a%d: &a%d {x: *a%d}\n" % (i, i, i - 1) for i in range(1, 300)),
            "levels; at most",
        ),
        (b"", "is no map of keys"),
        (b"a: 2020-13-41\n", "holds a value that cannot be read (month must be in 1..12)"),
        (b"a: " + b"9" * 5000, "holds a value that cannot be read"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is there twice"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested more than 100 levels deep"),
        (b"__use_yte__: true\nresults: r\n", "a template that may run code"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "config.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [["--configfile", "{f}"], ["-n", "--configfiles={f}", "--config", "a=b"]])
def test_the_files_of_a_command_line_are_checked(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(SystemExit) as caught:
        check_command_line(["--cores", "2", *(word.format(f=tmp_path / "c.yaml") for word in words)])
    assert caught.value.code == f"config: {tmp_path}/c.yaml: is not UTF-8 text (byte 3); save it as UTF-8"
    check_command_line(["--cores", "2", "--config", "a=b"])


def test_more_than_a_hundred_shards_have_three_digits(config: dict[str, Any]) -> None:
    config["data"]["vspw"]["shards"] = {"train": 100, "val": 101}
    plan = plan_of(config)
    assert (plan.shards("train")[-1], plan.shards("val")[0], plan.shards("val")[-1]) == ("99", "000", "100")


STREET = {
    "images": "{split}/{frame}.png",
    "masks": "{split}/{frame}_gt.png",
    "classes": "workflow/configs/street-classes.csv",
}


def test_the_predicted_dataset_is_the_one_whose_classes_the_models_have(config: dict[str, Any]) -> None:
    config["data"]["street"] = STREET
    for name in ("a", "b"):
        config["models"][name]["finetune"]["data"] = "street"
    plan = plan_of(config)
    assert plan.dataset == "street" and plan.trained_on("finetune", "a") == "street"
    assert plan.trained_on("pretrain", "b") == "coco_stuff"
    space = plan.training_settings("finetune", "a")["label_space"]
    assert space["name"] == "street" and space["classes"][:2] == ["road", "ground"] and space["colours"][0] == "#3f4a6b"
    config["data"]["street"] = {**STREET, "map": {"to": "vspw"}}
    plan = plan_of(config)
    assert plan.dataset == "vspw" and "label_space" not in plan.training_settings("finetune", "a")
    config["targets"]["data"] = "street"
    assert plan_of(config).dataset == "street"


def test_imported_weights_have_the_classes_of_the_dataset_that_they_name(
    config: dict[str, Any], tmp_path: Path
) -> None:
    weights = tmp_path / "own.pth"
    weights.touch()
    config["data"]["street"] = STREET
    config["models"] = {"own": {"weights": str(weights), "config": "upernet_small", "data": "street"}}
    config["predictions"] = {"own.single": {}}
    config["targets"] = {}
    config["ensembles"] = {}
    plan = plan_of(config)
    assert plan.dataset == "street" and plan.space_of_model("own").name == "street"
    assert plan.import_settings("own")["label_space"]["classes"][:2] == ["road", "ground"]


def test_models_of_other_classes_are_not_scored_together(config: dict[str, Any]) -> None:
    config["data"]["street"] = STREET
    config["models"]["a"]["finetune"]["data"] = "street"
    with pytest.raises(UserError, match=r"model 'b' predicts the classes of vspw, and street, .* is scored; name its"):
        plan_of(config)


@pytest.fixture
def two(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config of a model of VSPW and of one of a dataset of the user's, each scored on its own."""
    config["data"]["street"] = {**STREET, "shards": {"val": 3}}
    config["models"]["a"]["finetune"]["data"] = "street"
    config["ensembles"], config["targets"] = {}, {"submit": ["b.single", "a.single"]}
    config["predictions"] = {"a.single": {"data": "street"}, "b.single": {}, "b.flip": {}}
    config["report"] = {"colours": {"sky": "#ff0000", "ceiling": "#00ff00"}, "videos": ["v"], "overlays": ["b.flip"]}
    return config


def test_predictions_are_scored_on_the_datasets_that_they_name(two: dict[str, Any]) -> None:
    plan = plan_of(two)
    assert plan.dataset == "vspw" and plan.scored_datasets() == ["vspw", "street"]
    assert [plan.data_of(name) for name in ("a.single", "b.flip")] == ["street", "vspw"]
    main, street = plan.on("vspw"), plan.on("street")
    assert (main.scored(), street.scored()) == (["b.single", "b.flip"], ["a.single"])
    assert (main.submitted(), street.submitted()) == (["b.single"], ["a.single"])
    assert (len(main.shards("val")), len(street.shards("val"))) == (2, 3)
    settings = jobs.report_settings(street)
    assert [row["name"] for row in settings["rows"]] == settings["shown"] == ["a.single"]
    assert settings["colours"] == {"sky": "#ff0000"} and settings["videos"] == 1
    assert settings["title"].endswith("on street") and jobs.report_settings(main)["videos"] == ["v"]
    assert list(jobs.report_inputs(street)["fingerprints"]) == ["finetune/a"]
    assert len(jobs.report_inputs(street)["labels"]["a.single"]) == 3


@pytest.mark.parametrize(
    ("predictions", "ensembles", "words"),
    [
        ({"a.single": {"data": "streat"}}, {}, ["predictions.a.single.data", "did you mean 'street'"]),
        ({"b.single": {"data": "street"}}, {}, ["'b' predicts the classes of vspw", "predictions.NAME.data"]),
        ({"a.single.temporal": {"data": "street"}}, {}, ["refiners run on vspw only; drop .temporal"]),
        ({"a.single": {"data": "street"}, "a.single.temporal": {}}, {}, ["refiners run on vspw only"]),
        ({"e": {"data": "street"}}, {"e": {"members": {"b.single": 1}}}, ["b.single is predicted on vspw as well"]),
        (
            {"e": {"data": "street"}},
            {"e": {"members": {"a.single": 1}, "search_weights": True}},
            ["weights are searched on vspw only; give ensembles.e some"],
        ),
    ],
)
def test_what_cannot_be_scored_on_another_dataset_is_one_line(
    two: dict[str, Any], predictions: dict[str, Any], ensembles: dict[str, Any], words: list[str]
) -> None:
    two["predictions"], two["ensembles"] = {"b.flip": {}, "b.single": {}, **predictions}, ensembles
    two["targets"], two["report"] = {}, {}
    two["refiners"] = {"temporal": {"method": "temporal"}}
    with pytest.raises(UserError) as caught:
        plan_of(two)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), str(caught.value)


def test_several_datasets_are_trained_on_in_the_classes_of_the_first(config: dict[str, Any]) -> None:
    alone = plan_of(config)
    mix = ["vspw", {"name": "coco_stuff", "map": "coco_stuff_to_vspw.csv", "weight": 0.3}]
    config["models"]["a"]["finetune"]["data"] = mix
    plan = plan_of(config)
    assert plan.dataset == "vspw" and plan.training_datasets("finetune", "a") == ["vspw", "coco_stuff"]
    settings = plan.training_settings("finetune", "a")
    assert "label_space" not in settings and settings["mix"][0] == {"weight": 1.0, "train_ids": None}
    ids, classes = settings["mix"][1]["train_ids"], plan.datasets["vspw"].space.classes
    assert settings["mix"][1]["weight"] == 0.3 and len(ids) == 171
    coco = plan.datasets["coco_stuff"].space.classes
    assert classes[ids[coco.index("cow")]] == "cattle" and ids[coco.index("stop sign")] == 255
    assert plan.training_data("finetune", "a") != alone.training_data("finetune", "a")
    for wrong, words in (
        (["vspw", "coco"], "no dataset 'coco'"),
        ([{"name": "vspw", "wieght": 1}], "did you mean 'weight'"),
        (["vspw", {"name": "coco_stuff", "map": "coco_stuff_to_vspv"}], "did you mean 'coco_stuff_to_vspw'"),
    ):
        config["models"]["a"]["finetune"]["data"] = wrong
        with pytest.raises(UserError, match=words):
            plan_of(config).training_settings("finetune", "a")


@pytest.mark.parametrize("path", sorted(SHIPPED_MAPS.glob("*.csv")), ids=lambda path: path.stem)
def test_every_shipped_class_map_names_every_class_of_its_source(path: Path) -> None:
    source, target = path.stem.split("_to_")
    rows = path.read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == list(shipped_space(source).classes)
    positions = read_class_map(path, shipped_space(source), shipped_space(target))
    assert sum(position is not None for position in positions) > 100


def test_a_job_knows_the_classes_of_the_dataset_that_another_is_mapped_to(config: dict, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("id,name\n1,road\n2,sky\n")
    config["data"]["town"] = {**STREET, "classes": str(tmp_path / "own.csv")}
    config["data"]["street"] = {**STREET, "map": {"to": "town"}}
    plan = plan_of(config)
    here, there = plan.datasets["street"], read_dataset_row("street", plan.data_settings("street"))
    assert here.space == there.space and here.space.name == "town" and here.space.classes == ("road", "sky")
    assert str(tmp_path / "own.csv") in plan.data_files("street")
    digest = plan.data_digest("street", ["train"])
    (tmp_path / "own.csv").write_text("id,name\n1,road\n2,sky\n3,tree\n")
    assert plan_of(config).data_digest("street", ["train"]) != digest


def test_masks_decide_the_index_where_frames_of_damaged_ones_are_left_out(config, vspw: RawVspw) -> None:
    def content(on_problem: str) -> dict[str, str]:
        config["data"]["vspw"] = {"root": str(vspw.root), "on_problem": on_problem}
        return plan_of(config).index_content("vspw")

    before = {on_problem: content(on_problem) for on_problem in ("stop", "skip")}
    save_mask(vspw.mask("v0", FRAMES[0]), 3)
    assert content("stop") == before["stop"]
    assert content("skip") != before["skip"]
