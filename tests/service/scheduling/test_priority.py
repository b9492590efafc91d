"""Whose turn it is."""

from __future__ import annotations

import itertools

import pytest

from service.scheduling.priority import INTERACTIVE_TURNS, MOST_INTERACTIVE_TURNS, SHARES, Priority, Turns

BOTH = (Priority.INTERACTIVE, Priority.BULK)


def test_while_both_wait_bulk_gets_one_turn_after_every_few() -> None:
    turns = Turns()
    round_ = [Priority.INTERACTIVE] * INTERACTIVE_TURNS + [Priority.BULK]
    assert [turns.choose(BOTH) for _ in range(3 * len(round_))] == 3 * round_


@pytest.mark.parametrize("alone", BOTH)
def test_who_waits_alone_always_gets_the_turn(alone: Priority) -> None:
    turns = Turns()
    assert {turns.choose([alone]) for _ in range(10)} == {alone}


@pytest.mark.parametrize("alone", BOTH)
def test_turns_without_a_rival_are_not_held_against_anybody(alone: Priority) -> None:
    turns = Turns()
    for _ in range(INTERACTIVE_TURNS):
        turns.choose(BOTH)
    turns.choose([alone])
    assert [turns.choose(BOTH) for _ in range(INTERACTIVE_TURNS)] == [Priority.INTERACTIVE] * INTERACTIVE_TURNS
    assert turns.choose(BOTH) is Priority.BULK


def timed(turns: Turns, seconds: dict[Priority, float], rounds: int) -> list[Priority]:
    chosen = []
    for _ in range(rounds):
        chosen.append(turns.choose(BOTH))
        turns.took(chosen[-1], seconds[chosen[-1]])
    return chosen


@pytest.mark.parametrize("longer", [1, 2, 5])
def test_longer_turns_of_bulk_come_less_often(longer: int) -> None:
    """Such as a tile's, beside small pictures: by turns alone they would get most of the time."""
    turns, seconds = Turns(), {Priority.INTERACTIVE: 0.2, Priority.BULK: longer * 0.2}
    timed(turns, seconds, INTERACTIVE_TURNS + 1)  # how long its turns take is known from the first
    round_ = [Priority.INTERACTIVE] * (INTERACTIVE_TURNS * longer) + [Priority.BULK]
    assert timed(turns, seconds, 3 * len(round_)) == 3 * round_


def test_shorter_turns_of_bulk_come_no_more_often() -> None:
    turns, seconds = Turns(), {Priority.INTERACTIVE: 0.4, Priority.BULK: 0.1}
    round_ = [Priority.INTERACTIVE] * INTERACTIVE_TURNS + [Priority.BULK]
    assert timed(turns, seconds, 3 * len(round_)) == 3 * round_


def test_however_long_its_turns_are_bulk_gets_on() -> None:
    turns, seconds = Turns(), {Priority.INTERACTIVE: 0.001, Priority.BULK: 3.0}
    timed(turns, seconds, INTERACTIVE_TURNS + 1)
    assert timed(turns, seconds, MOST_INTERACTIVE_TURNS + 1)[-1] is Priority.BULK


def test_time_without_a_rival_is_not_held_against_anybody() -> None:
    turns = Turns()
    for alone in BOTH:
        turns.choose([alone])
        turns.took(alone, 5.0)
    turns.took(Priority.INTERACTIVE, 100.0)  # of a turn from before
    seconds = {Priority.INTERACTIVE: 1.0, Priority.BULK: 5.0}
    assert timed(turns, seconds, 5 * INTERACTIVE_TURNS + 1)[-1] is Priority.BULK


def test_the_shares_are_what_the_turns_give() -> None:
    turns = Turns()
    chosen = [turns.choose(set(BOTH)) for _ in range(100 * (INTERACTIVE_TURNS + 1))]
    for priority in Priority:
        assert chosen.count(priority) / len(chosen) == SHARES[priority]
    assert sum(SHARES.values()) == 1


def test_bulk_never_waits_for_more_turns_than_its_share_promises_however_the_others_come_and_go() -> None:
    # Each bit says whether interactive work waits at that turn; bulk work always does.
    for pattern in itertools.product((False, True), repeat=8):
        turns, waited = Turns(), 0
        for interactive in (*pattern, *pattern):
            chosen = turns.choose(BOTH if interactive else (Priority.BULK,))
            waited = 0 if chosen is Priority.BULK else waited + 1
            assert waited <= INTERACTIVE_TURNS
