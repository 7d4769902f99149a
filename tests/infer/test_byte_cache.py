"""The cache bounded by bytes."""

from __future__ import annotations

from vss.infer.byte_cache import _ENTRY, cached_up_to


def test_the_latest_used_stay_within_the_bound():
    calls = []

    @cached_up_to(10 + 3 * _ENTRY, len)
    def spell(number, length):
        calls.append(number)
        return str(number) * length

    assert [spell(1, 4), spell(2, 4), spell(1, 4)] == ["1111", "2222", "1111"]
    assert calls == [1, 2]
    spell(3, 4)  # 12 bytes: 2 was used longest ago
    assert [spell(1, 4), spell(3, 4)] == ["1111", "3333"] and calls == [1, 2, 3]
    spell(2, 4)
    assert calls == [1, 2, 3, 2]
    large = 11 + 3 * _ENTRY
    assert spell(4, large) == spell(4, large) == "4" * large  # given, not kept
    assert calls == [1, 2, 3, 2, 4, 4]
    assert [spell(3, 4), spell(2, 4)] == ["3333", "2222"] and len(calls) == 6  # and the others stay
    for number in range(5, 10):
        spell(number, 0)
    spell(5, 0)
    assert calls[6:] == [5, 6, 7, 8, 9, 5]  # nothing takes something, too
