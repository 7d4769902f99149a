"""The model card: what it says of a training, of drawn data and of scores."""

from __future__ import annotations

import re

import pytest

from vss import cli
from vss.core.files import write_json
from vss.weights.card import write_model_card
from vss.workflow.digest import modules_of


@pytest.fixture
def results(tmp_path):
    """A results folder with a trained model and its dataset, without weights, which a card does not read."""
    config = {
        "row": "upernet_swin-nano_vspw",
        "protocol": "paper",
        "dataset": "vspw",
        "classes": ["wall", "sky"],
        "training": {"max_iters": 350, "crop_size": [64, 96], "ema": None},
    }
    fingerprint = {"model": "swin", "sha256": "ab" * 32, "stage": "finetune", "settings": {"seed": 3}, "code": None}
    audit = {
        "source": "/there/published.pth",
        "kind": "Swin-L",
        "loaded": ["a", "b"],
        "renamed": {"c": "d"},
        "new": ["e"],
    }
    folder = tmp_path / "results" / "finetune" / "swin"
    for name, content in (("config", config), ("fingerprint", fingerprint), ("audit", audit)):
        write_json(folder / f"{name}.json", content)
    (folder / "log.jsonl").write_text('{"iter": 10, "mIoU": 0.25}\n{"iter": 20, "loss": 1.0}\n')
    dataset = {"name": "vspw", "drawn": True, "frames": {"train": 240, "val": 144}}
    write_json(tmp_path / "results" / "prepare" / "vspw" / "dataset.json", dataset)
    return tmp_path / "results"


def test_a_card_tells_data_settings_start_and_use(results):
    folder = results / "finetune" / "swin"
    write_model_card(folder, dataset_card=results / "prepare" / "vspw" / "dataset.json")
    text = (folder / "README.md").read_text()
    for line in (
        "# swin",
        "Dataset `vspw` (**drawn** by this project: these weights know no real images): 240 train, 144 val frames.",
        "Filled from `published.pth` (Swin-L): 3 tensors; 1 were new.",
        "| max_iters | 350 |",
        "| crop_size | [64, 96] |",
        '| set in the config | {"seed": 3} |',
        "mIoU of the last validation (iteration 10): 0.2500.",
        f"SHA-256 of the weights: `{'ab' * 32}`.",
    ):
        assert line in text.splitlines()
    assert "| ema" not in text and "non-commercial" not in text  # drawn data have no terms
    assert re.search(r"^vss \d+\.\d+\.\d+(, commit [0-9a-f]+(-dirty)?)?, stage finetune\.$", text, re.MULTILINE)
    compile(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], "card", "exec")


def test_a_card_of_unknown_data_has_the_terms_of_the_dataset(results):
    folder = results / "finetune" / "swin"
    write_model_card(folder)
    assert "VSPW is for non-commercial research" in (folder / "README.md").read_text()


def test_the_command_adds_the_scores_of_the_model_s_predictions(results, capsys):
    for name, miou in (("swin.single", 0.5), ("swin.single.ssa", 0.625), ("swin2.single", 0.9)):
        write_json(results / "score" / name / "val" / "scores.json", {"mIoU": miou, "VC8": None, "drawn": True})
    assert cli.main(["card", "swin", "--results", str(results)]) == 0
    assert capsys.readouterr().out.strip() == str(results / "finetune" / "swin" / "README.md")
    text = (results / "finetune" / "swin" / "README.md").read_text()
    assert "| swin.single, val (drawn data) | 0.5000 | - | - | - |" in text and "swin.single.ssa, val" in text
    assert "swin2" not in text and "240 train" in text


def test_no_such_model(results, capsys):
    assert cli.main(["card", "swni", "--results", str(results)]) == 2
    assert "model 'swni': no config.json in" in capsys.readouterr().err


def test_files_of_other_names_have_no_card(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    write_model_card(tmp_path)
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("stage", ["finetune", "import", "soup"])
def test_an_edit_of_the_card_reruns_nothing(stage):
    assert "vss.weights.card" not in modules_of(stage) and "vss.weights.fingerprint" in modules_of(stage)
