"""The cache bounded by bytes."""

from __future__ import annotations

from vss.infer.byte_cache import cached_up_to


def test_the_latest_used_stay_within_the_bound():
    calls = []

    @cached_up_to(10, len)
    def spell(number, length):
        calls.append(number)
        return str(number) * length

    assert [spell(1, 4), spell(2, 4), spell(1, 4)] == ["1111", "2222", "1111"]
    assert calls == [1, 2]
    spell(3, 4)  # 12 bytes: 2 was used longest ago
    assert [spell(1, 4), spell(3, 4)] == ["1111", "3333"] and calls == [1, 2, 3]
    spell(2, 4)
    assert calls == [1, 2, 3, 2]
    assert spell(4, 11) == "4" * 11  # larger than all: given, not kept
    spell(4, 11)
    assert calls == [1, 2, 3, 2, 4, 4]
