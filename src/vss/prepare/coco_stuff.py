"""Lists a COCO-Stuff164k folder: images/{train,val}2017/*.jpg and stuffthingmaps/{train,val}2017/*.png (raw ids)."""

from __future__ import annotations

from pathlib import Path

from vss.prepare.listing import IMAGE_SUFFIXES, MASK_SUFFIX, Listing, RawFrame, files_by_stem

_SPLITS = {"train": "train2017", "val": "val2017"}
# What mmsegmentation's converter leaves next to the raw maps; in another label space.
_CONVERTED = "_labelTrainIds"


def list_coco_stuff(root: Path) -> Listing:
    """Returns every image of a COCO-Stuff164k folder, with the problems met.

    An image is a video of one frame: `video` and `frame` are both its stem, so that images spread over the shards.
    """
    listing = Listing()
    for split, year in _SPLITS.items():
        image_folder, mask_folder = f"images/{year}", f"stuffthingmaps/{year}"
        images = files_by_stem(root / image_folder, IMAGE_SUFFIXES, listing=listing, shown=image_folder, split=split)
        masks = files_by_stem(root / mask_folder, (MASK_SUFFIX,), listing=listing, shown=mask_folder, split=split)
        if not images:
            found = "no image" if (root / image_folder).is_dir() else "absent"
            listing.problem(image_folder, "split_missing", found, without=(split, "", ""))
        for stem in sorted(masks.keys() - images.keys()):
            if not stem.endswith(_CONVERTED):
                found, mask = f"no image {stem} in {image_folder}", f"{mask_folder}/{masks[stem]}"
                listing.problem(mask, "image_missing", found, without=(split, stem, stem))
        for stem, image in sorted(images.items()):
            path = f"{image_folder}/{image}"
            if stem in masks:
                listing.frames.append(RawFrame(stem, stem, split, path, f"{mask_folder}/{masks[stem]}"))
            else:
                listing.problem(
                    path, "mask_missing", f"no {mask_folder}/{stem}{MASK_SUFFIX}", without=(split, stem, stem)
                )
    return listing
