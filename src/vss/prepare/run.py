"""The prepare stage: a raw dataset folder, or a drawn one, becomes an index with one row per frame."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vss.configs.schema import read_section
from vss.core.dataset_content import dataset_content
from vss.core.errors import UserError
from vss.core.files import sha256_of_file, write_json
from vss.core.index import INDEX_COLUMNS, Card, LeftOut, write_card, write_index
from vss.core.labels import LABEL_SPACES, LabelSpace
from vss.core.log import log
from vss.prepare.checks import CheckedFrame, check_frames, check_labels, check_sizes
from vss.prepare.coco_stuff import list_coco_stuff
from vss.prepare.drawn import draw as drawn
from vss.prepare.listing import PROBLEM_KINDS, Listing, Problem
from vss.prepare.vspw import list_vspw

LISTERS: dict[str, Callable[[Path], Listing]] = {"vspw": list_vspw, "coco_stuff": list_coco_stuff}
_SHOWN = 3


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of a dataset: see `dataset` in config.schema.yaml.

    Attributes:
        root: folder in the dataset's published layout; None draws a dataset.
        on_problem: "stop" or "skip".
        checks: "full" or "fast".
        drawn: what is drawn, see `drawn.draw`.
        shards: jobs that the splits are cut into; nothing here depends on it.
    """

    root: str | None
    on_problem: str
    checks: str
    drawn: Mapping[str, Any] = field(default_factory=dict)
    shards: Mapping[str, int] = field(default_factory=dict)


def prepare(
    *,
    dataset: str,
    settings: Mapping[str, Any],
    index: str | os.PathLike,
    card: str | os.PathLike,
    check: str | os.PathLike,
    workers: int | None = None,
) -> None:
    """Writes the index, the card and the check report of a dataset.

    Args:
        dataset: "vspw" or "coco_stuff".
        settings: as the user wrote them, see `PrepareSettings`; a dataset is drawn next to the index.
        index: CSV to write, see `write_index`.
        card: JSON to write, see `Card`.
        check: JSON report to write: {dataset, root, checks, on_problem, counts, problems}. Where problems stop the
            run, the report is written to `stopped_report(check)` instead, so that it outlives the failed job.
        workers: processes that check files; by default one for each usable core.

    Raises:
        UserError: a setting is wrong, the root is missing, no frame is left, or there are problems and `on_problem`
            is "stop".
    """
    # What there is: a folder of the user's, or one that is drawn now.
    if dataset not in LISTERS:
        raise UserError(f"dataset: {dataset!r}, allowed: {', '.join(LISTERS)}")
    space = LABEL_SPACES[dataset]
    chosen = read_section(PrepareSettings, f"data.{dataset}", settings, where=f"data.{dataset}")
    root, is_drawn = _root(dataset, chosen, Path(index).parent)
    # Before anything is read: what changes meanwhile is noticed by the next run.
    content = None if is_drawn else dataset_content(dataset, root)
    listing = LISTERS[dataset](root)
    checked = list(check_frames(listing.frames, root=root, space=space, checks=chosen.checks, workers=workers))
    check_sizes(checked, listing)
    check_labels(checked, listing)
    # What of it can be used, and whether the problems stop the run.
    problems = listing.problems + [problem for item in checked for problem in item.problems]
    kept = [item for item in checked if not any(problem.left_out for problem in item.problems)]
    report = _report(dataset, root, chosen, kept, problems)
    _stop_if_needed(report, problems, kept, chosen.on_problem, check)
    # The card holds a digest of the index, which is therefore first.
    write_index(index, _rows(kept))
    write_card(card, _card(space, root, content, kept, problems, index))
    write_json(check, report)
    stopped_report(check).unlink(missing_ok=True)
    log(f"prepare {dataset}: {_counted(report['counts']['frames'], 'frames')} from {root}, {len(problems)} reported")


