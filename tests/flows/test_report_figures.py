"""The drawings of the report: the learning curve's axes, and the places of the map."""

import re
from itertools import pairwise

import numpy as np
import pytest

from flows.report.embedding_map import lay_out
from flows.report.facts import Point
from flows.report.narrative import axis_note
from flows.report.plots import WIDE, Curve, MapPoints, item_map, learning_curve


def test_curves_that_are_all_right_have_no_score_above_one_on_their_axis() -> None:
    point = Point(labels=1, mean=1.0, low=1.0, high=1.0, spread=None, seeds=1)
    drawn = learning_curve([Curve(key="siftline", label="Siftline", points=[point])], "Accuracy", WIDE)
    shown = [float(value) for value in re.findall(r'class="tick" text-anchor="end">([^<]+)<', drawn)]
    assert (min(shown), max(shown)) == (0.96, 1.0)


@pytest.mark.parametrize(("least", "start"), [(0.05, 0.0), (0.65, 0.65)])
def test_where_the_axis_starts_is_said_as_it_is_drawn(least: float, start: float) -> None:
    points = [
        Point(labels=n, mean=mean, low=mean, high=mean, spread=None, seeds=1) for n, mean in ((0, least), (9, 0.8))
    ]
    curves = [Curve(key="siftline", label="Siftline", points=points)]
    drawn = learning_curve(curves, "Accuracy", WIDE)
    assert min(float(value) for value in re.findall(r'class="tick" text-anchor="end">([^<]+)<', drawn)) == start
    assert ("does not start at 0" in axis_note(curves)) == (start > 0)
    low = [Point(labels=9, mean=0.1, low=0.1, high=0.1, spread=None, seeds=1)]
    curves += [Curve(key=key, label=f"{key}, alone", points=low) for key in ("gold_only", "random_gold_only")]
    below = " Ending below it: gold_only, alone; random_gold_only, alone."
    assert axis_note(curves).endswith(below) == (start > 0), "the names have commas of their own"


@pytest.mark.parametrize("last", [0, 1, 2, 3, 7, 12, 30])
def test_each_count_of_labels_stands_once_on_the_axis_and_in_its_place(last: int) -> None:
    scored = Point(labels=last, mean=0.9, low=0.9, high=0.9, spread=None, seeds=1)
    picture = learning_curve([Curve(key="siftline", label="Siftline", points=[scored])], "F1", 900)
    shown = re.findall(r'<text x="([\d.]+)"[^>]*>(\d+)</text>', picture)
    assert shown[0][1] == "0"
    assert len({count for _, count in shown}) == len(shown) >= 2
    steps = [(float(b) - float(a)) / (int(n) - int(m)) for (a, m), (b, n) in pairwise(shown)]
    np.testing.assert_allclose(steps, steps[0], rtol=0.01)


def test_the_map_is_the_same_every_time() -> None:
    vectors = np.random.default_rng(1).normal(size=(90, 12)).astype(np.float32)
    first, method = lay_out(vectors)
    assert method.startswith("t-SNE (perplexity 22, ")
    assert first.min() == 0
    assert first.max() == 1
    np.testing.assert_array_equal(first, lay_out(vectors)[0])


@pytest.mark.parametrize("n", [0, 1, 2, 80])
def test_equal_vectors_have_places_too(n: int) -> None:
    places, method = lay_out(np.ones((n, 4), np.float32))
    assert method == "PCA"
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()


NAME_ON_MAP = r'<text x="([\d.]+)" y="([\d.]+)" class="class-name" text-anchor="middle">([^<]+)<'


def test_names_on_the_map_leave_rings_in_sight_and_a_small_class_takes_no_place_of_a_large_one() -> None:
    row = [(0.05 * n, 0.5) for n in range(21)]  # of the largest class, whose middle is ringed
    column = [(0.5, 0.05 * n) for n in range(21)]  # of the second, with the same middle
    places = np.asarray([*row, *column, (0.1, 0.9), (0.1, 0.92), (0.1, 0.94)])
    classes = [0] * 21 + [1] * 21 + [2] * 3
    cycles = [int(n in (10, 43)) for n in range(45)]
    points = MapPoints(places=places, classes=classes, cycles=cycles, names={0: "largest", 1: "second", 2: "small"})
    drawn = item_map(points, {0: 0, 1: 1, 2: 2}, WIDE)
    names = {name: (float(x), float(y) - 4) for x, y, name in re.findall(NAME_ON_MAP, drawn)}
    middle, tight = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="7.5"', drawn)]
    assert names.keys() == {"largest", "second", "small"}
    for name in ("largest", "second"):
        assert max(abs(names[name][0] - middle[0]) / 35, abs(names[name][1] - middle[1]) / 15) > 1, name
    assert abs(names["small"][1] - tight[1]) < 15, "there is no free place"
    assert drawn.rindex("class-name") < drawn.index('class="ring'), "so the ring is drawn above the name"
