"""HDF5 files of frames: small, checked, and nothing but their own content."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.damaged_files import refusals_of_damage, sealed_again
from vss.core import codec
from vss.core.errors import UserError
from vss.core.frames_file import _Target
from vss.core.labels_file import LabelsReader, LabelsWriter
from vss.core.scores_file import ScoresReader, ScoresWriter


def test_prediction_files_carry_little_of_their_own(tmp_path) -> None:
    labels = np.zeros((2, 2), np.uint8)
    encoded = codec.encode(np.full((3, 2, 2), 1 / 3, np.float32), labels)
    with ScoresWriter(tmp_path / "0.scores.h5", classes=list("abc"), provenance={}) as writer:
        for frame in range(50):
            writer.write_encoded("v", str(frame), encoded)
    assert (tmp_path / "0.scores.h5").stat().st_size < 50 * 4000


@pytest.mark.parametrize("kind", ["labels", "scores"])
def test_damaged_predictions_raise_nothing_but_user_errors_that_name_them(tmp_path, kind) -> None:
    writer, reader = {
        "labels": (LabelsWriter, LabelsReader),
        "scores": (ScoresWriter, ScoresReader),
    }[kind]
    rng = np.random.default_rng(0)
    path = tmp_path / f"0.{kind}.h5"
    with writer(path, classes=list("abc"), provenance={"x": 1}) as file:
        for frame in range(6):
            scores = rng.dirichlet([0.3] * 3, (24, 30)).transpose(2, 0, 1).astype(np.float32)
            file.write("v", str(frame), scores if kind == "scores" else scores.argmax(0).astype(np.uint8))

    def read(broken) -> None:
        with reader(broken) as file:
            for key in file.keys():  # noqa: SIM118
                file.read(*key)

    assert len(refusals_of_damage(path, range(120), read)) > 110


def write_labels(path: Path) -> np.ndarray:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with LabelsWriter(path, classes=list("abc"), provenance={"made": "here"}) as writer:
        writer.write("v", "1", labels)
    return labels


def read_all(path: Path) -> None:
    with LabelsReader(path) as reader:
        for video, frame in list(reader.keys()):
            reader.read(video, frame)


def outside(file: h5py.File, secret: Path) -> None:
    del file["frames/0"]
    file["frames"].create_dataset("0", (3, 4), "uint8", external=[(str(secret), 0, 12)])


def linked(file: h5py.File, secret: Path) -> None:
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["d"] = np.zeros((3, 4), np.uint8)
    del file["frames/0"]
    file["frames/0"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "d")


def aliased(file: h5py.File, secret: Path) -> None:
    file["elsewhere"] = file["frames/0"]
    del file["frames/0"]
    file["frames/0"] = h5py.SoftLink("/elsewhere")


def virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((3, 4), "uint8")
    layout[:] = h5py.VirtualSource(str(secret), "d", (3, 4))
    del file["frames/0"]
    file["frames"].create_virtual_dataset("0", layout)


def other_type(file: h5py.File, secret: Path) -> None:
    del file["frames/0"]
    file["frames"].create_dataset("0", data=np.zeros((3, 4, 2), np.float32))


def other_label(file: h5py.File, secret: Path) -> None:
    labels = file["frames/0"][()]
    labels[0, 0] ^= 1
    file["frames/0"][...] = labels


def other_frame(file: h5py.File, secret: Path) -> None:
    file["frames/0"].attrs["frame"] = "2"


def other_classes(file: h5py.File, secret: Path) -> None:
    file.attrs["classes"] = json.dumps(list("abd"))


@pytest.mark.parametrize(
    "change", [outside, linked, aliased, virtual, other_type, other_label, other_frame, other_classes]
)
def test_what_is_not_the_file_s_own_or_was_changed_is_refused(tmp_path, change) -> None:
    path, secret = tmp_path / "0.labels.h5", tmp_path / "secret.txt"
    secret.write_text("top secret: 1234")
    write_labels(path)
    with h5py.File(path, "r+") as file:
        key = {name: file["frames/0"].attrs[name] for name in file["frames/0"].attrs}
        change(file, secret)
        if change in (outside, virtual, other_type):
            file["frames/0"].attrs.update(key)
    for _ in range(2):  # the whole file's checksum, then what it cannot see
        with pytest.raises(UserError, match=r"0\.labels\.h5: .*; delete") as caught:
            read_all(path)
        assert "\n" not in str(caught.value)
        sealed_again(path)


def test_a_damaged_file_never_reaches_hdf5(tmp_path, monkeypatch) -> None:
    """Whose own code has been seen to loop on one."""
    path = tmp_path / "0.labels.h5"
    write_labels(path)
    whole = path.read_bytes()
    monkeypatch.setattr(h5py, "File", None)
    for damaged in (whole[:-1], whole[:600], whole + b"x", whole[:700] + b"x" + whole[701:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"0\.labels\.h5: .* checksum is not that of its content\); delete it"):
            LabelsReader(path)


@pytest.mark.parametrize("at", [0, 20, 46, 52])
def test_a_damaged_checksum_is_damage_too(tmp_path, at) -> None:
    path = tmp_path / "0.labels.h5"
    write_labels(path)
    content = bytearray(path.read_bytes())
    content[at] ^= 2
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"0\.labels\.h5: .* checksum is .*; delete it"):
        LabelsReader(path)


def test_files_of_the_version_before_checksums_are_read(tmp_path) -> None:
    path = tmp_path / "0.labels.h5"
    labels = write_labels(path)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 1
        del file.attrs["crc32"], file["frames/0"].attrs["crc32"]
    sealed_again(path)
    with LabelsReader(path) as reader:
        np.testing.assert_array_equal(reader.read("v", "1"), labels)


def test_a_checksum_cannot_be_left_out(tmp_path) -> None:
    path = tmp_path / "0.labels.h5"
    write_labels(path)
    with h5py.File(path, "r+") as file:
        del file["frames/0"].attrs["crc32"]
    sealed_again(path)
    with LabelsReader(path) as reader, pytest.raises(UserError, match="checksum"):
        reader.read("v", "1")


@pytest.mark.parametrize("room", [0, 700, 3_000, 20_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, room, monkeypatch) -> None:
    """The file takes `room` bytes; HDF5 itself crashes the process where a write fails."""
    real = _Target.write

    def write(self: _Target, data: object) -> int:
        if self.tell() + len(data) > room and self.error is None:
            self.error = OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(_Target, "write", write)
    noise = np.random.default_rng(0).integers(0, 255, (80, 100), np.uint8)

    def write_all() -> None:
        with LabelsWriter(tmp_path / "0.labels.h5", classes=list("abc"), provenance={}) as writer:
            for frame in range(8):
                writer.write("v", str(frame), noise)

    with pytest.raises(UserError, match=r"0\.labels\.h5: No space left on device; free some space and rerun"):
        write_all()
    assert list(tmp_path.iterdir()) == []