def stopped_report(check: str | os.PathLike) -> Path:
    """Returns where the check report goes when its problems stop the run: next to the declared one."""
    check = Path(check)
    return check.with_name(f"{check.stem}-stopped{check.suffix}")


def _root(dataset: str, settings: PrepareSettings, parent: Path) -> tuple[Path, bool]:
    """Returns the dataset's folder, and whether it is drawn (into `parent`)."""
    if settings.root is None:
        return drawn.draw(dataset, settings.drawn, beside=parent), True
    root = Path(os.path.expanduser(settings.root))
    if not root.is_dir():
        raise UserError(f"data.{dataset}.root: {root} is not a folder")
    return root, False


def _rows(kept: list[CheckedFrame]) -> pd.DataFrame:
    rows = [(i.frame.video, i.frame.frame, i.frame.split, i.frame.image, i.frame.mask, i.height, i.width) for i in kept]
    return pd.DataFrame(rows, columns=list(INDEX_COLUMNS))


def _card(
    space: LabelSpace,
    root: Path,
    content: dict[str, str] | None,
    kept: list[CheckedFrame],
    problems: list[Problem],
    index: str | os.PathLike,
) -> Card:
    # A frame may have several problems, or a video in two lists: the first reason stands.
    left_out: dict[tuple[str, str, str], LeftOut] = {}
    for item in filter(None, (problem.left_out for problem in problems)):
        left_out.setdefault((item.split, item.video, item.frame), item)
    return Card(
        name=space.name,
        root=str(root),
        classes=list(space.classes),
        label_map=space.raw_to_train().tolist(),
        drawn=content is None,
        frames=dict(Counter(item.frame.split for item in kept)),
        sha256=sha256_of_file(index),
        content=content or {},
        left_out=tuple(left_out.values()),
    )


def _report(
    dataset: str, root: Path, settings: PrepareSettings, kept: list[CheckedFrame], problems: list[Problem]
) -> dict[str, Any]:
    videos = {(item.frame.split, item.frame.video) for item in kept}
    stop = settings.on_problem == "stop"
    return {
        "dataset": dataset,
        "root": str(root),
        "checks": settings.checks,
        "on_problem": settings.on_problem,
        "counts": {
            "frames": dict(Counter(item.frame.split for item in kept)),
            "videos": dict(Counter(split for split, _ in videos)),
            "problems": dict(Counter(problem.kind for problem in problems)),
        },
        "problems": [
            {
                "file": problem.file,
                "kind": problem.kind,
                "found": problem.found,
                "allowed": PROBLEM_KINDS[problem.kind].allowed,
                "action": "stopped" if stop and not problem.note else PROBLEM_KINDS[problem.kind].remedy,
            }
            for problem in problems
        ],
    }


def _stop_if_needed(
    report: dict[str, Any], problems: list[Problem], kept: list[CheckedFrame], on_problem: str, check: str | os.PathLike
) -> None:
    """Raises after every problem was written down, naming the first few."""
    dataset, root = report["dataset"], report["root"]
    stopping = [problem for problem in problems if not problem.note]
    if kept and not (stopping and on_problem == "stop"):
        return
    write_json(stopped_report(check), report)
    if stopping and on_problem == "stop":
        head = f"{len(stopping)} problems in {root}" if len(stopping) > 1 else f"a problem in {root}"
        remedy = f"fix them or set data.{dataset}.on_problem: skip"
    else:
        head, remedy = f"no usable frame in {root}", "README.md, Your data, shows the layout"
    first = "; ".join(problem.line() for problem in (stopping or problems)[:_SHOWN])
    more = f"; and {len(stopping) - _SHOWN} more" if len(stopping) > _SHOWN else ""
    counted = _counted(report["counts"]["problems"], "")
    raise UserError(f"{dataset}: {head} [{counted}]: {first}{more}. All are in {stopped_report(check)}; {remedy}")


def _counted(counts: Mapping[str, int], noun: str) -> str:
    return ", ".join(f"{number} {name}{' ' + noun if noun else ''}" for name, number in sorted(counts.items()))
