import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from diffmem import errors, units


@pytest.mark.parametrize(
  ('text', 'unit', 'value'),
  [
    ('3.35 TB/s', 'B/s', 3.35e12),
    ('400 Gb/s', 'B/s', 50e9),
    ('89 ns', 's', 89e-9),
    ('80 GB', 'B', 80e9),
    ('80 GiB', 'B', 80 * 2**30),
    ('5.5 pJ/bit', 'J/B', 44e-12),
    ('989 TFLOP/s', 'FLOP/s', 989e12),
    ('700 W', 'W', 700.0),
    ('1.5e3 us', 's', 1.5e-3),
    (42, 'B', 42.0),
    ('7', 's', 7.0),
  ],
)
def test_parse(text, unit, value):
  assert units.parse(text, unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
  ('text', 'unit', 'said'),
  [
    ('3 furlongs', 's', 'unknown unit'),
    ('3 GB', 'B/s', 'is in B'),
    ('fast', 'B/s', 'not a quantity'),
    ('', 'B', 'not a quantity'),
    ('1 Kis', 's', 'unknown unit'),
    (float('nan'), 's', 'not finite'),
    (True, 's', 'not a quantity'),
  ],
)
def test_parse_refuses(text, unit, said):
  with pytest.raises(errors.UnitError, match=said):
    units.parse(text, unit)


@given(
  st.floats(min_value=1e-15, max_value=1e20),
  st.sampled_from(['s', 'B', 'B/s', 'J/B', 'FLOP/s', 'W', 'J/FLOP']),
)
def test_format_reads_back(value, unit):
  text = units.format_si(value, unit, digits=6)
  assert units.parse(text, unit) == pytest.approx(value, rel=2e-5)


def test_format_rounds_to_the_next_prefix():
  assert units.format_si(999.99e9, 'B/s', 3) == '1 TB/s'
  assert units.format_si(0.0, 's') == '0 s'
  assert units.format_si(math.inf, 's') == 'inf s'
