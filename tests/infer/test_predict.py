"""`vss predict`: images, folders and videos of a user, and the mistakes users make."""

from __future__ import annotations

import os
import shutil
import struct

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from vss.core.errors import UserError
from vss.core.files import read_json
from vss.core.images import read_image, read_raw_mask
from vss.core.labels import VSPW, overlay_palette
from vss.core.video import open_video
from vss.infer.model_files import find_model
from vss.infer.overlay import draw_overlay
from vss.infer.page import Gallery, prediction_page
from vss.infer.predict import predict
from vss.infer.sources import find_sources
from vss.infer.video import video_writer


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


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_image(nano_model, tmp_path):
    image = write_image(tmp_path / "my photo.png")
    predict(inputs=[image], model=nano_model, out_dir=tmp_path / "out", device="cpu")
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
    predict(inputs=[tmp_path / "phone.jpg"], model=nano_model, out_dir=tmp_path / "out", device="cpu")
    assert read_raw_mask(tmp_path / "out" / "labels" / "phone.png").shape == (64, 40)
    upright = read_image(tmp_path / "phone.jpg", upright=True)
    assert upright.shape == (64, 40, 3)
    assert upright[:30].min() > 200 and upright[34:].max() < 50


def test_a_folder_keeps_its_subfolders(nano_model, tmp_path):
    folder = tmp_path / "frames"
    for name in ("a/1.jpg", "a/2.jpg", "b/1.PNG"):
        write_image(folder / name)
    (folder / "notes.txt").write_text("no image")
    predict(inputs=[folder], model=nano_model, out_dir=tmp_path / "out", device="cpu", tta={"flip": True})
    assert files_in(tmp_path / "out" / "frames") == [
        *(f"labels/{name}.png" for name in ("a/1", "a/2", "b/1")),
        "legend.png",
        *(f"overlays/{name}.jpg" for name in ("a/1", "a/2", "b/1")),
        "predicted.json",
    ]


def test_of_vspw_the_images_are_taken(tmp_path):
    for name in ("origin/00000001.jpg", "origin/00000002.jpg", "mask/00000001.png"):
        write_image(tmp_path / "data" / "1_clip" / name)
    (source,) = find_sources([tmp_path / "data" / "1_clip"], tmp_path / "out")
    assert [name for name, _ in source.files] == ["00000001", "00000002"] and source.folder == "1_clip"
    (source,) = find_sources([tmp_path / "data"], tmp_path / "out")
    assert [name for name, _ in source.files] == ["1_clip/origin/00000001", "1_clip/origin/00000002"]


