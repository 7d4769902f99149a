"""`vss doctor`: what is wrong is one line that says what to do, whatever is broken."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from vss import cli, doctor
from vss.doctor import NOTE, OK, PROBLEM
from vss.workflow.config import load_config
from vss.workflow.disk import bytes_needed
from vss.workflow.settings import read_plan

SMALL = {
    "models": {"swin": {"finetune": {"config": "upernet_swin-nano_vspw"}}},
    "tta": {"single": {}},
    "predictions": {"swin.single": {}},
    "data": {"vspw": {}},
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes a small config, changed as requested, and returns its path; the working directory is empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(doctor, "_packages", lambda: iter(()))  # importing them all takes seconds

    def write(**changes) -> Path:
        path = tmp_path / "my.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **changes}))
        return path

    return write


def lines(config_file=None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {OK: [], NOTE: [], PROBLEM: []}
    for finding in doctor.examine(config_file):
        assert "\n" not in finding.text
        found[finding.level].append(finding.text)
    return found


def test_a_sound_installation_has_no_problem(config, capsys):
    path = config()
    assert cli.main(["doctor", "--config", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "ok       config: every name in it exists" in printed and "agrees with the reference" in printed


def test_without_a_config_the_rest_is_looked_at(config):
    found = lines()
    assert not found[PROBLEM] and any("no config.yaml in this folder" in text for text in found[NOTE])


def test_a_problem_is_status_1(config, capsys):
    path = config(data={"vspw": {"root": "/gone/VSPW"}})
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--config", str(path)])
    assert ended.value.code == 1
    assert "problem  data.vspw.root: no folder '/gone/VSPW'; correct it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("models: [", "is not valid YAML"),
        ("- a", "is no map"),
        ("\x00", "config"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_config_that_cannot_be_read(content, said, config):
    path = config()
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    problems = lines(path)[PROBLEM]
    assert len(problems) == 1 and said in problems[0]


def test_a_torch_that_cannot_be_imported(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    problems = lines(config())[PROBLEM]
    assert problems[0].startswith("torch cannot be imported (")
    assert problems[0].endswith("install it again: pip install 'torch>=2.10'")


def test_a_library_that_cannot_be_imported(monkeypatch):
    monkeypatch.setattr(doctor, "_REQUIRED", {"cv2": "opencv-python-headless", "yaml": "pyyaml"})
    monkeypatch.setattr(doctor, "EXTRAS", {"av": "video"})
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "av", None)
    problem, note = doctor._packages()
    assert problem.level == PROBLEM and problem.text.endswith("install it again: pip install opencv-python-headless")
    assert note.text == "extra video: no av; pip install 'vss[video]' brings what is missing"


def test_operators_that_disagree(config, monkeypatch):
    import vss_ops

    def fail(device):
        raise RuntimeError("vss_ops: dcnv3 is wrong;\nRebuild the kernels")

    monkeypatch.setattr(vss_ops, "self_check", fail)
    assert lines()[PROBLEM] == ["vss_ops: dcnv3 is wrong; Rebuild the kernels"]


def test_weights_that_are_none(config, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"<html>404</html>")
    models = {"swin": {"config": "upernet_swin-nano_vspw", "weights": str(tmp_path / "w.pth")}}
    problems = lines(config(models=models))[PROBLEM]
    assert len(problems) == 1
    assert problems[0].startswith("models.swin.weights: ") and problems[0].endswith("download it again")


def test_folders_that_cannot_be_written(config, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor, "tempfile", SimpleNamespace(NamedTemporaryFile=refuse))
    problems = lines(config())[PROBLEM]
    assert [text.partition(":")[0] for text in problems] == ["results", "work"]


def test_too_little_disk_and_shared_memory(config, monkeypatch):
    monkeypatch.setattr(doctor, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1000)))
    disk, memory = lines(config())[PROBLEM]
    assert disk.startswith("disk of work and results: 0.0 GiB free") and "free some space" in disk
    assert memory.startswith("/dev/shm: 0.0 GiB free") and "--shm-size" in memory


def test_the_estimate_of_the_disk_follows_parameters_and_frames(config, tmp_path):
    """Weights twice and three checkpoints of 12 bytes per parameter; label maps per frame."""
    root = tmp_path / "VSPW"
    for split, frames in (("train", 1), ("val", 100), ("test", 1)):
        folder = root / "data" / f"video_{split}" / "origin"
        folder.mkdir(parents=True)
        (root / f"{split}.txt").write_text(f"video_{split}\n")
        for number in range(frames):
            (folder / f"{number:08d}.jpg").touch()
    plans = [read_plan(load_config(config(data={"vspw": data}))) for data in ({}, {"root": str(root)})]
    (work, results), (same_work, more_results) = map(bytes_needed, plans)
    parameters = results // 4
    assert work == same_work == parameters * (4 + 3 * 12) and 100_000 < parameters < 20_000_000
    assert more_results - results == pytest.approx(100 * 5_000 * (480 * 853) / (480 * 360), rel=1e-3)
    # Once the dataset is prepared, its frames have their own size; an imported prediction is written like any other.
    prepared = Path(plans[1].config.results, "prepare", "vspw")
    prepared.mkdir(parents=True)
    (prepared / "dataset.json").write_text('{"frames": {"val": 100}}')
    (prepared / "index.csv").write_text(
        "video,frame,split,image,mask,height,width\na,0,val,i,m,48,36\na,1,val,i,m,48,36\n"
    )
    small = bytes_needed(plans[1])[1] - results
    assert small == pytest.approx(100 * 50, rel=1e-2)
    (tmp_path / "peer" / "v").mkdir(parents=True)
    (tmp_path / "peer" / "v" / "0.png").touch()
    swin = next(iter(plans[1].predictions))
    both = {swin: {}, "peer": {"labels": str(tmp_path / "peer")}}
    with_import = read_plan(load_config(config(data={"vspw": {"root": str(root)}}, predictions=both)))
    assert bytes_needed(with_import)[1] - results == pytest.approx(2 * small, rel=1e-2)
