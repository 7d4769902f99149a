"""The order of the stages is the Snakefile's; what a rerun repeats follows the stages that a run has."""

from __future__ import annotations

import re
from pathlib import Path

from vss.core.stages import READERS, with_readers

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_stages_are_those_of_the_rules_in_their_order() -> None:
    files = re.findall(r'^include: "(workflow/rules/.*\.smk)"', (REPOSITORY / "Snakefile").read_text(), re.MULTILINE)
    stages = {}
    for number, file in enumerate(files):
        for stage in re.findall(r'"<results>/benchmarks/(\w+)/', (REPOSITORY / file).read_text()):
            stages.setdefault(stage, number)
    assert set(READERS) == set(stages)
    assert sorted(READERS, key=lambda stage: stages[stage]) == list(READERS)
    assert {reader for readers in READERS.values() for reader in readers} <= set(READERS)


def test_what_follows_is_followed_through_the_stages_of_a_run_only() -> None:
    assert with_readers("infer", ["finetune", "infer", "ensemble", "score"]) == {"infer", "ensemble", "score"}
    # Pseudo-labels lead back: a model is trained on what another one predicts.
    assert with_readers("infer", ["finetune", "infer", "pseudo"]) == {"infer", "pseudo", "finetune"}