def test_what_a_folder_holds_besides_images_is_passed_over_and_counted(tmp_path, capsys):
    folder = tmp_path / "mac"
    for name in ("1.jfif", "2.jpe", ".ipynb_checkpoints/1-checkpoint.jpg", "__MACOSX/1.jpg", "old/labels/1.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_image(tmp_path / "image.png").read_bytes())
    (folder / "old" / "overlays").mkdir()
    for name in ("._1.jpg", "notes.txt", "more.txt", "README"):
        (folder / name).write_text("no image")
    (source,) = find_sources([folder], tmp_path / "out")
    assert [name for name, _ in source.files] == ["1", "2"]
    assert capsys.readouterr().err == (
        f"{folder}: 2 images; passed over: .txt (2), folders of earlier predictions (2), "
        "hidden files (3), without suffix (1)\n"
    )


def test_a_second_run_in_place_finds_the_same_images(nano_model, tmp_path, monkeypatch):
    write_image(tmp_path / "own" / "1.jpg")
    monkeypatch.chdir(tmp_path / "own")
    found = []
    for _ in range(2):
        predict(inputs=["."], model=nano_model, out_dir="predicted", device="cpu")
        found.append(files_in(tmp_path / "own"))
    assert found[0] == found[1] and len(found[0]) == 5


def test_a_broken_image_is_named_at_the_end_and_the_others_are_predicted(nano_model, tmp_path):
    for name in "abcd":
        write_image(tmp_path / "many" / f"{name}.jpg")
    (tmp_path / "many" / "b.jpg").write_bytes((tmp_path / "many" / "b.jpg").read_bytes()[:700])
    (tmp_path / "many" / "c.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^[^\n]*c\.jpg: not a readable image; [^\n]*b\.jpg: damaged image[^\n]*$"):
        predict(inputs=[tmp_path / "many"], model=nano_model, out_dir=tmp_path / "out", device="cpu")
    labels = tmp_path / "out" / "many" / "labels"
    assert files_in(labels) == ["a.png", "d.png"]
    # What an earlier prediction wrote goes, what somebody else put there stays.
    (labels / "note.png").write_bytes(b"")
    (tmp_path / "many" / "a.jpg").unlink()
    with pytest.raises(UserError, match="not a readable image"):
        predict(inputs=[tmp_path / "many"], model=nano_model, out_dir=tmp_path / "out", device="cpu")
    assert files_in(labels) == ["d.png", "note.png"]


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "CMYK", "P", "1", "LA"])
def test_images_of_any_kind(nano_model, tmp_path, mode):
    grey = np.linspace(0, 255, 40 * 64).reshape(40, 64)
    if mode == "I;16":
        image = Image.fromarray((grey * 257).astype(np.uint16))
    else:
        image = Image.fromarray(grey.astype(np.uint8)).convert("RGBA" if mode == "LA" else "RGB").convert(mode)
    path = tmp_path / f"odd.{'jpg' if mode == 'CMYK' else 'png'}"
    image.save(path)
    decoded = read_image(path, upright=True)
    assert decoded.shape == (40, 64, 3)
    assert np.abs(decoded.mean(2) - grey).mean() < {"1": 100, "P": 20}.get(mode, 4)  # these two are dithered
    predict(inputs=[path], model=nano_model, out_dir=tmp_path / "out", device="cpu", probabilities=True)
    probabilities = np.load(tmp_path / "out" / "probabilities" / "odd.npy")
    assert probabilities.shape == (124, 40, 64) and probabilities.dtype == np.float32
    assert np.array_equal(probabilities.argmax(0), read_raw_mask(tmp_path / "out" / "labels" / "odd.png"))


def test_a_video(nano_model, tmp_path, capsys):
    video = write_video(tmp_path / "clip.mp4")
    predict(inputs=[video], model=nano_model, out_dir=tmp_path / "out", device="cpu")
    folder = tmp_path / "out" / "clip"
    names = [f"labels/{number:08d}.png" for number in range(5)]
    assert files_in(folder) == [*names, "legend.png", "overlay.mp4", "predicted.json"]
    assert b"avc1" in (folder / "overlay.mp4").read_bytes()
    with open_video(folder / "overlay.mp4") as (header, frames):
        assert (header.size, header.frames, header.fps) == ((48, 64), 5, pytest.approx(12))
        assert [frame.seconds for frame in frames] == pytest.approx([number / 12 for number in range(5)], abs=1e-3)
    assert "5 frames" in capsys.readouterr().err
    # A shorter clip of the same name leaves nothing of the longer one.
    write_video(tmp_path / "clip.mp4", frames=2)
    predict(inputs=[video], model=nano_model, out_dir=tmp_path / "out", device="cpu")
    assert files_in(folder / "labels") == ["00000000.png", "00000001.png"]
    assert read_json(folder / "predicted.json")["files"] == files_in(folder)[:-1]


def test_odd_sides_and_uneven_times_of_a_video_are_kept(tmp_path):
    image = np.full((31, 47, 3), 30, np.uint8)
    image[:, -1] = image[-1] = 220
    times = [0.0, 0.1, 0.5, 0.5, 2.0]
    with video_writer(tmp_path / "odd.mp4", image.shape[:2], 12) as write:
        for seconds in times:
            write(image, seconds)
    with open_video(tmp_path / "odd.mp4") as (header, frames):
        found = list(frames)
    assert header.size == (32, 48)
    assert [frame.seconds for frame in found] == pytest.approx(times, abs=1e-3)
    pixels = found[0].image
    assert pixels[-2:].mean() > 150 and pixels[:, -2:].mean() > 150 and pixels[:28, :44].mean() < 60


