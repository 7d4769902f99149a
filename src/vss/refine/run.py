"""The refine stage: one shard of label maps in, the same frames refined out."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from vss.configs.schema import read_section
from vss.core.errors import UserError
from vss.core.files import JsonObject, read_json
from vss.core.frames_file import FramesReader, go_on
from vss.core.images import read_image
from vss.core.index import read_dataset, shard_rows
from vss.core.label_space import ignore_index
from vss.core.labels_file import LabelsReader, LabelsWriter
from vss.core.log import log, track
from vss.core.scores_file import ScoresReader
from vss.flow.flow_file import FlowReader
from vss.infer.stream import WriteBehind, load_ahead
from vss.refine.parts import Part
from vss.refine.proposals import Partitions, RunLengths
from vss.refine.proposals_file import ProposalsReader
from vss.refine.settings import CascadePspSettings
from vss.refine.soft_labels import SoftLabels, read_soft_labels
from vss.refine.ssa import SsaSettings, vote_proposals
from vss.refine.temporal import PredictedFrame, TemporalSettings, agreement, smooth
from vss.refine.tubes import MaskedFrame, TubesSettings, vote_in_tubes
from vss.weights.fingerprint import sha256_of_weights


@dataclass(frozen=True)
class RefinerInput:
    """One frame and its prediction, as a refiner is given them.

    Attributes:
        video, frame: the frame's key.
        image: path of its image file.
        labels: [H, W] train ids; the ignore index is unknown.
        scores: the class scores of which the labels are the argmax; None where the labels vote.
    """

    video: str
    frame: str
    image: str
    labels: np.ndarray
    scores: SoftLabels | None


@dataclass(frozen=True)
class RefinerResources:
    """What a refiner may use next to its settings.

    Attributes:
        weights: of a network, or None.
        proposals: mask proposals of the shard, or None.
        flow: optical flow of the shard, or None.
        has_scores: whether the frames come with class scores.
        classes: class names of the prediction, position = train id.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    weights: str | os.PathLike | None
    proposals: str | os.PathLike | None
    flow: str | os.PathLike | None
    has_scores: bool
    classes: list[str]
    device: str


@dataclass(frozen=True)
class Refiner:
    """A refiner ready for work.

    Attributes:
        prepare: returns what can be computed for a frame ahead of its turn, in a background thread.
        refine: maps the shard's frames, each with what `prepare` returned for it, to their refined labels [H, W], in
            the same order; it may look at frames ahead.
        device: what it runs on, for the message.
        frame_by_frame: whether a frame's result depends on no other frame.
    """

    prepare: Callable[[RefinerInput], Any]
    refine: Callable[[Iterable[tuple[RefinerInput, Any]]], Iterable[np.ndarray]]
    device: str = "cpu"
    frame_by_frame: bool = True


_WORKERS = 2  # frames prepared at the same time


@contextlib.contextmanager
def ssa(settings: SsaSettings, resources: RefinerResources) -> Iterator[Refiner]:
    """Votes over mask proposals."""
    if resources.proposals is None:
        raise UserError("refine ssa: no proposals file; make one with `vss propose`")
    with ProposalsReader(resources.proposals) as reader:

        def voted(frame: RefinerInput) -> np.ndarray:
            found = reader.read(frame.video, frame.frame)
            if tuple(found.size) != frame.labels.shape:
                raise UserError(
                    f"{reader.path}: frame {frame.frame!r} of video {frame.video!r} has proposals of another size than"
                    " its labels; make them again"
                )
            guards = {"min_purity": settings.min_purity, "keep_area": settings.keep_area}
            return vote_proposals(frame.labels, found, scores=frame.scores, **guards)

        yield Refiner(prepare=voted, refine=lambda frames: (labels for _, labels in frames))


