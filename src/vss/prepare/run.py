"""The prepare stage: a raw dataset folder, or a drawn one, becomes an index with one row per frame."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from vss.configs.datasets import Dataset, read_dataset_row
from vss.core.dataset_content import dataset_content
from vss.core.errors import UserError
from vss.core.files import JsonObject, sha256_of_file, write_json, write_text
from vss.core.index import INDEX_COLUMNS, Card, LeftOut, write_card, write_index
from vss.core.log import log
from vss.core.unfinished import UnfinishedFrames
from vss.prepare.checks import CheckedFrame, MaskLabels, check_frames, check_labels, check_sizes
from vss.prepare.class_counts import ClassCounts
from vss.prepare.drawn import draw as drawn
from vss.prepare.folders import check_masks_found, list_dataset
from vss.prepare.frame_counts import FrameCounts
from vss.prepare.listing import PROBLEM_KINDS, Problem
from vss.prepare.page import check_page
from vss.prepare.resume import checked_again

_SHOWN = 3


def prepare(
    *,
    dataset: str,
    settings: JsonObject,
    index: str | os.PathLike,
    card: str | os.PathLike,
    check: str | os.PathLike,
    workers: int | None = None,
) -> None:
    """Writes the index, the card and the check report of a dataset.

    Args:
        dataset: key of the config's `data`.
        settings: the row as the user wrote it, see `vss.configs.datasets`; a dataset is drawn next to the index.
        index: CSV to write, see `write_index`; next to it, the pixels of each class by frame (`frame_counts`).
        card: JSON to write, see `Card`.
        check: JSON report to write: {dataset, root, checks, on_problem, counts, problems, pixels, warnings}. Where
            problems stop the run, the report is written to `stopped_report(check)` instead, so that it outlives the
            failed job. Next to either is the same as a page, `.html`.
        workers: processes that check files; by default one for each usable core.

    Raises:
        UserError: a setting is wrong, the root is missing, no frame is left, or there are problems and `on_problem`
            is "stop".
    """
    # What there is: a folder of the user's, or one that is drawn now.
    row = read_dataset_row(dataset, settings)
    root = _root(row, Path(index).parent)
    # Before anything is read: what changes meanwhile is noticed by the next run.
    content = {} if row.root is None else dataset_content(row.layout, root)
    listing = list_dataset(row.layout, root)
    check_masks_found(row.layout, root, listing)
    labels = MaskLabels(row.name, row.space, row.coding, Path(row.settings.classes or "the class table").name)
    counts, of_frames, checked = ClassCounts(row.space), FrameCounts(), []
    check_all = partial(check_frames, root=root, labels=labels, checks=row.settings.checks, workers=workers)
    found, unfinished = check_all(listing.frames), None
    if content and row.settings.checks == "full":  # may take an hour; a fast one takes a minute or two
        made_of = {"settings": {**settings, "on_problem": None}, "root": str(root), "content": content}
        unfinished = UnfinishedFrames(Path(check), made_of, made_of=())
        found = checked_again(listing.frames, unfinished, check_all, what=f"prepare {dataset}")
    for item in found:
        counts.add(item)
        of_frames.add(item)
        checked.append(replace(item, values=(), digest=b""))
    check_sizes(checked, listing)
    check_labels(checked, listing)
    # What of it can be used, and whether the problems stop the run.
    problems = listing.problems + [problem for item in checked for problem in item.problems]
    kept = [item for item in checked if not any(problem.left_out for problem in item.problems)]
    report = {**_report(row, root, kept, problems), **counts.to_json()}
    _stop_if_needed(report, problems, kept, check, hints=counts.shifts())
    # The card holds a digest of the index, which is therefore first.
    write_index(index, _rows(kept))
    written = _card(row, root, content, kept, problems, index)
    of_frames.write(index, sha256=written.sha256, content=content)
    write_card(card, written)
    _write_report(check, report)
    if unfinished is not None:
        unfinished.remove()
    for stopped in (stopped_report(check), stopped_report(check).with_suffix(".html")):
        stopped.unlink(missing_ok=True)
    for line in report["warnings"]:
        log(f"prepare {dataset}: warning: {line}")
    log(f"prepare {dataset}: {_counted(report['counts']['frames'], 'frames')} from {root}, {len(problems)} reported")


def stopped_report(check: str | os.PathLike) -> Path:
    """Returns where the check report goes when its problems stop the run: next to the declared one."""
    check = Path(check)
    return check.with_name(f"{check.stem}-stopped{check.suffix}")


def _write_report(path: str | os.PathLike, report: JsonObject) -> None:
    """Writes a check report as JSON, and next to it as a page."""
    write_text(Path(path).with_suffix(".html"), check_page(report))
    write_json(path, report)


def _root(row: Dataset, parent: Path) -> Path:
    """Returns the dataset's folder, which is drawn into `parent` where there is no root."""
    if row.root is None:
        return drawn.draw(row, beside=parent)
    if not row.root.is_dir():
        raise UserError(f"data.{row.name}.root: {row.root} is not a folder")
    return row.root


