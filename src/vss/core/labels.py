"""The two label spaces of the project: raw id <-> train id <-> name <-> colour. Nowhere else.

VSPW (dataset README, VSPW_baseline dataset.py): masks hold 0 = others, 1..124 = classes, 255 = void;
train id = raw - 1.
COCO-Stuff164k (stuffthingmaps): raw 0..181 with eleven unused ids, 255 = unlabelled; the 171 train ids are the used raw
ids in ascending order. There is no zero label to shift: raw 0 is `person`.
In both spaces every other raw value becomes `IGNORE_INDEX`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORE_INDEX = 255


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


_VSPW_NAMES = _names(
    """
    wall, ceiling, door, stair, ladder, escalator, Playground_slide, handrail_or_fence, window, rail, goal,
    pillar, pole, floor, ground, grass, sand, athletic_field, road, path, crosswalk, building, house, bridge,
    tower, windmill, well_or_well_lid, other_construction, sky, mountain, stone, wood, ice, snowfield,
    grandstand, sea, river, lake, waterfall, water, billboard_or_Bulletin_Board, sculpture, pipeline, flag,
    parasol_or_umbrella, cushion_or_carpet, tent, roadblock, car, bus, truck, bicycle, motorcycle,
    wheeled_machine, ship_or_boat, raft, airplane, tyre, traffic_light, lamp, person, cat, dog, horse, cattle,
    other_animal, tree, flower, other_plant, toy, ball_net, backboard, skateboard, bat, ball,
    cupboard_or_showcase_or_storage_rack, box, traveling_case_or_trolley_case, basket, bag_or_package,
    trash_can, cage, plate, tub_or_bowl_or_pot, bottle_or_cup, barrel, fishbowl, bed, pillow, table_or_desk,
    chair_or_seat, bench, sofa, shelf, bathtub, gun, commode, roaster, other_machine, refrigerator,
    washing_machine, Microwave_oven, fan, curtain, textiles, clothes, painting_or_poster, mirror,
    flower_pot_or_vase, clock, book, tool, blackboard, tissue, screen_or_television, computer, printer,
    Mobile_phone, keyboard, other_electronic_product, fruit, food, instrument, train
    """
)

_COCO_STUFF_NAMES = _names(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
    skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple,
    sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining
    table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
    refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch,
    bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes,
    clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other,
    floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel,
    ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper,
    pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof,
    rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw,
    structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other,
    wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
    """
)

# Raw ids of the COCO label list that no image carries.
_COCO_STUFF_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)


@dataclass(frozen=True)
class LabelSpace:
    """A dataset's classes and how its raw mask values map to train ids.

    Attributes:
        name: dataset name as used in paths, config keys and the CLI.
        classes: class names, position = train id.
        raw_ids: raw mask value of each train id.
        ignored: raw values that mean "no label"; anything else outside `raw_ids` is an error in the data.
    """

    name: str
    classes: tuple[str, ...]
    raw_ids: tuple[int, ...]
    ignored: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def raw_to_train(self) -> np.ndarray:
        """Returns the lookup table [256] uint8 from raw mask value to train id; 255 = ignore."""
        table = np.full(256, IGNORE_INDEX, np.uint8)
        table[list(self.raw_ids)] = np.arange(self.num_classes, dtype=np.uint8)
        return table

    def known_raw_values(self) -> frozenset[int]:
        """Returns every raw value that a correct mask may hold."""
        return frozenset(self.raw_ids) | frozenset(self.ignored)


VSPW = LabelSpace(
    name="vspw",
    classes=_VSPW_NAMES,
    raw_ids=tuple(range(1, 125)),
    ignored=(0, 255),
)

COCO_STUFF = LabelSpace(
    name="coco_stuff",
    classes=_COCO_STUFF_NAMES,
    raw_ids=tuple(raw for raw in range(182) if raw not in _COCO_STUFF_UNUSED),
    ignored=(255,),
)

LABEL_SPACES = {space.name: space for space in (VSPW, COCO_STUFF)}


def _bit_reversed_colours(count: int = 256) -> np.ndarray:
    """Returns PASCAL VOC's colour map [count, 3] uint8: the bits of the id dealt to R, G, B from the top."""
    ids = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def overlay_palette() -> np.ndarray:
    """Returns RGB colours [256, 3] uint8 indexed by train id, distinct for every class; 255 (ignore) is black."""
    palette = np.roll(_bit_reversed_colours(), -1, axis=0)
    palette[IGNORE_INDEX] = 0
    return palette


def submission_palette() -> np.ndarray:
    """Returns the official palette [256, 3] uint8 of VSPW's P-mode PNGs (VSPW_baseline test.py `_palette`).

    It is DAVIS's: VOC colours for the first 22 entries (with 191 where VOC has 192), then greys. Indexed by the stored
    value, that is by train id in a submission.
    """
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    head = _bit_reversed_colours(22)
    palette[:22] = np.where(head == 192, 191, head)
    return palette
