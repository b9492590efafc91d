"""Whose turn it is."""

from __future__ import annotations

import itertools

import pytest

from service.scheduling.priority import INTERACTIVE_TURNS, SHARES, Priority, Turns

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
