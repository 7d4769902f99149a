"""Training end to end on a tiny dataset: outputs, determinism, and continuing after every kind of interruption."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train.tiny import MASK2FORMER, UPERNET

from vss.configs.resolved import read_model_config
from vss.core.errors import UserError
from vss.core.files import read_json, sha256_of_file
from vss.models.build import build_segmentor
from vss.train.checkpoint import checkpoints
from vss.train.loop import TimedIterator
from vss.train.validate import validate
from vss.weights.fingerprint import read_fingerprint
from vss.weights.weights_file import read_weights

Train = Callable[..., dict[str, Path]]
# Stochastic depth and dropout, so that the model's own random numbers matter.
RANDOM = {"cfg_options": {"model.backbone.drop_path_rate": 0.3}}


def digest(files: dict[str, Path]) -> str:
    return sha256_of_file(files["weights"])


def log_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(path: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "data_seconds", "memory_mib", "checksum")}
        for line in log_lines(path)
    ]


def wait_until(question: Callable[[], bool], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def lines_so_far(work: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in work.glob("*/log.jsonl"))


def test_a_training_may_stop_before_its_schedule_ends(run_train: Train, tmp_path: Path) -> None:
    """The first iterations are those of the whole schedule, learning rates included."""
    whole = losses(run_train(max_iters=4, to="whole", work="work-whole")["log"])
    stopped = losses(run_train(max_iters=4, to="stopped", work="work-stopped", cfg_options={"stop_iter": 2})["log"])
    assert [line["iter"] for line in stopped if "loss" in line] == [1, 2]
    assert [line for line in stopped if "loss" in line] == [line for line in whole if "loss" in line][:2]


def test_outputs(run_train: Train) -> None:
    files = run_train(max_iters=3, val_interval=2, val_frames=2)
    tensors = load_file(files["weights"])
    fingerprint = read_fingerprint(files["fingerprint"])
    assert fingerprint.sha256 == digest(files)
    assert (fingerprint.stage, fingerprint.model) == ("finetune", "tiny")
    assert fingerprint.settings["config"] == UPERNET
    config = read_json(files["config"])
    assert config["row"] == UPERNET and len(config["classes"]) == 124 and config["classes"][0] == "wall"
    assert config["training"]["max_iters"] == 3
    audit = read_json(files["audit"])
    assert set(audit["new"]) == set(tensors) and not audit["loaded"]
    lines = log_lines(files["log"])
    assert [line["iter"] for line in lines if "loss" in line] == [1, 2, 3]
    assert [line["iter"] for line in lines if "val/miou" in line] == [2, 3]
    assert all(0 <= line["val/miou"] <= 1 for line in lines if "val/miou" in line)
    assert all(0 <= line["data_seconds"] <= line["seconds"] for line in lines if "loss" in line)
    assert all(line["grad_norm"] > 0 for line in lines if "loss" in line)


def test_loss_falls(run_train: Train) -> None:
    lines = log_lines(run_train(max_iters=25)["log"])
    assert lines[-1]["loss"] < 0.85 * lines[0]["loss"]


@pytest.mark.parametrize("row", [UPERNET, MASK2FORMER])
def test_stopped_by_sigterm_and_continued_equals_uninterrupted(
    run_train: Train, start_train: Callable[..., BaseProcess], tmp_path: Path, row: str
) -> None:
    settings = {"max_iters": 12, "ema": 0.1, **(RANDOM if row == UPERNET else {})}
    child = start_train(row, **settings)
    wait_until(lambda: lines_so_far(tmp_path / "work") >= 2)
    child.terminate()
    child.join()
    assert child.exitcode == 143
    folder = next((tmp_path / "work").iterdir())
    assert list(folder.glob("iter_*.pth")) and not (tmp_path / "out").exists()
    continued = run_train(row, **settings)
    uninterrupted = run_train(row, to="other", work="other-work", **settings)
    assert digest(continued) == digest(uninterrupted)
    assert losses(continued["log"]) == losses(uninterrupted["log"])
    assert not list(folder.glob("iter_*.pth"))


def test_killed_and_continued_equals_uninterrupted(
    run_train: Train, start_train: Callable[..., BaseProcess], tmp_path: Path
) -> None:
    settings = {"max_iters": 10, "checkpoint_interval": 2, "num_workers": 1, **RANDOM}
    settings |= {"log_interval": 3}  # so that lines and checkpoints begin at other iterations
    child = start_train(**settings)
    wait_until(lambda: lines_so_far(tmp_path / "work") >= 2)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    continued = run_train(**settings)
    uninterrupted = run_train(to="other", work="other-work", **settings)
    assert digest(continued) == digest(uninterrupted)
    assert losses(continued["log"]) == losses(uninterrupted["log"])


def test_a_damaged_newest_checkpoint_is_passed_over(
    run_train: Train, start_train: Callable[..., BaseProcess], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"max_iters": 8, "checkpoint_interval": 2}
    child = start_train(**settings)
    wait_until(lambda: lines_so_far(tmp_path / "work") >= 5)
    child.terminate()
    child.join()
    folder = next((tmp_path / "work").iterdir())
    newest = max(checkpoints(folder).items())[1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    log_file = folder / "log.jsonl"
    lines = log_file.read_bytes().replace(b'{"iter": 2', b'{"it\x80r": 2')
    log_file.write_bytes(lines.replace(b'{"iter": 3', b'{"iter": 1'))  # a digit: the line is JSON as before
    continued = run_train(**settings)
    printed = capsys.readouterr().err
    assert f"{newest}: damaged or cut short, removed" in printed and "continue from iteration" in printed
    assert "2 lines cannot be read" in printed
    assert digest(continued) == digest(run_train(to="other", work="other-work", **settings))


def test_damaged_results_in_the_work_folder_are_not_published_again(run_train: Train, tmp_path: Path) -> None:
    files = run_train(max_iters=2)
    folder = next((tmp_path / "work").iterdir())
    for path in files.values():
        path.unlink()
    damaged = bytearray((folder / "weights.safetensors").read_bytes())
    damaged[-5] ^= 1
    (folder / "weights.safetensors").write_bytes(damaged)
    with pytest.raises(UserError, match=rf"weights\.safetensors: its SHA-256 is not .*delete {folder}"):
        run_train(max_iters=2)
    assert not files["weights"].exists() and not files["fingerprint"].exists()


def test_second_process_waits_and_publishes_what_the_first_trained(
    run_train: Train, start_train: Callable[..., BaseProcess], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = start_train(max_iters=8, to="first")
    wait_until(lambda: lines_so_far(tmp_path / "work") >= 1)
    second = run_train(max_iters=8, to="second")
    child.join()
    assert child.exitcode == 0
    said = capsys.readouterr().err
    assert "in use by another process" in said and "finished before" in said
    assert digest(second) == sha256_of_file(tmp_path / "first" / "weights.safetensors")


def test_other_settings_never_continue_from_these(run_train: Train, tmp_path: Path) -> None:
    first = run_train(max_iters=2)
    run_train(max_iters=3, to="longer")
    # Where and how it runs is not what it computes.
    again = run_train(max_iters=2, num_workers=1, grad_checkpoint=True, to="again")
    assert len(list((tmp_path / "work").iterdir())) == 2
    for name in first:  # to the byte, so that nothing that follows is run again
        assert first[name].read_bytes() == again[name].read_bytes(), name
    assert run_train(max_iters=2, code="other", to="recoded")["log"].exists()
    assert len(list((tmp_path / "work").iterdir())) == 3


def test_the_best_of_the_validations_is_published(run_train: Train, prepared: Callable, tmp_path: Path) -> None:
    files = run_train(max_iters=5, cfg_options={"select": "best", "val_interval": 1, "val_frames": 2})
    found = [line["val/miou"] for line in log_lines(files["log"]) if "val/miou" in line]
    config = read_json(files["config"])
    model, published = build_segmentor(config["model"]), read_weights(files["weights"])
    assert published.is_ours
    published.fill(model)
    dataset = {key: str(path) for key, path in prepared("vspw").items()}
    scores = validate(model, **dataset, config=read_model_config(config, where="config"), frames=2)
    assert scores["miou"] == pytest.approx(max(found), abs=1e-6)
    assert len(found) == 5 and not list((tmp_path / "work").glob("*/best.safetensors"))


def test_micro_batches_change_nothing_but_memory(run_train: Train) -> None:
    # Without batch norm, whose statistics are those of a micro-batch, and without dropout.
    options = {
        f"model.{head}.{key}": value
        for head in ("decode_head", "auxiliary_head")
        for key, value in (("norm_cfg", {"type": "GN", "num_groups": 4}), ("dropout_ratio", 0.0))
    }
    whole = load_file(run_train(max_iters=3, cfg_options=options)["weights"])
    options["micro_batch"] = 2
    parts = load_file(run_train(max_iters=3, cfg_options=options, to="other", work="other")["weights"])
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 2e-4


def test_what_only_watches_a_training_starts_none(run_train: Train, tmp_path: Path) -> None:
    first = run_train(max_iters=2)
    again = run_train(max_iters=2, cfg_options={"val_interval": 1, "val_frames": 2}, to="again")
    assert digest(first) == digest(again)
    assert first["fingerprint"].read_bytes() == again["fingerprint"].read_bytes()
    assert len(list((tmp_path / "work").iterdir())) == 1
    run_train(max_iters=2, cfg_options={"val_interval": 1, "val_frames": 2, "select": "best"}, to="best")
    assert len(list((tmp_path / "work").iterdir())) == 2


@pytest.mark.parametrize("clip_grad", [{"max_norm": 1.0}, {"_delete_": True, "type": "value", "clip_value": 1.0}, None])
def test_an_infinite_gradient_stops_the_step_it_would_be_taken_in(
    run_train: Train, monkeypatch: pytest.MonkeyPatch, clip_grad: dict | None
) -> None:
    steps = []
    backward, step = torch.Tensor.backward, torch.optim.AdamW.step
    network = []

    def broken_backward(self: torch.Tensor, *words: Any, **options: Any) -> None:
        backward(self, *words, **options)
        if len(steps) == 1:
            network[0].param_groups[0]["params"][0].grad.view(-1)[0] = float("inf")

    def counted_step(self: torch.optim.AdamW, *words: Any, **options: Any) -> None:
        network[:] = [self]
        steps.append(1)
        step(self, *words, **options)

    monkeypatch.setattr(torch.Tensor, "backward", broken_backward)
    monkeypatch.setattr(torch.optim.AdamW, "step", counted_step)
    with pytest.raises(UserError, match=r"stopped at iteration 2: the gradient's norm is (inf|nan) on frames video\d/"):
        run_train(max_iters=4, cfg_options={"optim_wrapper.clip_grad": clip_grad})
    assert len(steps) == 1


def test_an_error_of_a_loading_process_is_one_line(tmp_path: Path) -> None:
    def batches() -> Iterator[dict]:
        yield {}
        raise UserError("Caught UserError in DataLoader worker process 0.\nOriginal Traceback:\n  File ...\n"
                        "vss.core.errors.UserError: a.jpg: not a readable image\n")  # fmt: skip

    waiting = TimedIterator(batches())
    assert next(waiting) == {} and waiting.waited >= 0
    with pytest.raises(UserError, match=r"^a\.jpg: not a readable image$"):
        next(waiting)


def test_a_batch_that_never_comes_and_a_process_that_died_are_one_line() -> None:
    class Stuck:
        def __init__(self, message: str) -> None:
            self.message = message

        def __next__(self) -> dict:
            raise RuntimeError(self.message)

    waits: list[int] = []
    stuck = TimedIterator(Stuck("DataLoader timed out after 5 seconds"), patience=0, on_wait=lambda: waits.append(1))
    with pytest.raises(UserError, match=r"no batch came .*num_workers lower") as error:
        next(stuck)
    assert waits == [1] and "\n" not in str(error.value)
    killed = TimedIterator(Stuck("DataLoader worker (pid 7) is killed by signal: Bus error.\nIt is possible"))
    with pytest.raises(UserError, match=r"a loading process ended .*Bus error") as error:
        next(killed)
    assert "\n" not in str(error.value)


def test_a_wait_that_the_loader_gave_up_is_taken_up_again() -> None:
    class Slow:
        calls = 0

        def __next__(self) -> dict:
            self.calls += 1
            if self.calls < 3:
                raise RuntimeError("DataLoader timed out after 5 seconds")
            return {"inputs": []}

    assert next(TimedIterator(Slow())) == {"inputs": []}


def test_finetuning_takes_over_what_fits(run_train: Train) -> None:
    coco = run_train("mask2former_internimage-nano-h_coco_stuff", max_iters=1, to="coco", work="coco-work")
    files = run_train(MASK2FORMER, max_iters=1, init=coco["weights"])
    audit = read_json(files["audit"])
    assert set(audit["resized"]) == {"decode_head.cls_embed.weight", "decode_head.cls_embed.bias"}
    assert not audit["new"] and not audit["unused"]
    other = run_train(MASK2FORMER, max_iters=1, to="other")
    assert digest(other) != digest(files)


@pytest.mark.parametrize("row", [UPERNET, MASK2FORMER])
def test_numbers_that_are_not_finite_stop_and_name_the_frames(run_train: Train, row: str) -> None:
    with pytest.raises(UserError, match=r"stopped at iteration \d+: .* on frames video\d/\d{8}"):
        run_train(row, max_iters=20, cfg_options={"optim_wrapper.optimizer.lr": 1e30, "optim_wrapper.clip_grad": None})


def test_wrong_inputs_stop_before_anything_is_built(run_train: Train) -> None:
    with pytest.raises(UserError, match="micro_batch 3 does not divide"):
        run_train(cfg_options={"micro_batch": 3})
    with pytest.raises(UserError, match="float16 needs a GPU"):
        run_train(precision="float16")
    with pytest.raises(UserError, match="unknown key 'learning_rate'"):
        run_train(learning_rate=1.0)
