"""Natural order of names: `frame_2` before `frame_10`, as time passes in a video."""

from __future__ import annotations

import re

_NUMBER = re.compile("([0-9]+)")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Returns a sort key under which the numbers in names count by their value; equal ones are in text order."""
    # Text and numbers alternate, text first, so that a number is only ever compared with a number.
    parts = _NUMBER.split(name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name
