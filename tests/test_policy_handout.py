"""Units and workers: every unit is done once, whoever is lost."""

import random

from align.policy.handout import HandOut


def test_units_go_in_order_to_whoever_is_free() -> None:
    hand_out = HandOut([0, 1], 3)
    assert [*hand_out.assignments()] == [(0, 0), (1, 1)]
    assert [*hand_out.assignments()] == []
    hand_out.free(1)
    assert [*hand_out.assignments()] == [(1, 2)]
    hand_out.free(1)
    hand_out.free(0)
    assert [*hand_out.assignments()] == []


def test_a_unit_that_comes_back_goes_first() -> None:
    hand_out = HandOut([0, 1], 4)
    assert [*hand_out.assignments()] == [(0, 0), (1, 1)]
    hand_out.undone(0)
    hand_out.free(1)
    assert [*hand_out.assignments()] == [(1, 0)]


def test_no_unit_is_done_twice_or_never_whatever_happens() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        hand_out = HandOut(range(5), 40)
        busy: dict[int, int] = {}
        done: list[int] = []
        while len(done) < 40:
            busy |= dict(hand_out.assignments())
            worker = chance.choice([*busy])
            unit = busy.pop(worker)
            if chance.random() < 0.3:
                hand_out.undone(unit)
            else:
                done.append(unit)
            hand_out.free(worker)  # it starts again at once
        assert sorted(done) == list(range(40))
