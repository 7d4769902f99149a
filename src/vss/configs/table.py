"""`vss models`: every row with its size, its cost, the published weights it accepts and the paper's mIoU.

Building and counting all rows takes a minute, so the numbers lie in `models.json`; after a change of a row or a model,
`python -m vss.configs.table` counts again and writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vss import configs
from vss.core.files import read_json, write_json
from vss.core.log import track

COUNTED = Path(__file__).with_name("models.json")
FRAME = (480, 853)  # height, width of most frames of VSPW
_HEAD = ("row", "parameters", "GFLOPs", "paper mIoU", "published weights it starts from")
_LEGEND = (
    "parameters: of the whole model, with the auxiliary head that only training uses",
    f"GFLOPs: of one {FRAME[0]}x{FRAME[1]} frame, counted by torch.utils.flop_counter: convolutions, matrix products",
    "  and deformable sampling, a multiply-add as two (most papers count it as one)",
    "timm:NAME is a row too, for any backbone of timm with four feature maps, under UperNet",
    "paper mIoU: val / test part 1, one scale; - where the paper has no such model",
    "also accepted: this project's own weights, and any classifier with the row's backbone (`vss import-checkpoint`)",
)


@dataclass(frozen=True)
class Row:
    """What is shown of a row.

    Attributes:
        row: its name.
        parameters: number of parameters, the auxiliary head's included.
        flops: floating-point operations of one frame of `FRAME`, a multiply-add as two.
        paper_miou: {"val": percent, "test1": percent}, empty where the paper has none.
        published_weights: files that `init` or `weights` may name, in words.
    """

    row: str
    parameters: int
    flops: int
    paper_miou: dict[str, float]
    published_weights: list[str]


def model_rows() -> list[Row]:
    """Returns what is known of every row, sorted by name, from the committed counts."""
    return [Row(row=name, **counts) for name, counts in read_json(COUNTED).items()]


def describe(name: str) -> Row:
    """Builds a row's model without data and counts.

    Raises:
        UserError: there is no such row.
    """
    from mmengine.config import Config

    from vss.configs.resolve import load
    from vss.models.build import build_on_meta
    from vss.models.flops import count_flops

    segmentor = build_on_meta(load(name).model.to_dict())
    raw: Mapping[str, Any] = Config.fromfile(configs.FOLDER / f"{name}.py")
    return Row(
        row=name,
        parameters=sum(parameter.numel() for parameter in segmentor.parameters()),
        flops=count_flops(segmentor, height=FRAME[0], width=FRAME[1]),
        paper_miou=dict(raw["paper_miou"]),
        published_weights=list(raw["published_weights"]),
    )


def print_models(*, as_json: bool = False) -> None:
    """Prints all rows, as a table or as a JSON list."""
    rows = model_rows()
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print("\n".join(table_lines(rows)))


def table_lines(rows: Sequence[Row]) -> list[str]:
    """Returns the table and its legend; a row with several published weights takes several lines."""
    cells = [_HEAD]
    for row in rows:
        first, *others = row.published_weights or ["-"]
        miou = " / ".join(f"{value:.2f}" for value in row.paper_miou.values()) or "-"
        cells.append((row.row, f"{row.parameters / 1e6:.1f} M", f"{row.flops / 1e9:.1f}", miou, first))
        cells += [("", "", "", "", other) for other in others]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {size:>{widths[1]}}  {flops:>{widths[2]}}  {miou:>{widths[3]}}  {weights}"
        for name, size, flops, miou, weights in cells
    ]
    return [*lines, "", *_LEGEND]


def write_counts() -> None:
    """Builds every row and writes `COUNTED`; progress goes to standard error."""
    rows = [asdict(describe(name)) for name in track(configs.names(), what="models: build and count", unit="row")]
    write_json(COUNTED, {row.pop("row"): row for row in rows})


if __name__ == "__main__":
    write_counts()