def test_a_phone_s_video_is_turned_upright(tmp_path):
    lying = np.zeros((32, 48, 3), np.uint8)
    lying[:, :24] = 250
    with video_writer(tmp_path / "lying.mp4", lying.shape[:2], 12) as write:
        write(lying, 0.0)
    data = bytearray((tmp_path / "lying.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # of the track's header: fixed-point numbers, here of 90 degrees clockwise
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 32 * one, 0, 1 << 30)
    (tmp_path / "phone.mp4").write_bytes(data)
    with open_video(tmp_path / "phone.mp4") as (_, frames):
        upright = next(frames).image
    assert upright.shape == (48, 32, 3)
    assert upright[:20].min() > 200 and upright[28:].max() < 50


def test_a_video_without_frames_or_pictures_is_one_line(nano_model, tmp_path):
    with video_writer(tmp_path / "none.mp4", (32, 48), 12):
        pass
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux([*stream.encode(silence), *stream.encode()])
    for name, said in (("none.mp4", "none.mp4: "), ("sound.mp4", "sound.mp4: holds no video, only audio")):
        with pytest.raises(UserError, match=said) as error:
            predict(inputs=[tmp_path / name], model=nano_model, out_dir=tmp_path / "out", device="cpu")
        assert "\n" not in str(error.value)


def test_pipes_and_loops_of_links_are_passed_over(tmp_path, capsys):
    write_image(tmp_path / "in" / "1.png")
    os.mkfifo(tmp_path / "in" / "2.png")
    (tmp_path / "in" / "up").symlink_to("..")
    (tmp_path / "in" / "circle").symlink_to("circle")
    (source,) = find_sources([tmp_path / "in"], tmp_path / "out")
    assert [name for name, _ in source.files] == ["1"]
    assert "links to folders (1), pipes or devices (1), without suffix (1)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"2\.png: neither a file nor a folder"):
        find_sources([tmp_path / "in" / "2.png"], tmp_path / "out")


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile {clip}\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_named_as_a_video_opens_no_other_file(tmp_path, kind):
    with video_writer(tmp_path / "clip.mp4", (32, 48), 12) as write:
        write(np.zeros((32, 48, 3), np.uint8), 0.0)
    (tmp_path / "list.mp4").write_text(PLAYLISTS[kind].format(clip="clip.mp4"))
    with pytest.raises(UserError, match=r"list\.mp4: not a video"), open_video(tmp_path / "list.mp4"):
        pass


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with video_writer(tmp_path / "clip.mp4", (32, 48), 12) as write:
        write(np.zeros((32, 48, 3), np.uint8), 0.0)
    (tmp_path / "clip.mp4").rename("10:00.mp4")
    with open_video("10:00.mp4") as (header, frames):
        assert header.size == (32, 48) and len(list(frames)) == 1


def test_no_name_leads_out_of_the_output_folder(nano_model, tmp_path):
    video = write_video(tmp_path / "clip.mp4", frames=1).rename(tmp_path / "...mp4")
    predict(inputs=[video], model=nano_model, out_dir=tmp_path / "out" / "here", device="cpu")
    assert files_in(tmp_path / "out")[0] == "here/video/labels/00000000.png"
    assert all(name.startswith("here/video/") for name in files_in(tmp_path / "out"))


def test_names_cannot_speak_to_the_terminal(nano_model, tmp_path, capsys):
    folder = tmp_path / "a\nb\x1b[31m"
    write_image(folder / "1.png")
    predict(inputs=[folder], model=nano_model, out_dir=tmp_path / "out", device="cpu")
    assert "\x1b" not in (said := capsys.readouterr().err) and "a b [31m" in said


def test_a_prediction_does_not_depend_on_its_company(nano_model, tmp_path):
    images = [write_image(tmp_path / f"{name}.png", seed=seed) for seed, name in enumerate("abc")]
    predict(inputs=images, model=nano_model, out_dir=tmp_path / "together", device="cpu", workers=3)
    predict(inputs=images[1:2], model=nano_model, out_dir=tmp_path / "alone", device="cpu")
    together, alone = (read_raw_mask(tmp_path / d / "labels" / "b.png") for d in ("together", "alone"))
    assert np.array_equal(together, alone)


def test_a_page_shows_images_next_to_overlays_in_one_file(nano_model, tmp_path):
    inputs = [write_image(tmp_path / "<b>&.png"), write_video(tmp_path / "clip.mp4")]
    predict(inputs=inputs, model=nano_model, out_dir=tmp_path / "out", device="cpu", page=True)
    page = (tmp_path / "out" / "page.html").read_text()
    assert page.count("<figure>") == 1 + 5 and page.count('src="data:image/jpeg;base64,') == 2 * 6
    assert "&lt;b&gt;&amp;" in page and "<b>" not in page
    assert "http" not in page and "prefers-color-scheme: dark" in page


def test_the_page_counts_more_classes_than_a_byte_holds():
    gallery = Gallery("wide.mp4", overlay_palette(num_classes=300))
    gallery.add(
        "0", np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8), np.array([[299, 299], [299, 0]], np.uint16)
    )
    assert "c299 75.0%" in gallery.section([f"c{number}" for number in range(300)])


