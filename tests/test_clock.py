"""Time stamps of a file on one rising clock, whatever the file says."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from clipsheet.media import clock
from clipsheet.media.clock import NONE

TICK = Fraction(1, 1000)
EVEN = np.arange(40) * 40  # 25 a second


def stretched(stamps: np.ndarray, *, jumps: bool = True) -> tuple[list[tuple[int, int]], list[int]]:
    """Where stretches begin and by how much they are moved; and which stamps are ignored."""
    nothing = np.full(len(stamps), NONE)
    lengths = np.full(len(stamps), 40)
    found, wrong = clock.stretches(stamps, lengths, nothing, TICK, jumps=jumps, reorders=False)
    return [(stretch.first, stretch.offset) for stretch in found], np.flatnonzero(wrong).tolist()


def test_an_even_clock_is_one_stretch() -> None:
    assert stretched(EVEN) == ([(0, 0)], [])
    assert stretched(EVEN + 10**9) == ([(0, 0)], [])


@pytest.mark.parametrize("begins", [0, 10, 7_200_000, -5_000_000])
def test_a_clock_that_is_set_anew_goes_on_where_it_was(begins: int) -> None:
    stamps = np.concatenate([EVEN, EVEN + begins])
    assert stretched(stamps) == ([(0, 0), (40, 1600 - begins)], [])


def test_a_clock_may_be_set_anew_again_and_again() -> None:
    stretches, wrong = stretched(np.concatenate([EVEN, EVEN, EVEN + 10_000_000]))
    assert stretches == [(0, 0), (40, 1600), (80, 3200 - 10_000_000)]
    assert not wrong


def test_a_long_pause_is_a_jump_only_where_the_format_has_jumps() -> None:
    paused = np.concatenate([EVEN, EVEN + 60_000])
    assert stretched(paused) == ([(0, 0), (40, 1600 - 60_000)], [])
    assert stretched(paused, jumps=False) == ([(0, 0)], [])


@pytest.mark.parametrize("stray", [-3_000_000, 0, 10_000_000])
@pytest.mark.parametrize("at", [5, 20, 39])
def test_one_stray_stamp_is_no_new_clock(at: int, stray: int) -> None:
    stamps = EVEN.copy()
    stamps[at] = stray
    assert stretched(stamps) == ([(0, 0)], [at])


def test_jitter_is_left_alone() -> None:
    stamps = EVEN.copy()
    stamps[20] -= 60  # 60 ms back
    assert stretched(stamps) == ([(0, 0)], [])


def test_stamps_that_rise_are_kept_as_they_are() -> None:
    made, finer = clock.in_order(EVEN)
    assert finer == 1
    assert np.array_equal(made, EVEN)


@pytest.mark.parametrize("bad", [NONE, 800, 0, 10**9])
def test_a_wrong_stamp_costs_its_own_frame_only(bad: int) -> None:
    stamps = EVEN.copy()
    stamps[21] = bad  # 800 is that of frame 20
    made, finer = clock.in_order(stamps)
    assert finer == 1
    assert np.array_equal(made, EVEN)  # halfway between its neighbours, where it should be


def test_of_two_equal_stamps_the_first_is_kept() -> None:
    made, finer = clock.in_order(np.array([0, 40, 80, 80, 1000, 2000]))
    assert (made / finer).tolist() == [0, 40, 80, 540, 1000, 2000]


def test_where_there_is_no_room_the_unit_becomes_finer() -> None:
    made, finer = clock.in_order(np.array([0, 1, 1, 1, 2, 3]))
    assert finer == 3
    assert (np.diff(made) > 0).all()
    assert made[[0, 1, 4, 5]].tolist() == [0, 3, 6, 9]


def test_without_stamps_at_the_ends_the_usual_distance_goes_on() -> None:
    stamps = EVEN.copy()
    stamps[:2] = stamps[-3:] = NONE
    made, finer = clock.in_order(stamps)
    assert finer == 1
    assert np.array_equal(made, EVEN)


@pytest.mark.parametrize("bad", ["missing", "repeated"])
def test_of_reordered_frames_the_gap_is_found_by_the_time_of_decoding(bad: str) -> None:
    order = np.array([0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11])
    stamps, decoding = order * 40, np.arange(13) * 40 - 80
    stamps[5] = NONE if bad == "missing" else stamps[3]  # of frame 4
    made, finer = clock.filled(stamps, decoding)
    assert finer == 1
    assert made.tolist() == (np.arange(13) * 40).tolist()


def test_frames_are_shown_when_later_packets_are_decoded() -> None:
    decoding = np.array([0, 40, 80, 120, 2120, 2160])
    made, finer = clock.delayed(decoding, 2)
    assert finer == 1
    assert np.diff(made).tolist() == [40, 2000, 40, 40, 40]
