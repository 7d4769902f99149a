"""Reads a prepared dataset in MMSegmentation: one dataset class over the index, and its two loading transforms.

Images enter the pipeline in BGR, as mmseg's own loading gives them: `PhotoMetricDistortion` converts from BGR, and a
`SegDataPreProcessor` over this dataset needs `bgr_to_rgb=True`, as in mmseg's base configs.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, TRANSFORMS

from vss.core.errors import UserError
from vss.core.images import read_image, read_mask
from vss.core.index import read_card, read_index
from vss.core.label_space import ignore_index, label_dtype
from vss.core.negatives import Negatives, negatives_path, read_negatives

with contextlib.redirect_stdout(io.StringIO()):  # it prints, twice, that a package is absent that it can do without
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import PackSegInputs


@DATASETS.register_module()
class IndexDataset(BaseSegDataset):
    """A split of a prepared dataset.

    Only four strings per row are kept, serialised by MMEngine into one array that the loader's workers share; paths are
    joined and the label map is added when a row is requested.

    Args:
        index: dataset index, see `read_index`.
        card: dataset card, see `read_card`; gives the root, the classes and the label map.
        split: "train", "val" or "test".
        label_shift: reproduces what the authors' COCO-Stuff pretraining did (`protocol: as_published`): their
            `reduce_zero_label=True` on files that already held train ids drops train id 0 (person) and moves every
            other id down by one. For the train split only; they did not shift in validation.
        train_ids: train id of each of the dataset's classes among other classes, or their ignore index; None keeps its
            own.
        num_classes: how many those other classes are.
        with_negatives: whether files next to the masks say which classes unlabelled pixels surely do not have.
        kwargs: of `BaseSegDataset`: pipeline, indices, test_mode, lazy_init, max_refetch, serialize_data.

    Raises:
        UserError: the split has no row, or `label_shift` is requested outside training.
    """

    def __init__(
        self,
        *,
        index: str | os.PathLike,
        card: str | os.PathLike,
        split: str,
        label_shift: bool = False,
        train_ids: Sequence[int] | None = None,
        num_classes: int = 0,
        with_negatives: bool = False,
        **kwargs: Any,
    ) -> None:
        self.index, self.split, self.with_negatives = index, split, with_negatives
        self.card = read_card(card)
        if label_shift and split != "train":
            raise UserError(f"label_shift: requested on split {split!r}, allowed on 'train' only")
        self.raw_to_train = label_map(self.card.raw_to_train, shift=label_shift)
        if train_ids is not None:
            dtype = label_dtype(num_classes)
            table = np.full(self.card.ignore_index + 1, ignore_index(dtype), dtype)
            table[: len(train_ids)] = train_ids
            self.raw_to_train = table[self.raw_to_train]
        classes = self.card.classes
        palette = self.card.palette()[: len(classes)].tolist()
        super().__init__(metainfo={"classes": tuple(classes), "palette": palette}, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Returns (video, frame, image, mask) of every row of the split that has a mask, of all where none has."""
        table = read_index(self.index)
        table = table[table["split"] == self.split]
        if (table["mask"] != "").any():
            table = table[table["mask"] != ""]
        if table.empty:
            raise UserError(f"{self.index}: no frame in split {self.split!r}")
        columns = (table[name].tolist() for name in ("video", "frame", "image", "mask"))
        return [{"row": row} for row in zip(*columns, strict=True)]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Returns what the pipeline starts from: paths, key, label map; no `seg_map_path` where there is no mask."""
        info = super().get_data_info(idx)
        video, frame, image, mask = info.pop("row")
        info.update(
            video=video,
            frame=frame,
            img_path=os.path.join(self.card.root, image),
            raw_to_train=self.raw_to_train,
            mask_coding=self.card.coding,
            reduce_zero_label=False,
            seg_fields=[],
        )
        if mask:
            info["seg_map_path"] = os.path.join(self.card.root, mask)
            if self.with_negatives:
                info["negatives_path"] = negatives_path(info["seg_map_path"])
        return info


def label_map(table: np.ndarray, *, shift: bool = False) -> np.ndarray:
    """Returns a lookup table [256 or more] from raw id to train id; `shift`: see `IndexDataset.label_shift`."""
    if not shift:
        return table
    ignored = ignore_index(table.dtype)
    kept = (table != 0) & (table != ignored)
    return np.where(kept, table - 1, ignored).astype(table.dtype)


@TRANSFORMS.register_module()
class LoadIndexImage(BaseTransform):
    """Reads `img_path` to `img` [H, W, 3] uint8, BGR, 0..255; sets `img_shape` and `ori_shape` (H, W)."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image = read_image(results["img_path"])
        results["img"] = np.ascontiguousarray(image[:, :, ::-1])
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@TRANSFORMS.register_module()
class LoadIndexLabels(BaseTransform):
    """Reads `seg_map_path` to `gt_seg_map` [H, W]: train ids (`label_dtype`).

    Raises:
        UserError: the frame has no mask.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if "seg_map_path" not in results:
            raise UserError(f"{results['img_path']}: has no mask, labels cannot be loaded")
        results["gt_seg_map"] = read_mask(results["seg_map_path"], results["raw_to_train"], results["mask_coding"])
        results["seg_fields"].append("gt_seg_map")
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@TRANSFORMS.register_module()
class LoadNegatives(BaseTransform):
    """Reads `negatives_path` to `negatives` [H, W] and `surely_wrong` [S, num_classes] bool (`core.negatives`).

    A frame without that file gets a map of zeros: nothing is known of its pixels. To be used after the labels, with
    which the map is resized and cropped.

    Raises:
        UserError: see `read_negatives`; or the map has another size than the labels.
    """

    def __init__(self, *, num_classes: int) -> None:
        self.num_classes = num_classes

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        size, path = results["gt_seg_map"].shape, results.get("negatives_path")
        if path is None:
            found = Negatives(np.zeros(size, np.uint8), np.zeros((0, self.num_classes), bool))
        else:
            found = read_negatives(path, self.num_classes)
        if found.which.shape != size:
            raise UserError(f"{path}: has size {found.which.shape}, its labels {size}; make the pseudo-labels again")
        results["negatives"], results["surely_wrong"] = found.which, found.wrong
        results["seg_fields"].append("negatives")
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_classes={self.num_classes})"


@TRANSFORMS.register_module()
class LoadNoLabels(BaseTransform):
    """Sets `gt_seg_map` [H, W] to the ignore index of `num_classes` classes: a teacher will give the labels."""

    def __init__(self, *, num_classes: int) -> None:
        self.dtype = label_dtype(num_classes)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results["gt_seg_map"] = np.full(results["img_shape"], ignore_index(self.dtype), self.dtype)
        results["seg_fields"].append("gt_seg_map")
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dtype={self.dtype})"


@TRANSFORMS.register_module()
class KeepForTeacher(BaseTransform):
    """Keeps the image as it is now, which a teacher will label.

    Args:
        least: probability of its class from which on a pixel is labelled.
    """

    def __init__(self, *, least: float) -> None:
        self.least = least

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results["for_teacher"], results["least"] = results["img"].copy(), self.least
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(least={self.least})"


@TRANSFORMS.register_module()
class PackIndexSample(PackSegInputs):
    """Packs a sample as MMSegmentation does, and what pseudo-labelled frames have more than others.

    In its data sample are then `negatives` [1, H, W] int64 and `surely_wrong` [S, C] bool (`LoadNegatives`), and
    `for_teacher` [3, H, W] uint8 with `least` (`KeepForTeacher`).
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        packed = super().transform(results)
        sample = packed["data_samples"]
        if "negatives" in results:
            which = results["negatives"]
            if results.get("flip"):  # mmcv's RandomFlip flips the labels, and no other map
                which = which[:, ::-1]
            which = torch.from_numpy(which[None].astype(np.int64))
            wrong = torch.from_numpy(results["surely_wrong"])
            sample.set_data({"negatives": PixelData(data=which), "surely_wrong": wrong})
        if "for_teacher" in results:
            image = np.ascontiguousarray(results["for_teacher"].transpose(2, 0, 1))
            sample.set_data({"for_teacher": torch.from_numpy(image)})
            sample.set_metainfo({"least": results["least"]})
        return packed
