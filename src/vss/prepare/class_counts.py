"""What the masks of each split hold, counted while they are checked, and what these counts warn of."""

from __future__ import annotations

from collections import Counter

from vss.core.files import JsonObject
from vss.core.label_space import IGNORE_INDEX, LabelSpace, ignore_index
from vss.prepare.checks import CheckedFrame

_NAMED = 5  # classes or files in a warning


class ClassCounts:
    """Pixels by split and raw id, and images that several splits hold; empty where files were not decoded."""

    def __init__(self, space: LabelSpace) -> None:
        self._space = space
        self._pixels: dict[str, Counter[int]] = {}
        self._first: dict[bytes, CheckedFrame] = {}
        self._shared: list[tuple[CheckedFrame, CheckedFrame]] = []
        self._flipped: list[str] = []

    def add(self, item: CheckedFrame) -> None:
        """Counts a checked frame."""
        self._pixels.setdefault(item.frame.split, Counter()).update(dict(item.values))
        if item.digest:
            first = self._first.setdefault(item.digest, item)
            if first.frame.split != item.frame.split:
                self._shared.append((first, item))
        if item.may_be_flipped:
            self._flipped.append(item.frame.image)

    def pixels(self) -> dict[str, dict[str, int]]:
        """Returns by split and class the pixels of all its masks; classes without any are left out."""
        to_train, classes = self._space.raw_to_train(), self._space.classes
        ignored = ignore_index(to_train.dtype)
        found: dict[str, dict[str, int]] = {}
        for split, counts in self._pixels.items():
            by_class: Counter[int] = Counter()
            for raw, pixels in counts.items():
                by_class[int(to_train[raw]) if raw < len(to_train) else ignored] += pixels
            of_split = {classes[train]: by_class[train] for train in sorted(by_class) if train != ignored}
            if of_split:
                found[split] = of_split
        return found

    def warnings(self) -> list[str]:
        """Returns what may be a mistake though every file is sound, one line each."""
        lines = []
        pixels = self.pixels()
        if "train" in pixels and (unseen := [name for name in pixels.get("val", ()) if name not in pixels["train"]]):
            lines.append(f"val has {_many(unseen, 'class', 'classes')} that train has not: {_listed(unseen)}")
        if self._shared:
            files = [f"{first.frame.image} = {item.frame.image}" for first, item in self._shared]
            lines.append(f"{_many(files, 'image is', 'images are')} in two splits: {_listed(files)}")
        if self._flipped:
            lines.append(
                f"{_many(self._flipped, 'image with a mask is', 'images with masks are')} mirrored or turned by 180"
                f" degrees by EXIF, and read as stored; check that the masks lie likewise: {_listed(self._flipped)}"
            )
        return [*lines, *self.shifts()]

    def shifts(self) -> list[str]:
        """Returns the splits whose ids do not fit the class table, but would if they were one more or less."""
        known = self._space.known_raw_values()
        if self._space.mask_colours:
            return []
        lines = []
        for split, counts in self._pixels.items():
            values = set(counts) - {IGNORE_INDEX, ignore_index(self._space.raw_to_train().dtype)}
            for step, word in ((-1, "less"), (1, "more")):
                if not values <= known and {value + step for value in values} <= known:
                    lines.append(
                        f"{split}: mask values {min(values)}..{max(values)} do not fit the class table, and would if"
                        f" each were one {word}: its ids are shifted against the masks"
                    )
        return lines

    def to_json(self) -> JsonObject:
        """Returns what the check report holds of it."""
        return {"pixels": self.pixels(), "warnings": self.warnings()}


def _many(items: list[str], one: str, several: str) -> str:
    return f"{len(items)} {one if len(items) == 1 else several}"


def _listed(items: list[str]) -> str:
    return ", ".join(items[:_NAMED]) + (", ..." if len(items) > _NAMED else "")
