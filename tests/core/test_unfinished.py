"""What a killed job had made is found again by the same job, whole, and by no other."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from vss.core import codec, frames_file, unfinished
from vss.core.errors import UserError
from vss.core.frames_file import FramesWriter, go_on
from vss.core.labels_file import LabelsWriter
from vss.core.scores_file import ScoresWriter

CLASSES = list("abcd")
KEYS = [(f"v{n // 4}", f"f{n}") for n in range(8)]


@pytest.fixture(autouse=True)
def kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "KEPT_EVERY", 0)


def probabilities(n: int) -> np.ndarray:
    return np.random.default_rng(n).dirichlet([0.4] * 4, (12, 15)).transpose(2, 0, 1).astype(np.float32)


def labels_job(path: Path, *, until: int | None = None, settings: int = 1) -> set:
    """Writes the label maps of all frames, or is killed after `until` of them; returns what it found kept."""
    with LabelsWriter(path, classes=CLASSES, provenance={"settings": settings}) as writer:
        done = go_on(writer, made_of=(), what="job")
        for n, key in enumerate(KEYS):
            if n == until:
                raise KeyboardInterrupt
            if key not in done:
                writer.write(*key, probabilities(n).argmax(axis=0).astype(np.uint8))
    return done


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_a_killed_job_goes_on_and_its_file_is_that_of_an_undisturbed_one(tmp_path, capsys) -> None:
    labels_job(tmp_path / "whole.h5")
    with pytest.raises(KeyboardInterrupt):
        labels_job(tmp_path / "x.h5", until=5)
    assert not (tmp_path / "x.h5").exists()
    with pytest.raises(KeyboardInterrupt):
        labels_job(tmp_path / "x.h5", until=7)
    assert labels_job(tmp_path / "x.h5") == set(KEYS[:7])
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert left_in(tmp_path) == []
    assert "job: 5 frames are kept from a run that was stopped" in capsys.readouterr().err


def test_other_settings_find_nothing_and_remove_it(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        labels_job(tmp_path / "x.h5", until=5)
    assert labels_job(tmp_path / "x.h5", settings=2) == set()
    assert left_in(tmp_path) == []


def test_another_input_finds_nothing(tmp_path) -> None:
    source = tmp_path / "weights"

    def job(until: int | None) -> set:
        with LabelsWriter(tmp_path / "x.h5", classes=CLASSES, provenance={}) as writer:
            done = go_on(writer, made_of=[source], what="job")
            for key in KEYS[:until]:
                if key not in done:
                    writer.write(*key, np.zeros((2, 2), np.uint8))
            if until:
                raise KeyboardInterrupt
        return done

    for content, expected in (("same", set(KEYS[:3])), ("other", set())):
        source.write_text("same")
        with pytest.raises(KeyboardInterrupt):
            job(3)
        if content != "same":
            source.write_text(content)
        assert job(None) == expected


def test_other_code_finds_nothing(tmp_path, monkeypatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        labels_job(tmp_path / "x.h5", until=5)
    monkeypatch.setattr(unfinished, "_code", lambda: "another digest")
    assert labels_job(tmp_path / "x.h5") == set()


@pytest.mark.parametrize("where", [0.0, 0.2, 0.5, 0.77, 0.999])
@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_damage_costs_the_frames_after_it_and_nothing_else(tmp_path, where, harm) -> None:
    labels_job(tmp_path / "whole.h5")
    with pytest.raises(KeyboardInterrupt):
        labels_job(tmp_path / "x.h5", until=6)
    (kept,) = tmp_path.glob(".unfinished-*")
    content = bytearray(kept.read_bytes())
    at = int(where * len(content))
    if harm == "cut":
        del content[at:]
    else:
        content[at] ^= 16
    kept.write_bytes(content)
    done = labels_job(tmp_path / "x.h5")
    assert done == set(KEYS[: len(done)]) and len(done) < 6
    assert abs(len(done) - 6 * where) < 1.5, "frames of about equal size"
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_two_files_of_a_job_go_on_from_what_both_have(tmp_path) -> None:
    def job(name: str, until: int | None = None) -> set:
        with (
            LabelsWriter(tmp_path / f"{name}.labels.h5", classes=CLASSES, provenance={}) as labels,
            ScoresWriter(tmp_path / f"{name}.scores.h5", classes=CLASSES, provenance={}) as scores,
        ):
            done = go_on(labels, scores, made_of=(), what="job")
            for n, key in enumerate(KEYS):
                if key in done:
                    continue
                encoded = codec.encode(probabilities(n))
                labels.write(*key, encoded.labels)
                if n == until:
                    raise KeyboardInterrupt
                scores.write_encoded(*key, encoded)
        return done

    job("whole")
    with pytest.raises(KeyboardInterrupt):
        job("x", until=4)
    assert job("x") == set(KEYS[:4]), "the fifth label map has no scores yet"
    for kind in ("labels", "scores"):
        assert (tmp_path / f"x.{kind}.h5").read_bytes() == (tmp_path / f"whole.{kind}.h5").read_bytes()


class MixedWriter(FramesWriter):
    """Stores an array beside numbers and text of every type that the formats use."""

    FORMAT, VERSION = "mixed", 1

    def write(self, video: str, frame: str, n: int) -> None:
        numbers = {
            "form": "r\u00e4nder",
            "size": (12, 15),
            "step": np.float32(0.1),
            "count": n,
            "share": n / 3,
            "whole": True,
        }
        self._store_group(video, frame, {"runs": np.arange(n, dtype=np.uint32)}, numbers)


def test_numbers_and_texts_keep_their_types(tmp_path) -> None:
    def job(path: Path, until: int | None = None) -> None:
        with MixedWriter(path, provenance={}) as writer:
            done = go_on(writer, made_of=(), what="job")
            for n, key in enumerate(KEYS):
                if n == until:
                    raise KeyboardInterrupt
                if key not in done:
                    writer.write(*key, n)

    job(tmp_path / "whole.h5")
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "x.h5", until=5)
    job(tmp_path / "x.h5")
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_what_is_kept_does_not_keep_a_full_disk_full(tmp_path, monkeypatch) -> None:
    def full(self, data):
        if any(name.startswith(".unfinished") for name in left_in(tmp_path)):
            self.error = self.error or OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    monkeypatch.setattr(frames_file._Target, "write", full)
    with pytest.raises(UserError, match="free some space"):
        labels_job(tmp_path / "x.h5")
    assert left_in(tmp_path) == []
