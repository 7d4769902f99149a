"""Background loading and writing: order, bounds, exceptions."""

from __future__ import annotations

import threading

import pytest

from vss.infer.stream import WriteBehind, batches, load_ahead


def test_loads_come_in_order_and_no_further_ahead_than_asked():
    started = []

    def load(item):
        started.append(item)
        return item * item

    taken = []
    for item, loaded in load_ahead(range(20), load, workers=4, ahead=3):
        assert loaded == item * item
        taken.append(item)
        assert len(started) <= len(taken) + 3
    assert taken == list(range(20))


def test_an_exception_is_raised_at_its_item():
    def load(item):
        if item == 2:
            raise ValueError("two")
        return item

    stream = load_ahead(range(9), load, workers=2, ahead=4)
    assert [next(stream), next(stream)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="two"):
        next(stream)


def test_leaving_early_ends_the_threads():
    before = threading.active_count()
    stream = load_ahead(range(1000), lambda item: item, workers=2, ahead=4)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_writes_run_in_order():
    written = []
    with WriteBehind(waiting=2) as writing:
        for number in range(50):
            writing.put(written.append, number)
    assert written == list(range(50))


def test_a_failed_write_is_raised_and_stops_the_rest():
    written = []

    def write(number):
        if number == 3:
            raise OSError("disk full")
        written.append(number)

    def write_all():
        with WriteBehind(waiting=2) as writing:
            for number in range(50):
                writing.put(write, number)

    with pytest.raises(OSError, match="disk full"):
        write_all()
    assert written == [0, 1, 2]


def test_an_exception_in_the_block_is_not_hidden():
    def fail():
        with WriteBehind(waiting=2) as writing:
            writing.put(lambda: None)
            raise KeyError("block")

    with pytest.raises(KeyError):
        fail()


def test_batches_hold_neighbours_of_one_key():
    items = ["a1", "a2", "a3", "b1", "a4", "a5"]
    assert list(batches(items, size=2, key=lambda item: item[0])) == [["a1", "a2"], ["a3"], ["b1"], ["a4", "a5"]]
    assert list(batches([], size=2, key=id)) == []
