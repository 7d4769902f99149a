"""Code digests: prose does not count, meaning does, and a stage sees only what it imports."""

from __future__ import annotations

import pytest

from vss.core.code import code_without_prose
from vss.workflow import digest


def test_comments_docstrings_and_layout_do_not_count() -> None:
    plain = "def f(x):\n    return x + 1\n"
    prose = '"""Module."""\n# why\ndef f(x):\n    """Adds one."""\n\n    return (x +\n            1)  # one\n'
    assert code_without_prose(plain) == code_without_prose(prose)


def test_a_changed_value_counts() -> None:
    assert code_without_prose("x = 1") != code_without_prose("x = 2")


def test_a_string_that_is_no_docstring_counts() -> None:
    assert code_without_prose("x = 'a'") != code_without_prose("x = 'b'")


@pytest.mark.parametrize("stage", sorted(digest.ENTRY_MODULES))
def test_every_stage_has_an_entry_and_a_digest(stage: str) -> None:
    modules = digest.modules_of(stage)
    assert set(digest.ENTRY_MODULES[stage]) <= set(modules)
    assert len(digest.stage_digest(stage)) == 16


def test_score_sees_neither_models_nor_training() -> None:
    for stage in ("score", "score_shard", "submit", "report"):
        packages = {module.split(".")[1] for module in digest.modules_of(stage) if "." in module}
        assert not packages & {"models", "train", "infer", "refine", "ensemble"}, stage


def test_the_command_line_belongs_to_no_stage() -> None:
    assert all("vss.cli" not in digest.modules_of(stage) for stage in digest.ENTRY_MODULES)


def test_trainings_with_other_code_are_told_and_broken_fingerprints_passed_over(tmp_path) -> None:
    texts = {
        "other": '{"code": "0"}',
        "same": f'{{"code": "{digest.stage_digest("finetune")}"}}',
        "imported": '{"code": null}',
        "cut": '{"code": "0',
        "empty": "",
        "list": "[1]",
    }
    for name, text in texts.items():
        (tmp_path / "finetune" / name).mkdir(parents=True)
        (tmp_path / "finetune" / name / "fingerprint.json").write_text(text)
    names = [f"finetune/{name}" for name in (*texts, "absent")]
    assert digest.trained_with_other_code(tmp_path, names) == ["finetune/other"]


def forget() -> None:
    """What a new process knows: nothing."""
    digest._facts_of.cache_clear()
    digest._native_digest.cache_clear()


def test_facts_that_a_process_before_kept_are_those_of_the_source(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "module.py"
    source.write_text("import vss.core\nfrom . import other\n")
    forget()
    found = digest._facts_of(source)
    assert sorted(found.imports) == [(0, "vss.core", []), (1, "", ["other"])]
    (kept,) = (tmp_path / "vss" / "sources").iterdir()
    with monkeypatch.context() as context:
        context.setattr(digest.ast, "parse", lambda source: pytest.fail("parsed again"))
        forget()
        assert digest._facts_of(source).digest == found.digest
    kept.write_text(kept.read_text().replace(found.digest, "0" * 64))  # damaged
    forget()
    assert digest._facts_of(source).digest == found.digest
    source.write_text("import vss.core\n")
    forget()
    assert digest._facts_of(source).digest != found.digest
    forget()


def test_the_sources_of_the_operators_count(tmp_path) -> None:
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    (tmp_path / "compiled.py").write_text("x = 1\n")
    kernel = tmp_path / "csrc" / "cuda" / "kernel.cu"
    seen = set()
    for text in ("a", "b"):
        kernel.write_text(text)
        forget()
        seen.add(digest._facts_of(tmp_path / "compiled.py").digest)
    assert len(seen) == 2
    assert any(module.startswith("vss_ops.") for module in digest.modules_of("infer"))


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("vss.score.shard", {"score_shard"}),
        ("vss.score.summary", {"score", "report"}),
        ("vss.report.run", {"report"}),
        ("vss.submit.run", {"submit"}),
        ("vss.ensemble.run", {"ensemble", "pseudo"}),
        ("vss.prepare.recheck", {"check_masks", "pretrain", "finetune", "train_refiner"}),
    ],
)
def test_code_counts_in_the_stages_that_run_it(module: str, stages: set[str]) -> None:
    assert {stage for stage in digest.ENTRY_MODULES if module in digest.modules_of(stage)} == stages
