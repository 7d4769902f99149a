"""A teacher that is an average of the student: what it labels, and a training with one that goes on after a stop."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from train.tiny import UPERNET, train_tiny

from vss.configs.resolve import resolve
from vss.core.errors import UserError
from vss.core.files import sha256_of_file
from vss.core.index import read_dataset, write_card, write_index
from vss.models.build import build_segmentor
from vss.train.teacher import TeacherHook


def runner_of(model: torch.nn.Module) -> SimpleNamespace:
    wrapper = SimpleNamespace(optim_context=lambda model: contextlib.nullcontext())
    return SimpleNamespace(model=model, optim_wrapper=wrapper, max_iters=10)


def sample(image: torch.Tensor | None, *, least: float = 0.0) -> SegDataSample:
    found = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, 24, 32), 255)))
    if image is not None:
        found.set_data({"for_teacher": image})
        found.set_metainfo({"least": least})
    return found


def test_it_labels_what_it_is_sure_of_by_the_average_of_all_weights_so_far() -> None:
    torch.manual_seed(0)
    model = build_segmentor(resolve({"config": UPERNET, "crop_size": [32, 48]}).model)
    runner, hook = runner_of(model), TeacherHook(at_once=2)
    hook.before_run(runner)
    for step in (1.0, 2.0):  # the first update copies, the second takes half
        with torch.no_grad():
            model.decode_head.conv_seg.bias.fill_(step)
            model.decode_head.conv_seg.bias[7] = 40 * step  # all pixels become class 7
        hook.after_train_iter(runner, 0)
    teacher = hook._average.module
    assert torch.allclose(teacher.decode_head.conv_seg.bias[:7], torch.tensor(1.5))

    image = torch.randint(0, 255, (3, 24, 32), dtype=torch.uint8)
    samples = [sample(image), sample(None), sample(image, least=0.5), sample(image, least=1.1)]
    student = {name: value.clone() for name, value in model.state_dict().items()}
    hook.before_train_iter(runner, 0, {"inputs": [image] * 4, "data_samples": samples})
    assert [each.gt_sem_seg.data.unique().tolist() for each in samples] == [[7], [255], [7], [255]]
    assert samples[0].gt_sem_seg.data.shape == (1, 24, 32)  # not the crop's size, which is padded to
    assert all(torch.equal(value, student[name]) for name, value in model.state_dict().items())


@pytest.fixture
def unlabelled(prepared: Callable, tmp_path: Path) -> dict[str, list[Path]]:
    """The labelled dataset, and a copy of it without masks."""
    labelled = prepared("vspw")
    table, card = read_dataset(labelled["index"], labelled["card"])
    files = {"index": tmp_path / "u" / "index.csv", "card": tmp_path / "u" / "dataset.json"}
    write_index(files["index"], table.assign(mask=""))
    write_card(files["card"], replace(card, sha256=sha256_of_file(files["index"])))
    return {name: [labelled[name], path] for name, path in files.items()}


MIX = [{"weight": 1.0}, {"weight": 1, "strong": True, "teacher": 0.0}]


def test_a_training_with_a_teacher_continues_where_it_stopped(
    unlabelled: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work folder, as the third iteration of three left it, gives the weights of the training itself."""
    settings = {"mix": MIX, "batch_size": 2, "max_iters": 3, "checkpoint_interval": 2}
    update = TeacherHook.after_train_iter

    def copy_at_the_third(self: TeacherHook, runner, batch_idx, **kwargs) -> None:
        if batch_idx == 2:
            shutil.copytree(tmp_path / "work", tmp_path / "stopped", dirs_exist_ok=True)
        update(self, runner, batch_idx, **kwargs)

    monkeypatch.setattr(TeacherHook, "after_train_iter", copy_at_the_third)
    whole = train_tiny(unlabelled, tmp_path, **settings)
    monkeypatch.undo()
    assert list((tmp_path / "stopped").rglob("iter_2.pth"))
    continued = train_tiny(unlabelled, tmp_path, work="stopped", to="continued", **settings)
    assert continued["weights"].read_bytes() == whole["weights"].read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rare_class_sampling": {}}, "rare_class_sampling chooses frames by their labels"),
        ({"fsdp": True}, "fsdp shards the weights, and a teacher"),
    ],
)
def test_what_a_teacher_cannot_do(unlabelled: dict, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_tiny(unlabelled, tmp_path, mix=MIX, **options)
