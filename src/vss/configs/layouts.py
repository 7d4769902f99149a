"""Where an imported prediction's files are and what is stored in them: rows of known layouts, or a path pattern."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from vss.configs.schema import read_section
from vss.core.errors import UserError, did_you_mean
from vss.core.files import JsonObject
from vss.core.patterns import PathPattern

PLACEHOLDERS = ("split", "video", "frame", "shard")
OUR_LABELS, OUR_SCORES = ".labels.h5", ".scores.h5"
_LABEL_FILES, _SCORE_FILES = (".png", OUR_LABELS), (".npz", ".npy", OUR_SCORES)
_KNOWN_IDS = ("train", "raw", "categories")


@dataclass(frozen=True)
class Layout:
    """How a system writes label maps into its output folder.

    Attributes:
        files: path pattern below the folder.
        ids: what the stored values are: "train", "raw" or "categories" (the panoptic JSON names them).
        segments: the JSON of a panoptic prediction below the folder, empty for plain label maps.
    """

    files: str
    ids: str = "train"
    segments: str = ""


# Sources: VSPW_baseline test.py, which submissions follow; `vss_eval.py` and `vps_eval.py` of DVIS_Plus, videomt and
# pmt, below detectron2's OUTPUT_DIR; MMSegmentation's `IoUMetric(format_only=True)`, which puts all files into one
# folder, each named after its image, and adds 1 where `reduce_zero_label` is set; the COCO panoptic format.
LAYOUTS = {
    "vspw": Layout("{video}/{frame}.png"),
    "dvis": Layout("inference/{video}/{frame}.png"),
    "videomt": Layout("inference/{video}/{frame}.png"),
    "pmt": Layout("inference/{video}/{frame}.png"),
    "mmseg": Layout("{video}_{frame}.png", "raw"),
    "coco_panoptic": Layout("panoptic/{video}/{frame}.png", "categories", "panoptic.json"),
    "dvis_panoptic": Layout("inference/pan_pred/{video}/{frame}.png", "raw", "inference/pred.json"),
    "vss": Layout("{shard}" + OUR_LABELS),
}


@dataclass(frozen=True)
class ImportSettings:
    """A row of `predictions` that is imported, as the config has it; the schema describes every key."""

    splits: tuple[str, ...]
    resize: str | None
    on_extra: str
    confidence: float
    labels: str | None = None
    scores: str | None = None
    layout: str | None = None
    ids: str | None = None
    segments: str | None = None


@dataclass(frozen=True)
class ImportSource:
    """Where an imported prediction's files are and what is in them.

    Attributes:
        files: pattern of the files.
        holds: ending of their names.
        ids: "train", "raw", "categories" or the path of a class table (CSV).
        segments: pattern ({split} only) of the JSON of a panoptic prediction, None for plain label maps.
        settings: the rest.
    """

    files: PathPattern
    holds: str
    ids: str
    segments: PathPattern | None
    settings: ImportSettings

    @property
    def has_scores(self) -> bool:
        """Whether the files hold class probabilities, not label maps."""
        return self.holds in _SCORE_FILES


@dataclass(frozen=True)
class ReportedRow:
    """The keys of a row of `predictions` that do not describe an import; the schema describes every key."""

    title: str | None = None
    data: str | None = None
    table: int | None = None
    paper: JsonObject = field(default_factory=dict)


def reported_row(row: JsonObject) -> ReportedRow:
    """Returns the keys of a row of `predictions` that do not describe an import."""
    return ReportedRow(**{key: row[key] for key in ReportedRow.__annotations__ if key in row})


def import_keys(row: JsonObject) -> dict[str, Any]:
    """Returns what of a row of `predictions` says how it is imported; empty for one that is made here."""
    return {key: value for key, value in row.items() if key not in ReportedRow.__annotations__}


def import_source(row: JsonObject, *, where: str) -> ImportSource:
    """Returns the source that a row of `predictions` describes.

    Args:
        row: see `ImportSettings`; what only the report reads may be among it.
        where: starts every message: the key that the row stands in.

    Raises:
        UserError: an unknown key or a wrong value, or keys that do not fit each other.
    """
    settings = read_section(ImportSettings, "prediction", import_keys(row), where=where)
    if (settings.labels is None) == (settings.scores is None):
        found = "none" if settings.labels is None else "both"
        raise UserError(f"{where}: an imported prediction needs exactly one of labels and scores; found {found}")
    kind, text = "labels", settings.labels or ""
    endings: tuple[str, ...] = _LABEL_FILES
    if settings.scores is not None:
        kind, text, endings = "scores", settings.scores, _SCORE_FILES
    key = f"{where}.{kind}"
    layout = _layout(settings, text, endings, where)
    path = os.path.join(text, layout.files) if layout else text
    files = PathPattern(path, allowed=PLACEHOLDERS, where=key)
    holds = next((ending for ending in endings if path.endswith(ending)), None)
    if holds is None:
        raise UserError(f"{key}: is {text!r}, must end in {' or '.join(endings)}")
    _check_placeholders(files, holds, key)
    segments = _segments(settings, text, layout, holds, where)
    ids = _ids(settings, layout, segments, holds, where)
    _check_rules(row, settings, holds, where)
    return ImportSource(files, holds, ids, segments, settings)


def _layout(settings: ImportSettings, text: str, endings: tuple[str, ...], where: str) -> Layout | None:
    """Returns the layout of a folder, None where the files are named one by one."""
    names_files = text.endswith(endings) or "{frame}" in text or "{shard}" in text
    if settings.scores is None and not names_files:
        return LAYOUTS[settings.layout or "vspw"]
    if settings.layout is not None:
        raise UserError(f"{where}.layout: allowed only where labels is a folder; here it names files")
    return None


def _check_placeholders(files: PathPattern, holds: str, key: str) -> None:
    """Refuses a pattern that cannot name one file per frame, or per shard of our own files."""
    needed, useless = ("shard", ("video", "frame")) if holds in (OUR_LABELS, OUR_SCORES) else ("frame", ("shard",))
    if needed not in files.names:
        raise UserError(f"{key}: is {files.text!r}, which has no {{{needed}}}; it names one file per {needed}")
    if found := next((name for name in useless if name in files.names), None):
        raise UserError(f"{key}: is {files.text!r}; {{{found}}} has no meaning for files ending in {holds}")


def _segments(settings: ImportSettings, text: str, layout: Layout | None, holds: str, where: str) -> PathPattern | None:
    path = settings.segments
    if path is None:
        path = os.path.join(text, layout.segments) if layout and layout.segments else None
    elif holds != ".png":
        raise UserError(f"{where}.segments: allowed only next to labels that end in .png")
    return None if path is None else PathPattern(path, allowed=("split",), where=f"{where}.segments")


def _ids(settings: ImportSettings, layout: Layout | None, segments: PathPattern | None, holds: str, where: str) -> str:
    """Returns what the stored values are."""
    given = settings.ids
    if given is None:
        return layout.ids if layout else "train" if segments is None else "categories"
    if holds in (OUR_LABELS, OUR_SCORES):
        raise UserError(f"{where}.ids: our own files hold train ids and name their classes; drop the key")
    if given == "categories" and segments is None:
        raise UserError(f"{where}.ids: categories are those of a panoptic JSON; allowed only next to segments")
    if given not in _KNOWN_IDS and not given.endswith(".csv"):
        near = did_you_mean(given, _KNOWN_IDS)
        raise UserError(f"{where}.ids: is {given!r}{near}, must be {', '.join(_KNOWN_IDS)} or a class table (.csv)")
    return given


def _check_rules(row: JsonObject, settings: ImportSettings, holds: str, where: str) -> None:
    """Refuses rules that the files cannot follow."""
    has_scores = holds in _SCORE_FILES
    if has_scores and "confidence" in row:
        raise UserError(f"{where}.confidence: allowed only next to labels; scores have probabilities of their own")
    fitting = "bilinear" if has_scores else "nearest"
    if settings.resize not in (None, fitting):
        kind = "class probabilities" if has_scores else "label maps"
        raise UserError(f"{where}.resize: is {settings.resize!r}; {kind} are resized by {fitting!r}, or refused (null)")
