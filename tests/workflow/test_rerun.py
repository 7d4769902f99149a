"""Only what changed reruns: each case is a dry run from a finished workflow."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.raw_dataset import FRAMES, RawVspw, save_image, save_mask
from tests.workflow.conftest import Project

pytestmark = pytest.mark.slow


def test_a_finished_run_has_nothing_to_do(finished: Project) -> None:
    assert finished.planned() == {}
    assert "Nothing to be done" in "".join(finished.snakemake().stderr)


def change_flip(config: dict) -> None:
    config["tta"]["flip"]["img_ratios"] = [1.0, 1.25]


def change_max_iters(config: dict) -> None:
    config["models"]["convnext"]["finetune"]["max_iters"] = 4


def change_pretrain(config: dict) -> None:
    config["models"]["m2f"]["pretrain"]["max_iters"] = 3


def change_ensemble_weight(config: dict) -> None:
    config["ensembles"]["both"]["members"]["m2f.single"] = 2


def change_what_the_report_shows(config: dict) -> None:
    config["report"]["colours"] = {"wall": "#336699"}
    config["predictions"]["convnext.single"]["paper"]["val"] = 55.6


def change_data(config: dict) -> None:
    config["data"]["vspw"]["drawn"]["seed"] = 5


def change_gpus(config: dict) -> None:
    config["models"]["convnext"]["finetune"]["gpus"] = 2


def change_how_a_training_runs(config: dict) -> None:
    config["models"]["m2f"]["cfg_options"] = {"num_workers": 1, "micro_batch": 1, "log_interval": 1}
    config["models"]["m2f"]["pretrain"]["checkpoint_interval"] = 1
    config["models"]["m2f"]["finetune"]["cfg_options"] = {"grad_checkpoint": True}


def change_vote(config: dict) -> None:
    config["refiners"]["ssa"]["settings"] = {"min_purity": 0.6}


def add_model(config: dict) -> None:
    config["models"]["another"] = dict(config["models"]["convnext"])
    config["predictions"]["another.single"] = {}


def add_temporal(config: dict) -> None:
    config["refiners"]["temporal"] = {"method": "temporal"}
    config["predictions"]["both.temporal"] = {}


def drop_ensemble(config: dict) -> None:
    del config["predictions"]["both"], config["predictions"]["both.ssa"], config["targets"]


# What follows a change, whole: of the data, of everything inferred, and of the ensemble `both` alone.
REPORT = {"report_settings": 1, "report": 1}
DATA = {"prepare": 1, "check_masks": 1}
AFTER_INFER = {"ensemble": 3, "refine": 4, "score_shard": 8, "score": 4, "submit": 1, "report": 1}
FROM_INFER = {"infer": 6, "infer_labels": 2, **AFTER_INFER}
FROM_BOTH = {"ensemble": 3, "refine": 2, "score_shard": 4, "score": 2, "submit": 1, "report": 1}

CONFIG_CHANGES: list[tuple[Callable[[dict], None], dict[str, int]]] = [
    # convnext.flip: val in two shards and test in one, for the ensemble `both`
    (change_flip, {"infer": 3, **FROM_BOTH}),
    (change_max_iters, {"settings": 1, "finetune": 1, "infer": 3, "infer_labels": 2, **AFTER_INFER}),
    (change_pretrain, {"settings": 1, "pretrain": 1, "finetune": 1, "infer": 3, **FROM_BOTH}),
    (change_ensemble_weight, FROM_BOTH),
    (change_what_the_report_shows, REPORT),
    (change_data, {**DATA, "settings": 3, "finetune": 2, "train_refiner": 1, "propose": 2, **FROM_INFER}),
    (change_vote, {"refine": 2, "score_shard": 2, "score": 1, "report": 1}),
    (add_model, {"settings": 1, "finetune": 1, "infer_labels": 2, "score_shard": 2, "score": 1, **REPORT}),
    (add_temporal, {"flow": 2, "refine": 2, "score_shard": 2, "score": 1, **REPORT}),
    # what no longer feeds an ensemble keeps its labels and is not run again
    (drop_ensemble, REPORT),
]


@pytest.mark.parametrize(("change", "expected"), CONFIG_CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_config_change_reruns_what_depends_on_it(
    finished: Project, change: Callable[[dict], None], expected: dict[str, int]
) -> None:
    with finished.changed_config(change):
        assert finished.planned() == expected


def append_code(source: str) -> str:
    return source + "\n_CHANGED = 1\n"


def append_prose(source: str) -> str:
    return source + "\n# Only a comment.\n"


AFTER_SCORE = {"score": 4, "report": 1}
# Which file belongs to which stage is tests/workflow/test_digest.py's.
CODE_CHANGES = [
    ("src/vss/refine/run.py", {"refine": 4, "score_shard": 4, "score": 2, "report": 1}),
    ("src/vss/prepare/recheck.py", {"check_masks": 1, "score_shard": 8, **AFTER_SCORE}),
    ("src/vss/infer/run.py", FROM_INFER),
    # what every stage shares: everything but the trainings, which are weeks
    ("src/vss/core/files.py", {"prepare": 2, "check_masks": 1, "propose": 2, **FROM_INFER}),
]


@pytest.mark.parametrize(("name", "expected"), CODE_CHANGES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_code_change_reruns_its_stage_and_what_follows(
    finished: Project, name: str, expected: dict[str, int]
) -> None:
    with finished.changed_file(name, append_code):
        assert finished.planned() == expected


def test_what_changes_no_result_reruns_nothing(finished: Project) -> None:
    """Messages, the command line, scheduling, how a training runs, the code of trainings (weeks of work), comments."""
    code = ("src/vss/core/log.py", "src/vss/train/run.py", "src/vss/cli.py")
    prose = ("src/vss/score/shard.py", "src/vss/core/files.py", "src/vss/infer/run.py")
    with contextlib.ExitStack() as changes:
        for name in code:
            changes.enter_context(finished.changed_file(name, append_code))
        for name in prose:
            changes.enter_context(finished.changed_file(name, append_prose))
        changes.enter_context(finished.changed_config(change_gpus))
        changes.enter_context(finished.changed_config(change_how_a_training_runs))
        words = ["--set-threads", "finetune=2", "--set-resources", "infer:mem_mb=9000", "infer:runtime=5"]
        assert finished.planned(*words) == {}


def test_a_training_is_not_missed_where_prepare_runs_as_well(finished: Project) -> None:
    """Snakemake does not look at the parameters of a job that is below a running one, even through `ancient`."""
    with finished.changed_file("src/vss/prepare/run.py", append_code), finished.changed_config(change_max_iters):
        planned = finished.planned()
    assert (planned["prepare"], planned["finetune"]) == (2, 1)


def test_training_reruns_for_code_only_where_asked(finished: Project) -> None:
    def ask(config: dict) -> None:
        config["retrain_on_code_change"] = True

    with finished.changed_config(ask):
        assert {"finetune", "pretrain"} <= set(finished.planned())


def test_training_says_that_its_code_has_changed(finished: Project) -> None:
    with finished.changed_file("src/vss/train/run.py", append_code):
        done = finished.snakemake("--dry-run")
    assert "training code has changed" in done.stdout + done.stderr


def test_touched_files_rerun_nothing(finished: Project) -> None:
    for path in [*finished.folder.glob("src/**/*.py"), *finished.folder.glob("results/**/*.json")]:
        os.utime(path)
    for path in finished.folder.glob("results/**/weights.safetensors"):
        os.utime(path)
    assert finished.planned() == {}


@pytest.mark.parametrize("spelling", ["./results/", "{here}/results"])
def test_another_spelling_of_the_folders_reruns_nothing(finished: Project, spelling: str) -> None:
    def respell(config: dict) -> None:
        config["results"] = spelling.format(here=finished.folder)
        config["work"] = config["results"].replace("results", "work")

    with finished.changed_config(respell):
        assert finished.planned() == {}


@pytest.mark.long
def test_lost_records_of_snakemake_are_no_silent_miss(finished: Project) -> None:
    """Without them Snakemake cannot see that a parameter has changed."""
    kept = finished.folder / ".snakemake"
    kept.rename(finished.folder / "elsewhere")
    try:
        done = finished.snakemake("--dry-run")
        assert "settings have changed" not in done.stderr
        with finished.changed_config(change_max_iters):
            done = finished.snakemake("--dry-run")
            assert "settings have changed since these were trained: finetune/convnext." in done.stderr
            assert finished.planned("--forcerun", "settings")["finetune"] >= 1
    finally:
        shutil.rmtree(kept)
        (finished.folder / "elsewhere").rename(kept)


@pytest.mark.long
def test_changed_files_of_a_real_dataset_rerun_what_depends_on_them(tmp_path: Path, vspw: RawVspw) -> None:
    project = Project(tmp_path / "project")

    def use_real(config: dict) -> None:
        config["data"]["vspw"] = {"root": str(vspw.root)}

    wanted = ("results/score/convnext.single/val/scores.json",)
    trained = {"settings": 1, "finetune": 1}
    scored = {"score_shard": 1, "score": 1}
    with project.changed_config(use_real):
        project.snakemake(*wanted)
        assert project.planned(*wanted) == {}
        # What reads the masks of a split, and no more.
        save_mask(vspw.mask("v0", FRAMES[0]), 2)
        assert project.planned(*wanted) == {"check_masks": 1, **scored}
        # Together with a change of the inference, which is below nothing that runs.
        with project.changed_file("src/vss/infer/run.py", append_code):
            assert project.planned(*wanted) == {"check_masks": 1, "infer_labels": 1, **scored}
        project.snakemake(*wanted)
        assert project.planned(*wanted) == {}
        save_mask(vspw.mask("t0", FRAMES[0]), 2)
        assert project.planned(*wanted) == {**trained, "infer_labels": 1, **scored}
        # Images decide which frames there are.
        save_image(vspw.image("v0", FRAMES[0]), seed=9)
        after_images = {"prepare": 1, "check_masks": 1, "infer_labels": 1, **scored}
        assert project.planned(*wanted) == {**trained, **after_images}
        project.snakemake(*wanted)
        vspw.add_video("x0", [*FRAMES, "00000025"], masks=False)
        assert project.planned(*wanted) == after_images


@pytest.mark.long
def test_published_weights_may_move(finished: Project) -> None:
    published = [finished.folder / name / "published.safetensors" for name in ("here", "there")]
    published[0].parent.mkdir()
    shutil.copy(finished.folder / "results/finetune/convnext/weights.safetensors", published[0])

    def import_from(path: Path) -> Callable[[dict], None]:
        def change(config: dict) -> None:
            config["models"]["done"] = {"weights": str(path), "config": "upernet_convnext-nano_vspw"}
            config["models"]["tuned"] = {"finetune": {"config": "upernet_convnext-nano_vspw", "init": str(path)}}

        return change

    with finished.changed_config(import_from(published[0])):
        finished.snakemake("results/finetune/done/fingerprint.json", "results/finetune/tuned/settings.json")
    published[0].parent.rename(published[1].parent)
    with finished.changed_config(import_from(published[1])):
        wanted = ("results/finetune/done/fingerprint.json", "results/finetune/tuned/settings.json")
        assert finished.planned(*wanted) == {}
        published[1].write_bytes(published[1].read_bytes()[::-1])
        assert finished.planned(*wanted) == {"import_weights": 1, "settings": 1}
    shutil.rmtree(published[1].parent)


def test_a_fresh_clone_beside_kept_results_reruns_nothing(finished: Project, tmp_path: Path) -> None:
    clone = Project(tmp_path / "clone")
    for kept in ("results", "work", ".snakemake"):
        shutil.copytree(finished.folder / kept, clone.folder / kept, symlinks=True)
    assert clone.planned() == {}
