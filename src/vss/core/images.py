"""Decodes images to RGB and masks to train ids; what is damaged or means something else is refused."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numpy as np
import simplejpeg

from vss.core import png, zip_folder
from vss.core.errors import UserError
from vss.core.files import regular_file
from vss.core.label_space import RgbColour
from vss.core.masks import PLAIN_IDS, MaskCoding, train_ids
from vss.core.video import place_of_frame, read_frame

MOST_PIXELS = 1 << 28  # 16384 x 16384: 0.8 GB as RGB
_MODES = {
    ("ids", 8): "P or L (one byte per pixel)",
    ("ids", 16): "P, L or I;16 (grey values or palette indices; a class table by colour is for masks in colours)",
    ("red", 8): "RGB (ids in the red channel)",
    ("colours", 8): "RGB, RGBA or P (the colours of the class table; a table by id is for masks of ids)",
}
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# A few stray bytes before the end marker, which some encoders leave; every pixel is there.
_HARMLESS = re.compile(r"Corrupt JPEG data: [1-4] extraneous bytes before marker 0xd9")

Decoded = TypeVar("Decoded")


def read_image(path: str | os.PathLike, *, upright: bool = False) -> np.ndarray:
    """Decodes an image file to RGB [H, W, 3] uint8.

    Args:
        path: of the image, or of one frame of a video (`vss.core.video.place_of_frame`), which is always upright.
        upright: whether to turn it as its EXIF orientation requires (phones store pictures lying). A dataset's frames
            are read as they are stored, by VSPW's own tools too, because their masks are.

    Raises:
        UserError: the file is missing, truncated, damaged inside, too large or not an image.
    """
    if (place := place_of_frame(path)) is not None:
        return read_frame(*place)
    data = _read_bytes(path)
    head = data[:8].tobytes()
    if head.startswith(_JPEG):
        image = _decode_jpeg(path, data, decode=not upright)
        if image is not None:
            return image
    else:
        _check_image(path, data, png=head == _PNG)
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"{path}: not a readable image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode_jpeg(path: str | os.PathLike, data: np.ndarray, *, decode: bool) -> np.ndarray | None:
    """Decodes a JPEG by libjpeg-turbo, bit-equal to OpenCV; None where OpenCV has to: to turn it, or for CMYK.

    OpenCV decodes damaged data without a word, the pixels after the damage being anything.

    Raises:
        UserError: libjpeg warns of damage.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        _check_size(path, height, width)
        four_inks = colours in ("CMYK", "YCCK")
        image = simplejpeg.decode_jpeg(data, "CMYK" if four_inks else "RGB")
    except ValueError as error:
        if not _HARMLESS.fullmatch(str(error)):
            raise UserError(f"{path}: damaged image ({_one_line(error)})") from None
        return None
    except (LookupError, RuntimeError):  # a header that announces nothing known
        raise UserError(f"{path}: not a readable image") from None
    return None if four_inks or not decode else image


def _check_image(path: str | os.PathLike, data: np.ndarray, *, png: bool) -> None:
    """Refuses an image by its header, and a PNG by the checksums of its chunks.

    Raises:
        UserError: not an image, too large, or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as file:
            width, height = file.size
            if png:
                file.verify()
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    except UnidentifiedImageError:  # its message is the address of a buffer
        raise UserError(f"{path}: not a readable image") from None
    except Exception as error:  # image libraries raise many types on damaged files
        raise UserError(f"{path}: not a readable image ({_one_line(error)})") from None
    _check_size(path, height, width)


def _check_size(path: str | os.PathLike, height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise UserError(f"{path}: {width}x{height} pixels, at most {MOST_PIXELS:,} pixels are allowed")


def read_raw_mask(path: str | os.PathLike, coding: MaskCoding = PLAIN_IDS) -> np.ndarray:
    """Decodes a mask PNG to its raw ids [H, W], uint8 or, where files have 16 bits, uint16.

    Args:
        path: of the mask.
        coding: how the file holds them; by default as 8-bit grey values or palette indices.

    Raises:
        UserError: the file is missing, truncated or damaged, or its values need not be labels (`mask_mistake`).
    """
    data = _read_bytes(path)
    if coding == PLAIN_IDS and (decoded := png.decode_bytes(data.tobytes())) is not None:
        values, palette = decoded
        if palette is None or _palette_mistake(palette) is None:
            return values
    return _decode_mask(path, data, coding, lambda file: _grey_values(file, data, coding))


def _grey_values(file: Any, data: np.ndarray, coding: MaskCoding) -> np.ndarray:
    """Returns the raw ids of an opened mask; grey PNGs by OpenCV, which takes two thirds of Pillow's time."""
    if coding == PLAIN_IDS and (file.format, file.mode) == ("PNG", "L"):
        grey = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if grey is not None and grey.dtype == np.uint8 and grey.shape == (file.height, file.width):
            return grey
    return coding.raw_ids(file)