def _rows(kept: list[CheckedFrame]) -> pd.DataFrame:
    rows = [(i.frame.video, i.frame.frame, i.frame.split, i.frame.image, i.frame.mask, i.height, i.width) for i in kept]
    return pd.DataFrame(rows, columns=list(INDEX_COLUMNS))


def _card(
    row: Dataset,
    root: Path,
    content: dict[str, str],
    kept: list[CheckedFrame],
    problems: list[Problem],
    index: str | os.PathLike,
) -> Card:
    # A frame may have several problems, or a video in two lists: the first reason stands.
    left_out: dict[tuple[str, str, str], LeftOut] = {}
    for item in filter(None, (problem.left_out for problem in problems)):
        left_out.setdefault((item.split, item.video, item.frame), item)
    return Card(
        name=row.name,
        root=str(root),
        classes=list(row.space.classes),
        label_map=row.space.raw_to_train().tolist(),
        drawn=row.root is None,
        frames=dict(Counter(item.frame.split for item in kept)),
        sha256=sha256_of_file(index),
        content=content,
        left_out=tuple(left_out.values()),
        space=row.space.name,
        colours=row.space.colours,
        coding=row.coding,
        ignored=row.space.ignored,
        layout={} if row.root is None else row.layout.to_json(),
    )


def _report(row: Dataset, root: Path, kept: list[CheckedFrame], problems: list[Problem]) -> dict[str, Any]:
    videos = {(item.frame.split, item.frame.video) for item in kept}
    stop = row.settings.on_problem == "stop"
    return {
        "dataset": row.name,
        "root": str(root),
        "checks": row.settings.checks,
        "on_problem": row.settings.on_problem,
        "counts": {
            "frames": dict(Counter(item.frame.split for item in kept)),
            "videos": dict(Counter(split for split, _ in videos)),
            "sizes": dict(Counter(f"{item.width}x{item.height}" for item in kept).most_common()),
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
    report: dict[str, Any],
    problems: list[Problem],
    kept: list[CheckedFrame],
    check: str | os.PathLike,
    *,
    hints: Sequence[str],
) -> None:
    """Raises after every problem was written down, naming the first few."""
    dataset, root, on_problem = report["dataset"], report["root"], report["on_problem"]
    stopping = [problem for problem in problems if not problem.note]
    if kept and not (stopping and on_problem == "stop"):
        return
    _write_report(stopped_report(check), report)
    Path(check).with_suffix(".html").unlink(missing_ok=True)  # of an earlier run; no output of the workflow's
    if stopping and on_problem == "stop":
        head = f"{len(stopping)} problems in {root}" if len(stopping) > 1 else f"a problem in {root}"
        remedy = f"fix them or set data.{dataset}.on_problem: skip"
    else:
        head, remedy = f"no usable frame in {root}", "docs/your-data.md shows the layouts"
    first = "; ".join(problem.line() for problem in (stopping or problems)[:_SHOWN])
    more = f"; and {len(stopping) - _SHOWN} more" if len(stopping) > _SHOWN else ""
    more += "".join(f"; {hint}" for hint in hints)
    counted = _counted(report["counts"]["problems"], "")
    raise UserError(f"{dataset}: {head} [{counted}]: {first}{more}. All are in {stopped_report(check)}; {remedy}")


def _counted(counts: Mapping[str, int], noun: str) -> str:
    return ", ".join(f"{number} {name}{' ' + noun if noun else ''}" for name, number in sorted(counts.items()))
