"""The refine stage on a tiny dataset: proposals, their file, SSA and CascadePSP through one function."""

from __future__ import annotations

import shutil
from collections import deque

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from tests.refine.masks import run_lengths
from tests.stopped_jobs import stopped_and_run_again
from vss.core.errors import UserError
from vss.core.files import sha256_of_file
from vss.core.index import read_index, shard_of
from vss.core.labels import VSPW
from vss.core.labels_file import LabelsReader, LabelsWriter
from vss.core.scores_file import ScoresWriter
from vss.exchange.readers import votes
from vss.flow.flow_file import FlowReader
from vss.flow.run import flow
from vss.refine.network import build_network
from vss.refine.proposals_file import ProposalsReader, ProposalsWriter
from vss.refine.propose import build_video_proposer, propose
from vss.refine.run import Refiner, UnreadablePredictionError, _refined, refine

SUPERPIXELS = {"method": "felzenszwalb", "scales": [100], "min_size": 10}


def propose_val(dataset, settings=SUPERPIXELS, weights=None, name="val.proposals.h5"):
    out = dataset.folder / name
    propose(
        settings=settings,
        index=dataset.index,
        card=dataset.card,
        split="val",
        shard=0,
        shards=1,
        weights=weights,
        out=out,
        device="cpu",
    )
    return out


def refine_val(dataset, settings, **paths):
    out = dataset.folder / "refined.labels.h5"
    common = {"index": dataset.index, "card": dataset.card, "split": "val", "shard": 0, "shards": 1, "device": "cpu"}
    refine(settings=settings, out=out, **{"labels": dataset.labels, **common, **paths})
    return out


def accuracy(dataset, predictions) -> float:
    return float(np.mean([(p == dataset.truths[key]).mean() for key, p in predictions.items()]))


def read_all(path):
    with LabelsReader(path) as reader:
        return {key: reader.read(*key) for key in sorted(reader.keys())}


def test_ssa_over_superpixels_mends_a_coarse_prediction(dataset):
    refined = read_all(refine_val(dataset, {"method": "ssa"}, proposals=propose_val(dataset)))
    before = read_all(dataset.labels)
    assert refined.keys() == before.keys()
    assert all(refined[key].shape == before[key].shape for key in before)
    assert 1 - accuracy(dataset, refined) < 0.6 * (1 - accuracy(dataset, before))


def test_the_refined_file_says_what_it_came_from(dataset):
    out = refine_val(dataset, {"method": "ssa", "settings": {"min_purity": 0.5}}, proposals=propose_val(dataset))
    with LabelsReader(out) as reader:
        settings = {"method": "ssa", "settings": {"min_purity": 0.5}, "on_problem": "stop"}
        assert reader.provenance["settings"] == settings
        assert reader.provenance["of"] == {"model": "coarse"}
        assert len(reader.classes) == 124
        index = sha256_of_file(dataset.index)
        assert (reader.provenance["index_sha256"], reader.provenance["weights_sha256"]) == (index, None)
        made_by = reader.provenance["proposals"]
    assert made_by["proposals"] == SUPERPIXELS
    assert (made_by["index_sha256"], made_by["weights_sha256"]) == (index, None)


def test_shards_hold_their_own_frames(dataset):
    videos = pd.unique(read_index(dataset.index).query("split == 'val'")["video"])
    for shard in range(2):
        out = dataset.folder / f"{shard}.proposals.h5"
        propose(
            settings=SUPERPIXELS,
            index=dataset.index,
            card=dataset.card,
            split="val",
            shard=shard,
            shards=2,
            weights=None,
            out=out,
        )
        with ProposalsReader(out) as reader:
            assert {video for video, _ in set(reader.keys())} == {v for v in videos if shard_of(v, 2) == shard}


def test_the_temporal_vote_through_the_stage(dataset):
    """Flow of the shard, then the vote; the drawn frames of a video have nothing in common, so that none changes."""
    common = {"index": dataset.index, "card": dataset.card, "split": "val", "shard": 0, "shards": 1}
    flow(method="dis", out=dataset.folder / "flow.h5", **common)
    with FlowReader(dataset.folder / "flow.h5") as reader:
        videos = [video for video, _ in reader.keys()]  # noqa: SIM118
        assert len(videos) == len(set(videos)) == 2  # of two frames each
        assert reader.provenance["flow"] == "dis"
    refined = refine_val(dataset, {"method": "temporal"}, flow=dataset.folder / "flow.h5")
    assert read_all(refined).keys() == dataset.predictions.keys() - {("1_a--b", "00000001"), ("1_a--b", "0 2")}
    for key, labels in read_all(refined).items():
        np.testing.assert_array_equal(labels, dataset.predictions[key])
    with LabelsReader(refined) as reader:
        assert reader.provenance["flow"]["flow"] == "dis" and reader.provenance["proposals"] is None


