"""`vss predict`: images, folders and videos of a user, and the mistakes users make."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from vss.core.errors import UserError
from vss.core.images import read_image, read_raw_mask
from vss.core.labels import VSPW, overlay_palette
from vss.infer.overlay import draw_overlay
from vss.infer.predict import _video_writer, find_source, predict


def write_image(path, size=(40, 64), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def write_video(path, frames=5, size=(48, 64)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12.0, size[::-1])
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((*size, 3), 40 * number, np.uint8))
    writer.release()
    return path


def test_an_image(nano_model, tmp_path):
    image = write_image(tmp_path / "my photo.png")
    predict(inputs=[image], model_dir=nano_model, out_dir=tmp_path / "out", device="cpu")
    with Image.open(tmp_path / "out" / "labels" / "my photo.png") as labels:
        assert (labels.mode, labels.size) == ("P", (64, 40))
        assert labels.getpalette()[: 3 * 124] == overlay_palette()[:124].ravel().tolist()
        assert np.asarray(labels).max() < 124
    assert read_image(tmp_path / "out" / "overlays" / "my photo.jpg").shape == (40, 64, 3)


def test_a_phone_s_picture_is_turned_upright(nano_model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise
    lying = np.zeros((40, 64, 3), np.uint8)
    lying[:, :32] = 250
    Image.fromarray(lying).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    predict(inputs=[tmp_path / "phone.jpg"], model_dir=nano_model, out_dir=tmp_path / "out", device="cpu")
    assert read_raw_mask(tmp_path / "out" / "labels" / "phone.png").shape == (64, 40)
    upright = read_image(tmp_path / "phone.jpg", upright=True)
    assert upright.shape == (64, 40, 3)
    assert upright[:30].min() > 200 and upright[34:].max() < 50


def test_a_folder_keeps_its_subfolders(nano_model, tmp_path):
    folder = tmp_path / "frames"
    for name in ("a/1.jpg", "a/2.jpg", "b/1.PNG"):
        write_image(folder / name)
    (folder / "notes.txt").write_text("no image")
    predict(inputs=[folder], model_dir=nano_model, out_dir=tmp_path / "out", device="cpu", tta={"flip": True})
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert found == [
        *(f"frames/labels/{name}.png" for name in ("a/1", "a/2", "b/1")),
        *(f"frames/overlays/{name}.jpg" for name in ("a/1", "a/2", "b/1")),
    ]


def test_of_a_video_of_vspw_the_images_are_taken(tmp_path):
    for name in ("origin/00000001.jpg", "origin/00000002.jpg", "mask/00000001.png"):
        write_image(tmp_path / "1_clip" / name)
    source = find_source(tmp_path / "1_clip")
    assert [name for name, _ in source.files] == ["00000001", "00000002"] and source.folder == "1_clip"


def test_a_video(nano_model, tmp_path, capsys):
    video = write_video(tmp_path / "clip.mp4")
    predict(inputs=[video], model_dir=nano_model, out_dir=tmp_path / "out", device="cpu")
    labels = sorted((tmp_path / "out" / "clip" / "labels").iterdir())
    assert [path.name for path in labels] == [f"{number:08d}.png" for number in range(5)]
    overlay = cv2.VideoCapture(str(tmp_path / "out" / "clip" / "overlay.mp4"))
    assert int(overlay.get(cv2.CAP_PROP_FRAME_COUNT)) == 5
    assert overlay.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    assert overlay.read()[1].shape == (48, 64, 3)
    assert "5 frames" in capsys.readouterr().err


def test_odd_sides_of_a_video_lose_nothing(tmp_path):
    image = np.full((31, 47, 3), 30, np.uint8)
    image[:, -1] = image[-1] = 220
    with _video_writer(tmp_path / "odd.mp4", image.shape[:2], 12) as write:
        write(image)
    found = cv2.VideoCapture(str(tmp_path / "odd.mp4")).read()[1]
    assert found.shape == (32, 48, 3)
    assert found[-2:].mean() > 150 and found[:, -2:].mean() > 150 and found[:28, :44].mean() < 60


def test_a_prediction_does_not_depend_on_its_company(nano_model, tmp_path):
    images = [write_image(tmp_path / f"{name}.png", seed=seed) for seed, name in enumerate("abc")]
    predict(inputs=images, model_dir=nano_model, out_dir=tmp_path / "together", device="cpu", workers=3)
    predict(inputs=images[1:2], model_dir=nano_model, out_dir=tmp_path / "alone", device="cpu")
    together, alone = (read_raw_mask(tmp_path / d / "labels" / "b.png") for d in ("together", "alone"))
    assert np.array_equal(together, alone)


def test_mistakes(nano_model, tmp_path):
    options = {"model_dir": nano_model, "out_dir": tmp_path / "out", "device": "cpu"}
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    one, two = write_image(tmp_path / "x" / "same.png"), write_image(tmp_path / "y" / "same.jpg")
    for inputs, said in (
        ([tmp_path / "gone.jpg"], "no such file or folder"),
        ([tmp_path / "empty"], "no images in this folder"),
        ([tmp_path / "notes.txt"], "neither a folder nor an image nor a video"),
        ([tmp_path / "broken.jpg"], r"broken\.jpg: not a readable image"),
        ([tmp_path / "broken.mp4"], "not a video that OpenCV can decode"),
        ([one, two], "would replace those of"),
        ([tmp_path / "x", write_video(tmp_path / "x.mp4")], "would mix with those of"),
    ):
        with pytest.raises(UserError, match=said):
            predict(inputs=inputs, **options)
    with pytest.raises(UserError, match=f"train the model first.*In .*: {nano_model.name}"):
        predict(inputs=[one], **options | {"model_dir": nano_model.parent / "nowhere"})
    with pytest.raises(UserError, match=r"tta\.ratios"):
        predict(inputs=[one], **options | {"tta": {"ratios": [1]}})


def test_kinds_of_input(tmp_path):
    video, image = tmp_path / "a.MOV", write_image(tmp_path / "b.png")
    video.write_bytes(b"")
    assert find_source(video).kind == "video"
    assert find_source(image).files == (("b", image),)


def test_overlay_colours_borders_and_names():
    image = np.full((100, 160, 3), 100, np.uint8)
    labels = np.zeros((100, 160), np.uint8)
    labels[:, 80:] = VSPW.classes.index("sky")
    labels[:10, :10] = 255
    drawn = draw_overlay(image, labels, VSPW.classes)
    assert (drawn[2, 2] == 100).all()  # ignored pixels stay
    assert (drawn[95, 79] == 255).all()  # border
    assert not (drawn[95, 20] == drawn[95, 140]).all()
    plain = draw_overlay(image, labels, [""] * 124)
    assert (drawn != plain).any()  # names are written
    assert (image == 100).all()
