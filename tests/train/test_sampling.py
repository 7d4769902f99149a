"""The order of samples is a function of seed and position."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vss.train import sampling
from vss.train.sampling import PositionSampler, SeededDataset


def take(sampler: PositionSampler, count: int) -> list[int]:
    return list(itertools.islice(iter(sampler), count))


@given(world=st.integers(1, 5), done=st.integers(0, 50), size=st.integers(1, 40))
def test_ranks_share_every_position_once_and_resume_where_they_stopped(world: int, done: int, size: int) -> None:
    seen = []
    for rank in range(world):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampling, "get_dist_info", lambda rank=rank: (rank, world))
            whole, resumed = PositionSampler(range(size)), PositionSampler(range(size))
        resumed.skip(done)
        assert take(whole, done + 7)[done:] == take(resumed, 7)
        seen += take(whole, 12)
    assert sorted(seen) == list(range(12 * world))


@given(size=st.integers(1, 30), seed=st.integers(0, 2**31), epochs=st.integers(1, 4))
def test_every_epoch_shows_every_item_once(size: int, seed: int, epochs: int) -> None:
    data = SeededDataset(datasets=[range(size)], seed=seed)
    for epoch in range(epochs):
        assert sorted(data.index_of(epoch * size + i) for i in range(size)) == list(range(size))


def test_epochs_and_seeds_differ_in_order() -> None:
    data, other = SeededDataset(datasets=[range(50)], seed=1), SeededDataset(datasets=[range(50)], seed=2)
    first = [data.index_of(i) for i in range(50)]
    assert first != [data.index_of(50 + i) for i in range(50)]
    assert first != [other.index_of(i) for i in range(50)]


class Drawing:
    """A dataset whose items are what its transforms would draw."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, float, float]:
        return index, np.random.rand(), random.random()


def test_augmentation_depends_on_the_position_only() -> None:
    forward, backward = SeededDataset(datasets=[Drawing()], seed=3), SeededDataset(datasets=[Drawing()], seed=3)
    there = [forward[i] for i in range(30)]
    np.random.seed(99)
    back = [backward[i] for i in reversed(range(30))]
    assert there == back[::-1]
    assert len({draw for _, draw, _ in there}) == 30


def test_weights_say_how_often_an_epoch_holds_an_image() -> None:
    data = SeededDataset(datasets=[range(10), range(100, 104)], weights=[0.3, 2.5], seed=1)
    assert len(data) == 3 + 10
    epochs = [Counter(data[13 * epoch + place] for place in range(13)) for epoch in range(40)]
    for epoch in epochs:
        first, second = ({k: n for k, n in epoch.items() if (k < 10) is low} for low in (True, False))
        assert len(first) == 3 and set(first.values()) == {1}
        assert sorted(second.values()) == [2, 2, 3, 3]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) > 20  # another choice each time
    assert set().union(*epochs) == {*range(10), *range(100, 104)}


def test_datasets_of_weight_one_are_one_dataset() -> None:
    whole, parts = SeededDataset(datasets=[range(10)], seed=4), SeededDataset(datasets=[range(6), range(6, 10)], seed=4)
    assert [whole[p] for p in range(35)] == [parts[p] for p in range(35)]
