"""docs/your-data.md, word for word: from a folder of images and masks to scores."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.workflow.conftest import REPOSITORY, Project
from vss.core.files import read_json

PAGE = (REPOSITORY / "docs" / "your-data.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """Returns the first code block of a language on the page."""
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


def lay_out(folder: Path) -> None:
    """Writes the page's folder: four clips of three frames, every second of which has a mask."""
    rng = np.random.default_rng(0)
    for clip in range(1, 5):
        for frame in range(3):
            labels = np.repeat(np.array([3, 2, 1], np.uint8), 16)[:, None].repeat(64, axis=1)
            labels[26:40, 8 * clip : 8 * clip + 12] = 5 + clip % 2
            labels[:4, :4] = 0
            image = (
                np.stack([labels * 30, labels * 20, 255 - labels * 30], -1) + rng.integers(0, 9, (48, 64, 3))
            ).clip(0, 255)
            for part, array, suffix in (("images", image.astype(np.uint8), "jpg"), ("masks", labels, "png")):
                path = folder / part / f"clip-{clip:02d}" / f"{frame:06d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if part == "images" or frame != 1:
                    Image.fromarray(array).save(path)
    (folder / "classes.csv").write_text(block("csv"))


@pytest.mark.slow
def test_from_a_folder_to_scores(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    lay_out(project.folder / "street")
    config = yaml.safe_load(block("yaml"))
    assert config["models"]["convnext"]["finetune"].pop("max_iters") > 3
    config["models"]["convnext"]["finetune"].update(max_iters=3, batch_size=2)
    (project.folder / "street.yaml").write_text(yaml.safe_dump(config))
    for line in block("sh").splitlines():
        words = line.split()
        assert words[0] == "snakemake"
        command = [*project.command()[:3], *words[1:]]
        done = subprocess.run(
            command, cwd=project.folder, env=project.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    results = project.folder / "results"
    assert read_json(results / "prepare/street/check.json")["counts"]["frames"] == {"train": 9, "val": 3}
    resolved = read_json(results / "finetune/convnext/config.json")
    classes = ["road", "building", "sky", "tree", "vehicle", "person"]
    assert resolved["classes"] == classes and resolved["model"]["decode_head"]["num_classes"] == 6
    scores = read_json(results / "score/convnext.single/val/scores.json")
    # The one clip of val: two of its three frames have a mask, in four or five of the six classes.
    assert scores["dataset"] == "street" and scores["counts"]["frames"] == 2
    assert scores["counts"]["classes_in_truth"] == 4
    table = (results / "score/convnext.single/val/per_class.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in table[1:]] == classes
    assert (results / "report/report.html").is_file()
