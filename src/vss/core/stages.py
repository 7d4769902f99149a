"""The stages in the order of the flow, and which are made of whose results."""

from __future__ import annotations

from collections.abc import Collection

# As the Snakefile includes them; by the names of their folders of logs and benchmark files.
READERS = {
    "prepare": ("pretrain", "finetune", "infer", "import", "propose", "flow", "pseudo", "score", "submit"),
    "pretrain": ("finetune",),
    "finetune": ("infer",),
    "infer": ("ensemble", "refine", "pseudo", "score", "submit"),
    "import": ("ensemble", "refine", "score", "submit"),
    "ensemble": ("refine", "score", "submit"),
    "propose": ("refine",),
    "flow": ("refine",),
    "refine": ("score", "submit"),
    "pseudo": ("finetune",),
    "score": (),
    "submit": (),
}


def with_readers(stage: str, stages: Collection[str]) -> set[str]:
    """Returns a stage and all that are made of its results, at once or through others.

    Args:
        stage: key of `READERS`.
        stages: those that a run has; nothing is followed through others.
    """
    found, todo = {stage}, [stage]
    while todo:
        new = {reader for reader in READERS[todo.pop()] if reader in stages} - found
        found |= new
        todo += new
    return found
