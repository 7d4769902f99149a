"""Draws which room of `vss` imports which, with the lines of each: `make plan`.

Rooms stand in the order of tests/test_imports.py, so that every import goes up the page; an import that goes down is
listed as an arrow back, and the exit status is then 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.test_imports import ORDER, SOURCE, imported_rooms  # noqa: E402


def main() -> int:
    """Prints the plan; returns 1 where a room has an arrow back, else 0."""
    imports: dict[str, set[str]] = {}
    lines: dict[str, int] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        imports.setdefault(room, set()).update(imported_rooms(path) - {room})
        lines[room] = lines.get(room, 0) + len(path.read_text().splitlines())
    rooms = [room for room in (*ORDER, "workflow") if room in imports]
    rooms += sorted(set(imports) - set(rooms))  # the doors: they import every room, and no room imports them
    back = 0
    for position, room in enumerate(rooms):
        arrows = [other for other in rooms if other in imports[room]]
        wrong = [other for other in arrows if other in rooms[position:] and room in rooms[: len(ORDER) + 1]]
        back += bool(wrong)
        print(f"{room:12} {lines[room]:6} lines  {'<- ' + ' '.join(arrows) if arrows else ''}")
        if wrong:
            print(f"{'':12} arrow back: {' '.join(wrong)}")
    print(f"{'total':12} {sum(lines.values()):6} lines  rooms with an arrow back: {back}")
    return min(back, 1)


if __name__ == "__main__":
    raise SystemExit(main())
