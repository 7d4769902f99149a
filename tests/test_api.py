"""The front door: what is public, that it loads lazily, and that it predicts what `vss predict` does."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nano_model import write_nano_model
from PIL import Image

import vss
from vss.core.images import read_raw_mask
from vss.infer.predict import predict
from vss.infer.video import video_writer

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained model, an image and a video, as the page's snippets name them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("user")
    write_nano_model(folder / "results" / "finetune" / "swin")
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "frame.jpg")
    with video_writer(folder / "clip.mp4", image.shape[:2], 25) as write:
        write(image, 0.0)
        write(image[::-1], 0.04)
    return folder


def test_what_is_public():
    assert vss.__all__ == ["Engine", "Model", "UserError", "__version__", "compare", "load", "models", "score"]
    assert all(callable(getattr(vss, name)) for name in vss.__all__ if name != "__version__")
    assert set(vss.__all__) <= set(dir(vss))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        vss.lode  # noqa: B018


def test_importing_loads_nothing():
    code = "import sys, vss; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'cv2', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_room_of_a_function_s_name_is_both():
    code = "import vss, vss.score.measures; print(callable(vss.score), vss.score.measures.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"True vss\.score\.measures\n", done.stdout)


def test_predictions_are_those_of_the_command(folder, tmp_path):
    model = vss.load(folder / "results" / "finetune" / "swin", device="cpu")
    predict(
        inputs=[folder / "frame.jpg"], model=folder / "results" / "finetune" / "swin", out_dir=tmp_path, device="cpu"
    )
    labels = model.predict(folder / "frame.jpg")
    assert labels.dtype == np.uint8 and np.array_equal(labels, read_raw_mask(tmp_path / "labels" / "frame.png"))
    probabilities = model.probabilities(folder / "frame.jpg")
    assert probabilities.dtype == np.float32 and np.array_equal(probabilities.argmax(0), labels)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    mirrored = np.asarray(Image.open(folder / "frame.jpg"))[:, ::-1]
    flipped = [model.probabilities(image, tta={"flip": True}) for image in (mirrored, mirrored[:, ::-1])]
    np.testing.assert_allclose(flipped[0], flipped[1][:, :, ::-1], atol=1e-5)


def test_a_frame_that_needs_more_memory_than_there_is(folder, monkeypatch):
    model = vss.load(folder / "results" / "finetune" / "swin", device="cpu")
    monkeypatch.setattr("vss.infer.estimate.memory_of", lambda device: 2**30)
    with pytest.raises(vss.UserError, match=r"a frame of 7680x4320 needs about .* of 1\.0 GiB on cpu; set tta\.mode"):
        model.predict(np.zeros((4320, 7680, 3), np.uint8))


def test_a_row_with_a_checkpoint(folder):
    weights = folder / "results" / "finetune" / "swin" / "weights.safetensors"
    by_row = vss.load("upernet_convnext-nano_vspw", weights=weights, device="cpu")
    by_folder = vss.load(folder / "results" / "finetune" / "swin", device="cpu")
    assert (by_row.name, by_row.classes) == ("upernet_convnext-nano_vspw", by_folder.classes)
    assert np.array_equal(by_row.predict(folder / "frame.jpg"), by_folder.predict(folder / "frame.jpg"))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (np.zeros((4, 4), np.uint8), r"frame: found uint8 of shape \(4, 4\), expected a path or an array"),
        (np.zeros((4, 4, 3), np.float32), "frame: found float32"),
        (np.zeros((0, 4, 3), np.uint8), "frame: found an empty array"),
        (None, "frame: found NoneType"),
        ("gone.jpg", "gone.jpg: No such file"),
    ],
)
def test_frames_that_are_none(folder, frame, said):
    model = vss.load(folder / "results" / "finetune" / "swin", device="cpu")
    with pytest.raises(vss.UserError, match=said):
        model.predict(frame)


@pytest.mark.parametrize(("page", "count"), [("docs/library.md", 4), ("README.md", 1)])
def test_every_snippet_of_a_page_runs(page, count, folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    snippets = re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), flags=re.DOTALL)
    assert len(snippets) == count
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), names)
    assert names["probabilities"].shape == {"README.md": (124, 40, 64)}.get(page, (5, 60, 107))
    assert len(re.findall(r"^\(40, 64, 3\) ", capsys.readouterr().out, re.MULTILINE)) == 2  # of the video
