"""Lists a COCO-Stuff164k folder: images/{train,val}2017/*.jpg and stuffthingmaps/{train,val}2017/*.png (raw ids)."""

from __future__ import annotations

from pathlib import Path

from vss.prepare.listing import IMAGE_SUFFIXES, MASK_SUFFIX, Frame, Listing, files_by_stem

_SPLITS = {"train": "train2017", "val": "val2017"}
# What mmsegmentation's converter leaves beside the raw maps; in another label space.
_CONVERTED = "_labelTrainIds"


def list_coco_stuff(root: Path) -> Listing:
    """Returns every image of a COCO-Stuff164k folder, with the problems met.

    An image is a video of one frame: `video` and `frame` are both its stem, so that images spread over the shards.
    """
    listing = Listing()
    for split, year in _SPLITS.items():
        image_folder, mask_folder = f"images/{year}", f"stuffthingmaps/{year}"
        images = files_by_stem(root / image_folder, IMAGE_SUFFIXES, listing=listing, shown=image_folder)
        masks = files_by_stem(root / mask_folder, (MASK_SUFFIX,), listing=listing, shown=mask_folder)
        if not images:
            listing.problem(image_folder, "split_missing", "no image" if (root / image_folder).is_dir() else "absent")
        for stem in sorted(masks.keys() - images.keys()):
            if not stem.endswith(_CONVERTED):
                listing.problem(f"{mask_folder}/{masks[stem]}", "image_missing", f"no image {stem} in {image_folder}")
        for stem, image in sorted(images.items()):
            path = f"{image_folder}/{image}"
            if stem in masks:
                listing.frames.append(Frame(stem, stem, split, path, f"{mask_folder}/{masks[stem]}"))
            else:
                listing.problem(path, "mask_missing", f"no {mask_folder}/{stem}{MASK_SUFFIX}")
    return listing
