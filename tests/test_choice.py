"""Which way a sweep goes: what `Choice` and `Comparison` make of the costs they are told. No clock is asked."""

from __future__ import annotations

import math
import random

import pytest

from fastopt.engine.sweep import Choice, Comparison

ALONE, TOGETHER = 0, 1
STALL = 400.0  # a step that waits for a worker whose processor was taken away


def use(choice, cost, times, first=ALONE):
    """Go on for some uses whose cost is ``cost(way, uses before this one)``: the ways taken, and the costs."""
    ways, costs = [], []
    for n in range(times):
        ways.append(choice.way(first))
        costs.append(cost(ways[-1], n))
        choice.learn(ways[-1], costs[-1], costs[-1] >= STALL)
    return ways, costs


@pytest.mark.parametrize("awake", [False, True])
@pytest.mark.parametrize("first", [ALONE, TOGETHER])
@pytest.mark.parametrize("better", [ALONE, TOGETHER])
def test_the_first_guess_is_taken_first_and_the_cheaper_way_after_a_try_of_each(awake, first, better):
    ways, _ = use(Choice(awake), lambda way, n: 1.0 if way == better else 1.5, 20, first)
    assert ways[0] == first
    assert set(ways) == {ALONE, TOGETHER}
    assert set(ways[10:18]) == {better}


@pytest.mark.parametrize("awake", [False, True])
@pytest.mark.parametrize("better", [ALONE, TOGETHER])
@pytest.mark.parametrize("dearer", [1.01, 1.5, 3.0, 100.0])
def test_tries_cost_no_more_than_their_share_of_the_time(awake, better, dearer):
    choice = Choice(awake)
    use(choice, lambda way, n: 1.0 if way == better else dearer, 100_000)
    ways, costs = use(choice, lambda way, n: 1.0 if way == better else dearer, 100_000)
    one_try = 4 * dearer  # by which those of 100,000 uses may be off, wherever one begins to count
    assert sum(costs) <= 1.01 * len(ways) + one_try
    assert len(set(ways)) == 2, "the dearer way is never tried again"


@pytest.mark.parametrize("awake", [False, True])
@pytest.mark.parametrize("better", [ALONE, TOGETHER])
def test_a_change_is_noticed(awake, better):
    choice = Choice(awake)
    use(choice, lambda way, n: 1.0 if way == better else 2.0, 2000)
    ways, _ = use(choice, lambda way, n: 2.0 if way == better else 1.0, 1000)
    assert ways[-500:].count(1 - better) >= 450


def test_workers_that_must_first_wake_up_are_given_the_time():
    slept = 100

    def cost(way, n):
        nonlocal slept
        slept = slept + 1 if way == ALONE else min(slept, 4) - 1  # steps until they are all there
        return 1.0 if way == ALONE else 50.0 if slept > 1 else 0.5

    ways, _ = use(Choice(True), cost, 3000)
    assert ways[-200:].count(TOGETHER) >= 190


@pytest.mark.parametrize("awake", [False, True])
@pytest.mark.parametrize("better", [ALONE, TOGETHER])
def test_a_disturbance_now_and_then_changes_little(awake, better):
    noise = random.Random(0)

    def cost(way, n):
        usual = 1.0 if way == better else 1.6
        return usual * noise.uniform(0.95, 1.05) * (50 if noise.random() < 0.01 else 1)

    ways, _ = use(Choice(awake), cost, 20_000)
    assert ways[1000:].count(better) >= 0.9 * len(ways[1000:])


def compare(cost, times):
    """Go on for some uses of a `Comparison` whose trials cost ``cost(way, uses before this one)``.

    The ways taken, and None for a trial.
    """
    comparison, ways = Comparison(), []
    for n in range(times):
        if comparison.due():
            ways.append(None)
            comparison.learn(cost(0, n), cost(1, n))
        else:
            ways.append(comparison.way(False))
    return ways


@pytest.mark.parametrize("better", [0, 1])
@pytest.mark.parametrize("difference", [0.05, 0.1, 1.0])
def test_of_two_ways_that_differ_by_no_more_than_the_noise_the_cheaper_one_is_taken(better, difference):
    noise = random.Random(0)
    ways = compare(lambda way, n: (1.0 if way == better else 1 + difference) * noise.gauss(1, 0.05), 20_000)
    assert ways.count(better) >= 0.95 * len(ways)
    assert None in ways[-100:], "they are never compared again"


@pytest.mark.parametrize("better", [0, 1])
def test_disturbances_do_not_make_a_way_that_is_little_cheaper_look_dear(better):
    noise = random.Random(0)
    ways = compare(lambda way, n: (1.0 if way == better else 1.1) * (20 if noise.random() < 0.2 else 1), 20_000)
    assert ways.count(better) >= 0.9 * len(ways)


def test_neither_way_always_begins_a_trial():
    comparison, first = Comparison(), []
    for _ in range(100):
        first.append(comparison.way(True))
        comparison.learn(1.0, 1.1)
    assert first == 50 * [0, 1]


@pytest.mark.parametrize("better", [0, 1])
def test_the_cheaper_way_is_taken_after_one_trial_and_a_change_noticed(better):
    ways = compare(lambda way, n: 1.1 if (way == better) == (n >= 2000) else 1.0, 4000)
    assert ways[:4] == [None, better, better, None]
    assert ways[3500:].count(1 - better) >= 450


def test_a_trial_that_went_one_way_only_tells_nothing():
    comparison = Comparison()
    assert comparison.way(False) == 1
    comparison.learn(1.0, 1.2)
    comparison.learn(math.nan, 1.0)
    comparison.learn(1.0, math.nan)
    assert comparison.way(False) == 0


def stalling(every):
    """Together is twice as fast, but for a stall now and then."""
    together = 0

    def cost(way, n):
        nonlocal together
        together += way == TOGETHER
        return 1.0 if way == ALONE else STALL if together % every == 0 else 0.5

    return cost


@pytest.mark.parametrize("awake", [False, True])
@pytest.mark.parametrize("every", [5, 50, 300])
def test_where_workers_stall_often_they_are_left_alone(awake, every):
    """Together costs more at the mean, though less at the median."""
    choice, cost = Choice(awake), stalling(every)
    use(choice, cost, 100_000)
    ways, costs = use(choice, cost, 500_000)
    assert sum(costs) <= 1.02 * len(costs)
    assert TOGETHER in ways, "it is never tried again"


@pytest.mark.parametrize("awake", [False, True])
def test_a_stall_that_is_earned_back_changes_little(awake):
    choice, cost = Choice(awake), stalling(20_000)
    use(choice, cost, 100_000)
    _, costs = use(choice, cost, 500_000)
    assert sum(costs) <= 1.1 * len(costs) * (0.5 + STALL / 20_000)


def test_after_stalls_that_are_over_all_are_called_again():
    choice = Choice(True)
    use(choice, stalling(5), 100_000)
    use(choice, lambda way, n: (1.0, 0.5)[way], 100_000)
    _, costs = use(choice, lambda way, n: (1.0, 0.5)[way], 100_000)
    assert sum(costs) <= 1.03 * 0.5 * len(costs)