@contextlib.contextmanager
def cascadepsp(settings: CascadePspSettings, resources: RefinerResources) -> Iterator[Refiner]:
    """Refines with CascadePSP or a network of its family."""
    from vss.refine.cascadepsp import CascadePSP  # imports torch

    refiner = CascadePSP.load(settings, weights=resources.weights, classes=resources.classes, device=resources.device)

    def image_and_parts(frame: RefinerInput) -> tuple[np.ndarray, list[Part]]:
        return read_image(frame.image), refiner.parts_of(frame.labels)

    if settings.only_uncertain is None or resources.has_scores:

        def refined(frames: Iterable[tuple[RefinerInput, tuple[np.ndarray, list[Part]]]]) -> Iterator[np.ndarray]:
            for frame, (image, parts) in frames:
                certainty = None if frame.scores is None else frame.scores.top
                yield refiner.refine_parts(image, frame.labels, parts, certainty)

        yield Refiner(image_and_parts, refined, str(refiner.device))
        return

    # Without class scores, labels are certain where neighbouring frames agree on them.
    if resources.flow is None:
        raise UserError("refine cascadepsp: only_uncertain: no scores file and no flow file; make one with `vss flow`")
    with FlowReader(resources.flow) as reader:
        vote = read_section(TemporalSettings, "temporal", {}, where="refine temporal")

        def with_flow(frame: RefinerInput) -> tuple[np.ndarray, list[Part], PredictedFrame]:
            image, parts = image_and_parts(frame)
            return image, parts, _predicted(frame, image, reader)

        def refined_where_they_differ(frames: Iterable[tuple[RefinerInput, Any]]) -> Iterator[np.ndarray]:
            waiting: deque[tuple[RefinerInput, Any]] = deque()

            def predicted() -> Iterator[PredictedFrame]:
                for pair in frames:
                    waiting.append(pair)
                    yield pair[1][2]

            for certainty in agreement(predicted(), vote):
                frame, (image, parts, _) = waiting.popleft()
                yield refiner.refine_parts(image, frame.labels, parts, certainty)

        yield Refiner(with_flow, refined_where_they_differ, str(refiner.device), frame_by_frame=False)


@contextlib.contextmanager
def temporal(settings: TemporalSettings, resources: RefinerResources) -> Iterator[Refiner]:
    """Votes among neighbouring frames along optical flow."""
    if resources.flow is None:
        raise UserError("refine temporal: no flow file; make one with `vss flow`")
    with FlowReader(resources.flow) as reader:

        def predicted(frame: RefinerInput) -> PredictedFrame:
            return _predicted(frame, read_image(frame.image), reader)

        yield Refiner(predicted, lambda frames: smooth((ahead for _, ahead in frames), settings), frame_by_frame=False)


def _predicted(frame: RefinerInput, image: np.ndarray, reader: FlowReader) -> PredictedFrame:
    key = (frame.video, frame.frame)
    flow = reader.read(*key) if key in reader else None
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return PredictedFrame(video=frame.video, labels=frame.labels, image=grey, flow=flow, scores=frame.scores)


@contextlib.contextmanager
def tubes(settings: TubesSettings, resources: RefinerResources) -> Iterator[Refiner]:
    """Votes in masks that are linked over time: superpixels along optical flow, masks of objects by their ids."""
    if resources.proposals is None:
        raise UserError("refine tubes: no proposals file; make one with `vss propose`")
    with contextlib.ExitStack() as stack:
        masks = stack.enter_context(ProposalsReader(resources.proposals))
        if "rle" in masks.forms():
            raise UserError(f"{masks.path}: refine tubes: SAM's masks cannot be linked; use sam2 or superpixels")
        if "partitions" in masks.forms() and resources.flow is None:
            raise UserError(
                "refine tubes: superpixels are linked along optical flow: no flow file; make one with `vss flow`"
            )
        flows = None if resources.flow is None else stack.enter_context(FlowReader(resources.flow))

        def masked(frame: RefinerInput) -> MaskedFrame:
            key = (frame.video, frame.frame)
            found = masks.read(*key)
            assert isinstance(found, Partitions | RunLengths)
            if tuple(found.size) != frame.labels.shape:
                raise UserError(
                    f"{masks.path}: frame {frame.frame!r} of video {frame.video!r} has proposals of another size than"
                    " its labels; make them again"
                )
            flow = flows.read(*key) if flows is not None and key in flows else None
            return MaskedFrame(frame.video, frame.labels, found, flow, frame.scores)

        def voted(frames: Iterable[tuple[RefinerInput, MaskedFrame]]) -> Iterator[np.ndarray]:
            return vote_in_tubes((ahead for _, ahead in frames), settings)

        yield Refiner(masked, voted, frame_by_frame=False)


