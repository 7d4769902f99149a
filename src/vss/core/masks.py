"""How a dataset's mask files hold raw ids: as values, in one channel, or as colours of a table; things by instance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from vss.core.files import JsonObject
from vss.core.label_space import IGNORE_INDEX, RgbColour, ignore_index

_DEEP_UNKNOWN = 65_535


@dataclass(frozen=True)
class MaskCoding:
    """How a mask file's pixels become raw ids.

    Attributes:
        values: "ids": grey values or palette indices; "red": the red channel of RGB; "colours": RGB of a table.
        bits: most bits of an id in a file: 8 or 16.
        colours: of "colours": RGB of raw id 0, 1, ...
        things_from: raw values from here on are `id * divisor + instance`; 0 = none are.
        divisor: see `things_from`.
    """

    values: str = "ids"
    bits: int = 8
    colours: tuple[RgbColour, ...] = ()
    things_from: int = 0
    divisor: int = 1

    @classmethod
    def from_json(cls, content: JsonObject) -> MaskCoding:
        """Returns the coding that `dataclasses.asdict` and JSON made a map of lists of."""
        return cls(**{**content, "colours": tuple(map(tuple, content.get("colours", ())))})

    @property
    def modes(self) -> tuple[str, ...]:
        """Returns the Pillow modes that a mask file may have."""
        if self.values == "ids":
            return ("P", "L") if self.bits == 8 else ("P", "L", "I;16")
        return ("RGB",) if self.values == "red" else ("RGB", "RGBA", "P")

    @property
    def unknown(self) -> int:
        """Returns the raw id of a colour that the table does not have; it has no class."""
        return IGNORE_INDEX if len(self.colours) <= IGNORE_INDEX else _DEEP_UNKNOWN

    def raw_ids(self, image: Any) -> np.ndarray:
        """Returns the raw ids [H, W], uint8 or uint16, of an opened mask (`PIL.Image.Image`) of one of `modes`."""
        if self.values == "ids":
            raw = np.array(image)
            raw = raw.astype(np.uint16) if image.mode == "I;16" else raw.astype(np.uint8, copy=False)
        elif self.values == "red":
            raw = np.array(image)[..., 0]
        else:
            raw = self._of_colours(_codes(np.array(image.convert("RGB"))))
        if self.things_from:
            raw = np.where(raw >= self.things_from, raw // self.divisor, raw).astype(raw.dtype)
        return raw

    def unknown_colours(self, image: Any) -> dict[RgbColour, int]:
        """Returns the colours of an opened mask that the table does not have, with their pixels, most first."""
        codes, pixels = np.unique(_codes(np.array(image.convert("RGB"))), return_counts=True)
        unknown = self._of_colours(codes) == self.unknown
        found = sorted(zip(pixels[unknown].tolist(), codes[unknown].tolist(), strict=True), reverse=True)
        return {(code >> 16, code >> 8 & 255, code & 255): count for count, code in found}

    def _of_colours(self, codes: np.ndarray) -> np.ndarray:
        known, ids = _sorted_codes(self.colours)
        at = np.searchsorted(known, codes)
        at[at == len(known)] = 0
        dtype = np.uint8 if self.unknown == IGNORE_INDEX else np.uint16
        return np.where(known[at] == codes, ids[at], self.unknown).astype(dtype)


PLAIN_IDS = MaskCoding()


def train_ids(raw: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns the train ids [H, W] of raw ids, in the table's dtype. The only place where labels are mapped.

    Args:
        raw: [H, W] uint8 or uint16.
        table: [256 or more] uint8 or uint16 train id of each raw id; one beyond its end is ignored.
    """
    if raw.dtype == np.uint8:
        import cv2  # five times as fast as indexing; a dry run, which reads cards, does without

        return cv2.LUT(raw, table[:256])
    return np.where(
        raw < len(table), table[np.minimum(raw, len(table) - 1)], table.dtype.type(ignore_index(table.dtype))
    )


def _codes(rgb: np.ndarray) -> np.ndarray:
    """Returns each pixel's colour as one number [...] int32."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


@lru_cache(maxsize=8)
def _sorted_codes(colours: tuple[RgbColour, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the colours' numbers in ascending order, and the raw id of each."""
    codes = _codes(np.array(colours, np.uint8))
    order = np.argsort(codes)
    return codes[order], order
