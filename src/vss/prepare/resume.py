"""The check of a dataset's files, taken up again where a job that was killed had come to."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vss.configs.schema import from_json
from vss.core.log import log
from vss.core.unfinished import KeptFrame, UnfinishedFrames
from vss.prepare.checks import CheckedFrame
from vss.prepare.listing import RawFrame

_AT_ONCE = 1000  # frames in a record


def checked_again(
    frames: Sequence[RawFrame],
    kept: UnfinishedFrames,
    check: Callable[[Sequence[RawFrame]], Iterable[CheckedFrame]],
    *,
    what: str,
) -> Iterator[CheckedFrame]:
    """Yields every frame checked, in order: the first ones as a killed job had found them, the others by `check`.

    Args:
        frames: what is to be checked.
        kept: where records are; bound to all that the check depends on, so that they are of the same frames.
        check: checks the frames that it is given, in order.
        what: starts the line that is logged where there are records.
    """
    kept.keep(len(kept.keys()))  # a record that was cut ends them
    done = 0
    for record in kept.frames():
        for found in json.loads(record.arrays["checked"].tobytes()):
            done += 1
            yield _from_json(found)
    if done:
        log(f"{what}: {done} files were checked by a run that was stopped")
    checked = iter(check(frames[done:]))
    while new := list(itertools.islice(checked, _AT_ONCE)):
        yield from new
        content = json.dumps([_to_json(item) for item in new]).encode()
        kept.add(KeptFrame("", str(done), {"checked": np.frombuffer(content, np.uint8)}, {}))
        done += len(new)


def _to_json(item: CheckedFrame) -> dict[str, Any]:
    return asdict(item) | {"digest": item.digest.hex()}


def _from_json(found: dict[str, Any]) -> CheckedFrame:
    return from_json(CheckedFrame, found | {"digest": bytes.fromhex(found["digest"])})