@dataclass(frozen=True)
class Method:
    """A way to refine.

    Attributes:
        settings: the type of its settings, which the schema describes under the method's name.
        opened: maps settings and resources to a `Refiner`, open while in use.
    """

    settings: type
    opened: Callable[[Any, RefinerResources], AbstractContextManager[Refiner]]


METHODS = {
    "cascadepsp": Method(CascadePspSettings, cascadepsp),
    "ssa": Method(SsaSettings, ssa),
    "temporal": Method(TemporalSettings, temporal),
    "tubes": Method(TubesSettings, tubes),
}


@dataclass(frozen=True)
class RefineSettings:
    """Settings of the stage: a row of `METHODS`, what that method is given, and what a frame that fails does."""

    method: str
    settings: JsonObject
    on_problem: str


def refine(
    *,
    settings: JsonObject,
    labels: str | os.PathLike,
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shard: int,
    shards: int,
    weights: str | os.PathLike | None = None,
    proposals: str | os.PathLike | None = None,
    flow: str | os.PathLike | None = None,
    scores: str | os.PathLike | None = None,
    chosen: str | os.PathLike | None = None,
    out: str | os.PathLike,
    device: str = "auto",
) -> None:
    """Refines the label maps of one shard; frames are paired by (video, frame).

    Args:
        settings: `refine_job` of the schema: method, a row of `METHODS`; settings, that method's; on_problem: "stop",
            or "keep" to keep the labels of frames that cannot be refined, which are marked in the file.
        labels: the prediction of this shard (`LabelsReader`).
        index, card: of the dataset.
        split, shard, shards: which frames.
        weights: of the refinement network (cascadepsp).
        proposals: mask proposals of this shard (ssa, tubes).
        flow: optical flow of this shard (temporal, tubes of superpixels, only_uncertain without scores).
        scores: class scores of the prediction on this shard (not where `votes` is labels).
        chosen: result of a search (`vss.refine.search`), whose settings replace those given (temporal).
        out: the refined prediction, same frames and sizes.
        device: of the refinement network: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: a mistake in the settings, a missing or unreadable file, a frame without prediction, or whose
            prediction is of another size than the frame, or, unless it is kept, that cannot be refined.
    """
    given = read_section(RefineSettings, "refine_job", settings, where="refine")
    method = METHODS[given.method]
    options: Any = read_section(method.settings, given.method, given.settings, where=f"refine {given.method}")
    if chosen is not None:
        options = _chosen_settings(options, chosen)
    table, dataset = read_dataset(index, card)
    rows = shard_rows(table, split=split, shard=shard, shards=shards)
    what = f"refine {given.method} {split} shard {shard}"
    votes = getattr(options, "votes", None)
    if votes == "scores" and scores is None:
        raise UserError(f"refine {given.method}: votes: is 'scores', and no scores file is given; add --scores")

    # Files and networks are open while the shard is worked on.
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(LabelsReader(labels))
        soft = None if scores is None or votes == "labels" else stack.enter_context(ScoresReader(scores))
        resources = RefinerResources(
            weights=weights,
            proposals=proposals,
            flow=flow,
            has_scores=soft is not None,
            classes=reader.classes,
            device=device,
        )
        refiner = stack.enter_context(method.opened(options, resources))
        log(f"{what}: {len(rows)} frames on {refiner.device}")
        provenance = {
            "stage": "refine",
            "settings": asdict(given),
            "weights_sha256": None if weights is None else sha256_of_weights(weights),
            "index_sha256": dataset.sha256,
            "proposals": None if proposals is None else _provenance_of(ProposalsReader(proposals)),
            "flow": None if flow is None else _provenance_of(FlowReader(flow)),
            "votes": "labels" if soft is None else "scores",
            "of": reader.provenance,
            **({} if chosen is None else {"chosen": asdict(options)}),
        }

        # Threads read frames ahead of the refiner and prepare them, another writes what is refined.
        writer = stack.enter_context(LabelsWriter(out, classes=reader.classes, provenance=provenance))
        writing = stack.enter_context(WriteBehind(waiting=4))

        def prepared(row: Any) -> tuple[RefinerInput, Any]:
            """Returns a frame and what its refiner needs, or why that is not available."""
            found = _read_labels(reader, row)
            frame = RefinerInput(row.video, row.frame, os.path.join(dataset.root, row.image), found, None)
            try:
                if soft is not None:
                    frame = replace(frame, scores=read_soft_labels(soft, row.video, row.frame, found))
                return frame, refiner.prepare(frame)
            except UserError as error:
                return frame, error

        done = go_on(
            writer, made_of=filter(None, (labels, scores, weights, proposals, flow, chosen, index, card)), what=what
        )
        left = [row for row in rows.itertuples() if (row.video, row.frame) not in done]
        if not refiner.frame_by_frame and left:  # a frame's neighbours count, those already refined too
            left = list(rows[rows["video"].isin({row.video for row in left})].itertuples())
        ready = load_ahead(left, prepared, workers=_WORKERS, ahead=2 * _WORKERS)
        refined = _refined((ahead for _, ahead in ready), refiner)
        for frame, result in track(refined, what=what, total=len(left)):
            final, problem = (frame.labels, str(result)) if isinstance(result, UserError) else (result, "")
            if problem and given.on_problem == "stop":
                raise UserError(
                    f"refine {given.method}: frame {frame.frame!r} of video {frame.video!r}: {problem}"
                    " (on_problem: keep keeps the labels of such frames)"
                )
            assert not ((final != frame.labels) & (final == ignore_index(final.dtype))).any(), "a class became void"
            if (frame.video, frame.frame) not in done:
                writing.put(partial(writer.write, unrefined=problem), frame.video, frame.frame, final)
            if problem:
                log(f"{what}: kept the labels of frame {frame.frame!r} of video {frame.video!r}: {problem}")