def unknown_mask_colours(path: str | os.PathLike, coding: MaskCoding) -> dict[RgbColour, int]:
    """Returns the colours of a mask that its class table does not have, with their pixels, most first.

    Raises:
        UserError: see `read_raw_mask`.
    """
    return _decode_mask(path, _read_bytes(path), coding, coding.unknown_colours)


def _decode_mask(
    path: str | os.PathLike, data: np.ndarray, coding: MaskCoding, decode: Callable[[Any], Decoded]
) -> Decoded:
    from PIL import Image  # OpenCV expands palettes to colours

    try:
        with Image.open(io.BytesIO(data)) as file:
            _check_size(path, file.height, file.width)
            file.verify()  # the checksums of a PNG's chunks, which decoding passes over
        with Image.open(io.BytesIO(data)) as file:
            if mistake := mask_mistake(file, data[:32].tobytes(), coding):
                raise UserError(f"{path}: {mistake}")
            decoded = decode(file)
    except UserError:
        raise
    except Exception as error:  # image libraries raise many types on damaged files
        raise UserError(f"{path}: not a readable mask ({_one_line(error)})") from None
    return decoded


def mask_mistake(image: object, head: bytes, coding: MaskCoding = PLAIN_IDS) -> str | None:
    """Returns why the values of an opened mask cannot be taken for labels, None where they can.

    Args:
        image: a `PIL.Image.Image`.
        head: first 32 bytes of the file.
        coding: how the file should hold raw ids.
    """
    if image.mode not in coding.modes:
        return f"mask has mode {image.mode}, expected {_MODES[coding.values, coding.bits]}"
    if image.mode == "L" and head.startswith(_PNG) and head[24] < 8:
        return f"mask is grey with {head[24]} bits per pixel, which decoders widen to other values; expected 8 bits"
    if image.mode == "P" and coding.values == "ids":
        return _palette_mistake(np.array(image.getpalette(), np.uint8).reshape(-1, 3))
    return None


def _palette_mistake(palette: np.ndarray) -> str | None:
    """Returns why indices into a palette [N, 3] uint8 cannot be taken for labels, None where they can."""
    is_grey = (palette == palette[:, :1]).all()
    if is_grey and len(palette) > 1 and (palette[:, 0] != np.arange(len(palette))).any():
        return "mask has a palette of greys that are not their indices: is the label the index or the grey?"
    return None


def read_mask(path: str | os.PathLike, table: np.ndarray, coding: MaskCoding = PLAIN_IDS) -> np.ndarray:
    """Decodes a mask and maps it to train ids [H, W] by a table (`train_ids`)."""
    return train_ids(read_raw_mask(path, coding), table)


def _read_bytes(path: str | os.PathLike) -> np.ndarray:
    # cv2.imread does not distinguish a missing file from a broken one, and fails on some unicode paths.
    try:
        inside = zip_folder.place_in_zip(path) is not None
        data = np.frombuffer(zip_folder.read(path), np.uint8) if inside else np.fromfile(regular_file(path), np.uint8)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not data.size:
        raise UserError(f"{path}: empty file")
    return data


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def data_url(picture: np.ndarray, kind: str, *, quality: int | None = None) -> str:
    """Returns a picture as a data URL, for a page that needs no other file.

    Args:
        picture: [H, W, 3] uint8 RGB, or [H, W] uint8.
        kind: "jpeg", "png" or "webp".
        quality: of JPEG and WebP, 0..100; None = OpenCV's own.
    """
    qualities = {"jpeg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY}
    options = [] if quality is None else [qualities[kind], quality]
    stored = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    done, data = cv2.imencode(f".{kind}", stored, options)
    assert done
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