def test_a_page_keeps_a_few_frames_of_many():
    gallery = Gallery("long.mp4", overlay_palette())
    image, labels = np.zeros((4, 1000, 3), np.uint8), np.array([[3, 3, 3, 255]], np.uint8)
    for number in range(1000):
        gallery.add(f"{number:08d}", image, image, labels)
    page = prediction_page([gallery], model="swin", classes=["a", "b", "c", "stair_way"])
    assert 12 <= page.count("<figure>") <= 24 and len(page) < 200_000
    assert "00000000" in page and "00000960" in page  # spread over the whole
    assert "of 1000 frames" in page and "stair way 75.0%" in page and "no class 25.0%" in page


def test_a_frame_of_8k_that_does_not_fit_is_refused_before_it_is_decoded(nano_model, tmp_path, monkeypatch):
    path = tmp_path / "8k.png"
    Image.new("L", (7680, 4320)).save(path)
    monkeypatch.setattr("vss.infer.estimate.memory_of", lambda device: 2**30)
    monkeypatch.setattr("vss.infer.predict.load_engine", None)
    with pytest.raises(UserError, match=r"a frame of 7680x4320 needs about .* of 1\.0 GiB on cpu; set tta\.mode"):
        predict(inputs=[path], model=nano_model, out_dir=tmp_path / "out", device="cpu")


def test_mistakes(nano_model, tmp_path):
    options = {"model": nano_model, "out_dir": tmp_path / "out", "device": "cpu"}
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
        ([tmp_path / "broken.mp4"], "not a video that can be decoded"),
        ([one, two], "would replace those of"),
        ([tmp_path / "x", write_video(tmp_path / "x.mp4")], "would mix with those of"),
    ):
        with pytest.raises(UserError, match=said):
            predict(inputs=inputs, **options)
    with pytest.raises(UserError, match=r"model 'swni': no such .*did you mean 'swin'.*: swin$"):
        find_model("swni", results=results_with(nano_model, tmp_path))
    with pytest.raises(UserError, match=r"tta: unknown key 'ratios'"):
        predict(inputs=[one], **options | {"tta": {"ratios": [1]}})


def results_with(model, folder):
    shutil.copytree(model, folder / "results" / "finetune" / "swin")
    return folder / "results"


def test_a_model_by_name_by_folder_and_by_checkpoint(nano_model, tmp_path):
    results, weights = results_with(nano_model, tmp_path), nano_model / "weights.safetensors"
    by_name = find_model("swin", results=results)
    assert (by_name.name, by_name.weights) == ("swin", results / "finetune" / "swin" / "weights.safetensors")
    assert find_model(results / "finetune" / "swin").config == by_name.config
    row = "upernet_convnext-nano_vspw"
    for found in (find_model(f"{row}:{weights}"), find_model(row, weights)):
        assert (found.name, found.weights, found.config["row"]) == (row, weights, row)
    with pytest.raises(UserError, match=f"a row needs weights, as {row}:FILE"):
        find_model(row)
    with pytest.raises(UserError, match=r"gone\.pth: no such weights file"):
        find_model(f"{row}:gone.pth")


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