def _chosen_settings(given: TemporalSettings, chosen: str | os.PathLike) -> TemporalSettings:
    """Returns the settings that a search chose, which began with those given.

    Raises:
        UserError: it began with others, or the file is no such result.
    """
    found = read_json(chosen)
    if found.get("given") != asdict(given):
        raise UserError(f"{chosen}: was not chosen from the settings given; run search-refiner with them")
    return read_section(TemporalSettings, "temporal", found.get("settings", {}), where=str(chosen))


def _refined(
    frames: Iterable[tuple[RefinerInput, Any]], refiner: Refiner
) -> Iterator[tuple[RefinerInput, np.ndarray | UserError]]:
    """Yields every frame, in order, with its refined labels or why it has none.

    A refiner that looks at several frames does not look across one that failed.

    Args:
        frames: each with what the refiner's `prepare` returned for it, or the `UserError` that it raised.
        refiner: that refines them.
    """
    left = iter(frames)
    while True:
        given: deque[tuple[RefinerInput, Any]] = deque()  # to the refiner, which has not answered yet
        failed: deque[tuple[RefinerInput, UserError]] = deque()
        try:
            for labels in refiner.refine(_until_one_failed(left, given, failed)):
                yield given.popleft()[0], labels
            assert not given, "a refiner left frames out"
        except UnreadablePredictionError:
            raise
        except UserError as error:
            # It is that of the frame whose turn it was; those that the refiner has seen after it are given to it again.
            frame, _ = given.popleft()
            left = itertools.chain(given, failed, left)
            failed = deque([(frame, error)])
        if not failed:
            return
        yield failed.popleft()


def _until_one_failed(
    frames: Iterator[tuple[RefinerInput, Any]],
    given: deque[tuple[RefinerInput, Any]],
    failed: deque[tuple[RefinerInput, UserError]],
) -> Iterator[tuple[RefinerInput, Any]]:
    """Yields frames and appends them to `given`, until one has failed, which goes into `failed`."""
    for frame, ahead in frames:
        if isinstance(ahead, UserError):
            failed.append((frame, ahead))
            return
        given.append((frame, ahead))
        yield frame, ahead


def _provenance_of(reader: FramesReader) -> dict[str, Any]:
    with reader:
        return reader.provenance


class UnreadablePredictionError(UserError):
    """Raised where the labels to refine cannot be read, so that there are none to keep."""


def _read_labels(reader: LabelsReader, row: Any) -> np.ndarray:
    try:
        labels = reader.read(row.video, row.frame)
    except UserError as error:
        raise UnreadablePredictionError(str(error)) from error
    if labels.shape != (row.height, row.width):
        raise UnreadablePredictionError(
            f"{reader.path}: frame {row.frame!r} of video {row.video!r} is {labels.shape[0]}x{labels.shape[1]}, "
            f"the index says {row.height}x{row.width}"
        )
    return labels