def test_scores_are_read_unless_labels_are_to_vote(dataset):
    """Certain scores vote as the labels do; the file says what voted."""
    scores, proposals = dataset.folder / "val.scores.h5", propose_val(dataset)
    with ScoresWriter(scores, classes=VSPW.classes, provenance={}) as writer:
        for key in (key for key in dataset.predictions if key[0] != "1_a--b"):
            writer.write(*key, np.eye(124, dtype=np.float32)[dataset.predictions[key]].transpose(2, 0, 1))
    found = {}
    for voting in ("labels", "scores"):
        out = refine_val(dataset, {"method": "ssa", "settings": {"votes": voting}}, proposals=proposals, scores=scores)
        found[voting] = read_all(out)
        with LabelsReader(out) as reader:
            assert reader.provenance["votes"] == voting
    for key, labels in found["labels"].items():
        np.testing.assert_array_equal(found["scores"][key], labels)
    with pytest.raises(UserError, match="no scores file is given"):
        refine_val(dataset, {"method": "ssa", "settings": {"votes": "scores"}}, proposals=proposals)


def test_an_imported_label_map_may_have_pixels_without_a_class(dataset):
    """Its scores are votes, in which such a pixel has every class alike."""
    labels, scores, proposals = dataset.labels, dataset.folder / "val.scores.h5", propose_val(dataset)
    maps = {key: found.copy() for key, found in read_all(labels).items()}
    with (
        LabelsWriter(labels, classes=VSPW.classes, provenance={}) as labels_writer,
        ScoresWriter(scores, classes=VSPW.classes, provenance={}) as scores_writer,
    ):
        for key, found in maps.items():
            found[:5] = 255
            labels_writer.write(*key, found)
            scores_writer.write_encoded(*key, votes(found, 0.9, 124))
    by_votes = [
        read_all(
            refine_val(dataset, {"method": "ssa", "settings": {"votes": what}}, proposals=proposals, scores=scores)
        )
        for what in ("labels", "scores")
    ]
    for key in maps:
        np.testing.assert_array_equal(by_votes[0][key], by_votes[1][key])


@pytest.mark.parametrize("method", ["ssa", "temporal"])
def test_a_frame_that_fails_stops_the_job_or_keeps_its_labels(dataset, monkeypatch, method):
    """Its image is cut short; other frames are refined as they would be without it, stopped in between or not."""
    common = {"index": dataset.index, "card": dataset.card, "split": "val", "shard": 0, "shards": 1}
    proposals, flows = propose_val(dataset), dataset.folder / "flow.h5"
    flow(method="dis", out=flows, **common)
    made_of = {"proposals": proposals} if method == "ssa" else {"flow": flows}
    whole = read_all(refine_val(dataset, {"method": method}, **made_of))
    broken = sorted(whole)[1]

    read = {"ssa": ProposalsReader, "temporal": FlowReader}[method]
    found = read.read

    def damaged(self, video, frame):
        if (video, frame) == broken:
            raise UserError("cut short")
        return found(self, video, frame)

    monkeypatch.setattr(read, "read", damaged)
    if method == "temporal":
        monkeypatch.setattr(read, "__contains__", lambda self, key: key == broken or key in self._at)
    with pytest.raises(UserError, match=rf"refine {method}: frame '{broken[1]}' of .*: cut short .on_problem: keep"):
        refine_val(dataset, {"method": method}, **made_of)

    def job(folder):
        settings = {"method": method, "on_problem": "keep"}
        refine(settings=settings, labels=dataset.labels, out=folder / "0.h5", **made_of, **common)

    job(dataset.folder / "whole")
    with LabelsReader(dataset.folder / "whole" / "0.h5") as reader:
        assert reader.unrefined() == {broken: "cut short"}
    kept = read_all(dataset.folder / "whole" / "0.h5")
    np.testing.assert_array_equal(kept.pop(broken), dataset.predictions[broken])
    for key, labels in kept.items():
        np.testing.assert_array_equal(labels, whole[key])
    expected = (dataset.folder / "whole" / "0.h5").read_bytes()
    assert stopped_and_run_again(job, dataset.folder / "stopped", monkeypatch, frames=2) == (expected,)


