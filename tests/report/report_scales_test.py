"""Axes: ticks are round, ascending, within range and say what they are."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffmem import units
from diffmem.report import scales
from diffmem.report.scales import Kind

_LOGS = st.floats(-12, 14)


@st.composite
def ranges(draw):
  kind = draw(st.sampled_from(list(Kind)))
  if kind is Kind.LINEAR:
    low = draw(st.floats(-1e12, 1e12))
    width = draw(st.floats(1e-3, 1e3)) * max(1.0, abs(low))
    return kind, low, low + width
  low = 10 ** draw(_LOGS)
  return kind, low, low * 10 ** draw(st.floats(0.02, 12))


@hypothesis.given(ranges(), st.integers(3, 14))
def test_ticks_ascend_within_the_range(drawn, most):
  kind, low, high = drawn
  found = scales.ticks(kind, low, high, most)
  assert 1 <= len(found) <= most
  assert all(low <= v <= high for v in found)
  assert all(a < b for a, b in itertools.pairwise(found))


@hypothesis.given(ranges(), st.integers(3, 12))
def test_labels_are_distinct_on_log_axes(drawn, most):
  kind, low, high = drawn
  hypothesis.assume(kind is not Kind.LINEAR and high / low > 4)
  found = scales.ticks(kind, low, high, most)
  hypothesis.assume(all(1e-12 <= v <= 1e18 for v in found))
  shown, unit = scales.labels(found, 's', kind)
  assert unit == ''
  assert len(set(shown)) == len(found)


@hypothesis.given(st.floats(-9, 14), st.floats(0.5, 6), st.integers(3, 10))
def test_log_labels_say_their_value(power, decades, most):
  low, high = 10.0**power, 10.0 ** (power + decades)
  for value in scales.ticks(Kind.LOG10, low, high, most):
    shown = scales.label(value, 'B/s', Kind.LOG10)
    assert units.parse(shown, 'B/s') == pytest.approx(value, rel=1e-3)


@hypothesis.given(st.integers(0, 50))
def test_binary_labels_say_their_value(power):
  shown = scales.label(2.0**power, 'B', Kind.LOG2)
  assert units.parse(shown, 'B') == 2.0**power


@hypothesis.given(st.floats(1e-10, 1e13), st.integers(3, 10))
def test_linear_labels_times_their_unit_are_the_ticks(high, most):
  found = scales.ticks(Kind.LINEAR, 0.0, high, most)
  shown, unit = scales.labels(found, 'B/s', Kind.LINEAR)
  for value, text in zip(found, shown, strict=True):
    parsed = units.parse(f'{text} {unit}', 'B/s')
    assert parsed == pytest.approx(value, rel=1e-5)


@hypothesis.given(ranges())
def test_scale_keeps_order_and_ends(drawn):
  kind, low, high = drawn
  scale = scales.Scale(kind, low, high, 10.0, 300.0)
  assert scale(low) == pytest.approx(10, abs=1e-6)
  assert scale(high) == pytest.approx(300, abs=1e-6)
  assert 10 < scale(low + 0.5 * (high - low)) < 300


@hypothesis.given(st.lists(st.floats(1e-9, 1e12), min_size=1, max_size=8))
def test_a_fitted_scale_holds_every_value(values):
  for kind in Kind:
    at = scales.scale(kind, values, 0.0, 100.0)(values)
    assert np.all((at >= 0) & (at <= 100))


@pytest.mark.parametrize('kind', list(Kind))
@pytest.mark.parametrize('values', [[], [math.nan], [7.0], [7.0, 7.0]])
def test_degenerate_data_still_has_an_axis(kind, values):
  scale = scales.scale(kind, values, 0.0, 100.0)
  assert scale.low < scale.high
  assert len(scale.ticks(30)) >= 1


def test_values_without_place_on_a_log_axis_are_nan():
  scale = scales.Scale(Kind.LOG10, 1.0, 10.0, 0.0, 1.0)
  assert np.isnan(scale([0.0, -3.0, math.nan])).all()


def test_labels_for_people():
  assert scales.label(2e-6, 's', Kind.LOG10) == '2 µs'
  assert scales.label(0.25, '1', Kind.LOG2) == '1/4'
  assert scales.label(-5.0, '%', Kind.LINEAR) == '\N{MINUS SIGN}5 %'
  assert scales.labels([0, 2e-8], 's', Kind.LINEAR) == (['0', '20'], 'ns')
