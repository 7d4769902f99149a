"""The propose stage: mask proposals for every frame of one shard, and the choice of the proposer."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from vss.configs.schema import read_section
from vss.core.errors import UserError
from vss.core.files import JsonObject, atomic_path, canonical_json, sha256_of_file
from vss.core.frames_file import go_on
from vss.core.images import read_image
from vss.core.index import read_dataset, shard_rows
from vss.core.log import log, track
from vss.infer.stream import WriteBehind, load_ahead
from vss.refine.key_frames import KeyFrames
from vss.refine.proposals import Proposer, VideoProposer
from vss.refine.proposals_file import ProposalsReader, ProposalsWriter
from vss.refine.settings import (
    FelzenszwalbSettings,
    ProposalSettings,
    Sam2Settings,
    SamSettings,
    SlicSettings,
    sam2_config,
)
from vss.refine.superpixels import build_superpixels

_SETTINGS: dict[str, type[ProposalSettings]] = {
    "felzenszwalb": FelzenszwalbSettings,
    "slic": SlicSettings,
    "sam": SamSettings,
    "sam2": Sam2Settings,
}


def propose(
    *,
    settings: JsonObject,
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shard: int,
    shards: int,
    weights: str | os.PathLike | None,
    out: str | os.PathLike,
    cache: str | os.PathLike | None = None,
    device: str = "auto",
) -> None:
    """Writes the mask proposals of every frame of one shard, or copies those of an equal job from the cache.

    Args:
        settings: `sam`, `sam2`, `felzenszwalb` or `slic` of the schema, see `read_proposal_settings`.
        index, card: of the dataset.
        split, shard, shards: which frames.
        weights: of SAM or SAM 2; None otherwise.
        out: the proposals file (HDF5).
        cache: folder of finished files by the content of what they are made of, for other checkouts; None for none.
            Another version of the code needs another folder.
        device: of SAM or SAM 2: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: a mistake in the settings, weights that cannot be read, a frame that cannot be decoded.
    """
    weights = None if weights is None else str(weights)
    options = read_proposal_settings(settings, weights=weights)
    table, dataset = read_dataset(index, card)
    rows = shard_rows(table, split=split, shard=shard, shards=shards)
    what = f"propose {options.method} {split} shard {shard}"
    made_of = {} if weights is None else {"weights_sha256": weights}
    if weights is not None and isinstance(options, Sam2Settings):
        made_of["config_sha256"] = str(sam2_config(weights))
    provenance = {
        "stage": "refine",
        "proposals": {**settings, "method": options.method},
        "weights_sha256": None,
        **{key: sha256_of_file(path) for key, path in made_of.items()},
        "index_sha256": dataset.sha256,
        "split": split,
        "shard": shard,
        "shards": shards,
    }
    paths = (os.path.join(dataset.root, image) for image in rows["image"])
    kept = None if cache is None else Path(cache, f"{_content_of([provenance, asdict(options)], paths)}.h5")
    if kept is not None and _is_readable(kept):
        log(f"{what}: {len(rows)} frames are taken from {kept}")
        _copy(kept, out)
        return
    proposer = build_video_proposer(options, weights=weights, device=device)
    log(f"{what}: {len(rows)} frames on {proposer.device}")
    with ProposalsWriter(out, provenance=provenance) as writer, WriteBehind(waiting=4) as writing:
        done = go_on(writer, made_of=(*made_of.values(), index, card), what=what)
        # Of an unfinished video, the frames that its missing proposals depend on are read again.
        left = []
        for _, frames in itertools.groupby(rows.itertuples(), key=lambda row: row.video):
            video = list(frames)
            first = next((at for at, row in enumerate(video) if (row.video, row.frame) not in done), len(video))
            left.append(video[proposer.start_of(first) :] if first < len(video) else [])
        images = load_ahead(
            itertools.chain(*left),
            lambda row: read_image(os.path.join(dataset.root, row.image)),
            workers=1,
            ahead=2,
        )
        seen = (image for _, image in track(images, what=what, total=sum(map(len, left))))
        for video in left:
            proposed = proposer.propose_video(itertools.islice(seen, len(video)))
            for row, found in zip(video, proposed, strict=True):
                if (row.video, row.frame) not in done:
                    writing.put(writer.write, row.video, row.frame, found)
    if kept is not None:
        _copy(out, kept)


def _content_of(described: list[JsonObject], images: Iterable[str]) -> str:
    """Returns a digest of what a shard's proposals are made of: what is described, and every frame's bytes."""
    try:
        frames = [sha256_of_file(image) for image in images]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return hashlib.sha256(canonical_json([*described, frames]).encode()).hexdigest()


def _is_readable(kept: Path) -> bool:
    """Returns whether a file of the cache is there and whole; a damaged one is made again and replaced."""
    if not kept.exists():
        return False
    try:
        ProposalsReader(kept).close()
    except UserError as error:
        log(f"{error}: it is made again")
        return False
    return True


def _copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    with atomic_path(target) as aside:
        shutil.copyfile(source, aside)


def read_proposal_settings(given: JsonObject, *, weights: str | None) -> ProposalSettings:
    """Returns typed settings of mask proposals; without a method: SAM where weights are given, else felzenszwalb.

    Raises:
        UserError: unknown method, key or value.
    """
    method = given.get("method", "felzenszwalb" if weights is None else "sam")
    if method not in _SETTINGS:
        raise UserError(f"refine proposals method: is {method!r}, must be one of {', '.join(_SETTINGS)}")
    return read_section(_SETTINGS[method], method, given, where=f"refine proposals {method}")


def build_video_proposer(settings: ProposalSettings, *, weights: str | None, device: str) -> VideoProposer:
    """Builds the proposer for videos; arguments and errors as of `build_proposer`, and SAM 2."""
    if isinstance(settings, Sam2Settings):
        from vss.refine.sam2 import Sam2Proposer  # imports torch and transformers

        return Sam2Proposer.load(settings, weights=weights, device=device)
    interval = settings.key_interval if isinstance(settings, SamSettings) else 1
    return KeyFrames(build_proposer(settings, weights=weights, device=device), interval)


def build_proposer(
    settings: FelzenszwalbSettings | SlicSettings | SamSettings, *, weights: str | None, device: str
) -> Proposer:
    """Builds the proposer for single frames.

    Args:
        settings: see `read_proposal_settings`.
        weights: of SAM; None for superpixels.
        device: of SAM: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: weights missing, unreadable or of an unknown architecture.
    """
    if isinstance(settings, SamSettings):
        from vss.refine.sam import SamProposer  # imports torch and segment_anything

        return SamProposer.load(settings, weights=weights, device=device)
    return build_superpixels(settings)
