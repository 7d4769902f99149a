"""Decodes images to RGB and masks to train ids."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from vss.core.errors import UserError


def read_image(path: str | os.PathLike, *, upright: bool = False) -> np.ndarray:
    """Decodes an image file to RGB [H, W, 3] uint8.

    Args:
        path: of the image.
        upright: whether to turn it as its EXIF says (phones store pictures lying). A dataset's frames are read as they
            are stored, by VSPW's own tools too, because their masks are.

    Raises:
        UserError: the file is missing, truncated or not an image.
    """
    data = _read_bytes(path)
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise UserError(f"{path}: not a readable image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_raw_mask(path: str | os.PathLike) -> np.ndarray:
    """Decodes a mask PNG to its stored values [H, W] uint8 (palette indices, not colours).

    Raises:
        UserError: the file is missing, truncated, or has more than one channel.
    """
    from PIL import Image  # OpenCV expands palettes to colours

    try:
        with Image.open(path) as file:
            if file.mode not in ("P", "L"):
                raise UserError(f"{path}: mask has mode {file.mode}, expected P or L (one byte a pixel)")
            return np.array(file, dtype=np.uint8)
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable mask ({error})") from None


def read_mask(path: str | os.PathLike, label_map: Sequence[int] | np.ndarray) -> np.ndarray:
    """Decodes a mask and maps it to train ids [H, W] uint8; 255 = ignore. The only place where labels are mapped."""
    return np.asarray(label_map, np.uint8)[read_raw_mask(path)]


def _read_bytes(path: str | os.PathLike) -> np.ndarray:
    # cv2.imread cannot tell a missing file from a broken one, and fails on some unicode paths.
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
