"""Which class of one label space is which of another, by name: for taking over rows of published class layers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmseg.utils import ade_classes

from vss.core.labels import COCO_STUFF, VSPW

# What VSPW calls otherwise than ADE20K or COCO-Stuff, by VSPW's name as `_alternatives` spells it: the other names,
# best first. Only where the same things are meant; ADE20K's farm "field" is no athletic field.
ALIASES: dict[str, tuple[str, ...]] = {
    "athletic field": ("playingfield",),
    "bag": ("handbag",),
    "ball": ("sports ball",),
    "bat": ("baseball bat",),
    "billboard": ("signboard",),
    "carpet": ("rug",),
    "cattle": ("cow",),
    "clothes": ("apparel",),
    "commode": ("toilet",),
    "computer": ("laptop",),
    "cupboard": ("cabinet",),
    "ground": ("earth",),
    "handrail": ("railing", "bannister"),
    "lamp": ("light",),
    "microwave oven": ("microwave",),
    "mobile phone": ("cell phone",),
    "motorcycle": ("minibike",),
    "pillar": ("column",),
    "rail": ("railroad",),
    "roaster": ("oven",),
    "snowfield": ("snow",),
    "sofa": ("couch",),
    "stair": ("stairs", "stairway"),
    "stone": ("rock",),
    "table": ("dining table",),
    "television": ("television receiver", "tv"),
    "textiles": ("textile",),
    "toy": ("plaything",),
    "trash can": ("ashcan",),
    "traveling case": ("suitcase",),
    "washing machine": ("washer",),
    "window": ("windowpane",),
}


def classes_by_number(num_classes: int) -> list[str] | None:
    """Returns the class names of the published label space with this many classes, or None.

    150: ADE20K, 171: COCO-Stuff164k, 124: VSPW.
    """
    known = (tuple(ade_classes()), COCO_STUFF.classes, VSPW.classes)
    return next((list(names) for names in known if len(names) == num_classes), None)


def matching_classes(classes: Sequence[str], source_classes: Sequence[str]) -> list[int | None]:
    """Returns for each class the position of the source class of the same meaning, None where there is none.

    Names match when they are equal in lower case with spaces, after "other" and "stuff" at their ends are dropped;
    "a_or_b" matches a, else b; then `ALIASES` are tried.
    """
    positions: dict[str, int] = {}
    for position, name in enumerate(source_classes):
        for alternative in _alternatives(name):
            positions.setdefault(alternative, position)
    return [_find(name, positions) for name in classes]


def _find(name: str, positions: dict[str, int]) -> int | None:
    alternatives = _alternatives(name)
    candidates = [*alternatives, *(alias for found in alternatives for alias in ALIASES.get(found, ()))]
    return next((positions[candidate] for candidate in candidates if candidate in positions), None)


def _alternatives(name: str) -> list[str]:
    plain = " ".join(re.split(r"[\s_-]+", name.strip().lower()))
    return [re.sub(r"^other | (other|stuff)$", "", part) for part in plain.split(" or ")]