def test_a_refiner_begins_again_after_a_frame_that_it_failed_on():
    """It looks one frame ahead, which it is given a second time; a prediction that cannot be read is not kept."""

    def doubled(frames):
        window = deque()
        for frame, ahead in frames:
            window.append((frame, ahead))
            if len(window) == 2:
                yield answer(*window.popleft())
        yield from (answer(*each) for each in window)

    def answer(frame, ahead):
        if ahead == 3:
            raise UserError("three")
        return 2 * ahead

    refiner = Refiner(prepare=None, refine=doubled)
    frames = [("a", 1), ("b", UserError("early")), ("c", 3), ("d", UserError("late")), ("e", 3), ("f", 6)]
    found = [(frame, str(result)) for frame, result in _refined(frames, refiner)]
    assert found == [("a", "2"), ("b", "early"), ("c", "three"), ("d", "late"), ("e", "three"), ("f", "12")]

    def unreadable():
        yield "a", 1
        raise UnreadablePredictionError("gone")

    with pytest.raises(UnreadablePredictionError):
        list(_refined(unreadable(), refiner))


@pytest.mark.parametrize("stage", ["propose", "flow", "ssa", "temporal", "tubes"])
@pytest.mark.parametrize("frames", [1, 3])
def test_a_stopped_shard_goes_on_and_is_equal_to_the_bit(dataset, monkeypatch, stage, frames):
    """Of the temporal vote too, whose frames depend on their neighbours."""
    common = {"index": dataset.index, "card": dataset.card, "split": "val", "shard": 0, "shards": 1}
    proposals, flows = propose_val(dataset), dataset.folder / "flow.h5"
    flow(method="dis", out=flows, **common)

    def job(folder):
        if stage == "propose":
            propose(settings=SUPERPIXELS, weights=None, out=folder / "0.h5", **common)
        elif stage == "flow":
            flow(method="dis", out=folder / "0.h5", **common)
        else:
            made_of = {"proposals": proposals} if stage in ("ssa", "tubes") else {}
            made_of |= {"flow": flows} if stage in ("temporal", "tubes") else {}
            refine(settings={"method": stage}, labels=dataset.labels, out=folder / "0.h5", **made_of, **common)

    job(dataset.folder / "whole")
    expected = (dataset.folder / "whole" / "0.h5").read_bytes()
    frames = 1 if stage == "flow" else frames  # two pairs in all
    assert stopped_and_run_again(job, dataset.folder / "stopped", monkeypatch, frames=frames) == (expected,)


def test_proposals_are_taken_from_a_cache_while_nothing_they_are_made_of_differs(dataset, monkeypatch, capsys):
    cache, made = dataset.folder / "cache", []

    def build(*given, **options):
        made.append(given)
        return build_video_proposer(*given, **options)

    monkeypatch.setattr("vss.refine.propose.build_video_proposer", build)

    def proposed(name, **settings):
        common = {"index": dataset.index, "card": dataset.card, "split": "val", "shard": 0, "shards": 1}
        out = dataset.folder / name
        propose(settings={**SUPERPIXELS, **settings}, weights=None, out=out, cache=cache, **common)
        return out.read_bytes()

    first = proposed("here/0.h5")
    assert proposed("there/0.h5") == first and len(made) == 1
    assert proposed("there/1.h5", sigma=0.7) != first and len(made) == 2
    # A file that was damaged in the cache, and then an image that differs by one byte behind its pixels.
    (kept,) = (file for file in cache.iterdir() if file.read_bytes() == first)
    kept.write_bytes(first[:-9] + b"x" * 9)
    assert proposed("there/2.h5") == first and len(made) == 3 and kept.read_bytes() == first
    assert "it is made again" in capsys.readouterr().err
    image = dataset.folder / "raw" / "image" / "2.png"
    image.write_bytes(image.read_bytes() + b"x")
    proposed("there/3.h5")
    assert len(made) == 4


