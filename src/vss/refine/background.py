"""Which VSPW classes CascadePSP's merge treats as background."""

from __future__ import annotations

# eval_post_ade.py of CascadePSP halves the confidence of 35 ADE20K classes: surfaces, terrain, water, sky and large
# constructions, which surround things, so that a refined thing wins over what is behind it. These are the VSPW classes
# of the same names or kinds (ADE20K -> VSPW: wall, building/skyscraper, sky, floor, ceiling, road/runway, grass,
# sidewalk/path/dirt track, earth/land, mountain/hill, water, house/hovel, sea, rug, field, sand, grandstand, stairway,
# river, bridge, tower, escalator, waterfall, lake, pier/stage), and those of the kind that ADE20K lacks (crosswalk,
# ice, snowfield). VIPSeg's list of "stuff" will not do: it holds toys, books and tyres. Like upstream's it leaves trees
# and plants out.
BACKGROUND_CLASSES = (
    "wall",
    "ceiling",
    "stair",
    "escalator",
    "floor",
    "ground",
    "grass",
    "sand",
    "athletic_field",
    "road",
    "path",
    "crosswalk",
    "building",
    "house",
    "bridge",
    "tower",
    "other_construction",
    "sky",
    "mountain",
    "ice",
    "snowfield",
    "grandstand",
    "sea",
    "river",
    "lake",
    "waterfall",
    "water",
    "cushion_or_carpet",
)