def test_proposals_are_deterministic(dataset):
    with (
        ProposalsReader(propose_val(dataset, name="a.h5")) as a,
        ProposalsReader(propose_val(dataset, name="b.h5")) as b,
    ):
        for key in list(a.keys()):
            np.testing.assert_array_equal(a.read(*key).maps, b.read(*key).maps)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "ssb"}, "ssb"),
        ({}, "'method' is missing"),
        ({"method": "ssa", "settings": {"purity": 1}}, "purity"),
        ({"method": "ssa", "min_purity": 1}, "min_purity"),
        ({"method": "ssa"}, "proposals"),
        ({"method": "temporal"}, "no flow file"),
        ({"method": "tubes"}, "no proposals file"),
        ({"method": "temporal", "settings": {"radius": 3}}, "radius"),
        ({"method": "cascadepsp", "settings": {"scale": 1}}, "scale"),
    ],
)
def test_mistakes_in_settings_are_named(dataset, settings, named):
    with pytest.raises(UserError, match=named):
        refine_val(dataset, settings)
    assert not (dataset.folder / "refined.labels.h5").exists()


def test_tubes_need_masks_that_can_be_linked(dataset):
    with pytest.raises(UserError, match="superpixels are linked along optical flow: no flow file"):
        refine_val(dataset, {"method": "tubes"}, proposals=propose_val(dataset))
    with ProposalsWriter(dataset.folder / "sam.h5", provenance={}) as writer:
        for key, labels in dataset.predictions.items():
            writer.write(*key, run_lengths(np.ones((1, *labels.shape), bool)))
    with pytest.raises(UserError, match=r"sam\.h5: refine tubes: SAM's masks cannot be linked"):
        refine_val(dataset, {"method": "tubes"}, proposals=dataset.folder / "sam.h5")


def test_a_frame_without_prediction_is_named(dataset):
    with LabelsWriter(dataset.folder / "less.h5", classes=["a"], provenance={}) as writer:
        writer.write(".3", "0 2", dataset.predictions[".3", "0 2"])
    with pytest.raises(UserError, match="00000001"):
        refine_val(dataset, {"method": "ssa"}, labels=dataset.folder / "less.h5", proposals=propose_val(dataset))
    assert not (dataset.folder / "refined.labels.h5").exists()


def test_a_prediction_of_another_size_is_named(dataset):
    with LabelsWriter(dataset.folder / "small.h5", classes=["a"], provenance={}) as writer:
        for (video, frame), labels in dataset.predictions.items():
            writer.write(video, frame, np.ascontiguousarray(labels[:-1]))
    with pytest.raises(UserError, match="index says"):
        refine_val(dataset, {"method": "ssa"}, labels=dataset.folder / "small.h5", proposals=propose_val(dataset))


def test_cascadepsp_leaves_alone_what_neighbouring_frames_agree_on(dataset, tmp_path):
    """Without class scores their agreement, along the flow, is what labels are certain by."""
    for first, second in ((2, 3), (4, 5)):  # the videos stand still, and their labels change
        images = dataset.folder / "raw" / "image"
        shutil.copy(images / f"{first}.png", images / f"{second}.png")
    network = build_network("cascadepsp-mini")
    torch.nn.init.constant_(network.final_21.bias, 50)  # every part would take its whole crop
    save_file(network.state_dict(), tmp_path / "mini.safetensors")
    common = {"index": dataset.index, "card": dataset.card, "split": "val", "shard": 0, "shards": 1}
    flow(method="dis", out=dataset.folder / "flow.h5", **common)
    made_of = {"weights": tmp_path / "mini.safetensors", "flow": dataset.folder / "flow.h5"}
    changed = {}
    for only_uncertain in (None, 0.9):
        options = {"only_uncertain": only_uncertain, "min_area": 50, "dilate": 0}
        refined = read_all(refine_val(dataset, {"method": "cascadepsp", "settings": options}, **made_of))
        changed[only_uncertain] = sum((refined[key] != dataset.predictions[key]).sum() for key in refined)
    assert 0 < changed[0.9] < 0.2 * changed[None]
    del made_of["flow"]
    with pytest.raises(UserError, match="no flow file"):
        refine_val(dataset, {"method": "cascadepsp", "settings": options}, **made_of)


def test_an_unknown_device_is_named(dataset, tmp_path):
    torch.manual_seed(0)
    save_file(build_network("cascadepsp-mini").state_dict(), tmp_path / "mini.safetensors")
    with pytest.raises(UserError, match="tpu"):
        refine_val(dataset, {"method": "cascadepsp"}, weights=tmp_path / "mini.safetensors", device="tpu")
    refine_val(
        dataset,
        {"method": "cascadepsp", "settings": {"min_area": 50, "dilate": 0}},
        weights=tmp_path / "mini.safetensors",
        device="auto",
    )
    with LabelsReader(dataset.folder / "refined.labels.h5") as reader:
        assert reader.provenance["weights_sha256"] == sha256_of_file(tmp_path / "mini.safetensors")
