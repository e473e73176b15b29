import pathlib

import pytest

from diffmem import errors
from diffmem.codesign.designs import parts as parts_lib

SHIPPED = pathlib.Path(parts_lib.__file__).with_name('parts.toml')


def figures(part):
  """Every figure below a part."""
  if isinstance(part, parts_lib.Figure):
    return [part]
  if isinstance(part, dict):
    return [f for p in part.values() for f in figures(p)]
  if hasattr(type(part), 'model_fields'):
    fields = [getattr(part, name) for name in type(part).model_fields]
    return [f for field in fields for f in figures(field)]
  return []


def test_every_figure_says_where_it_is_from():
  found = figures(parts_lib.load_parts())
  assert len(found) > 100
  for figure in found:
    assert len(figure.source.removeprefix('assumption:')) > 10, figure
    assert (figure.low or 0) <= figure.value <= (figure.high or 1e12)


def test_what_sources_disagree_on_spans_them():
  parts = parts_lib.load_parts()
  hbm3e = parts.of('stacks', 'HBM3E')
  assert hbm3e.usd_per_GB.low <= 370 / 36 <= hbm3e.usd_per_GB.high
  hbm4 = parts.of('stacks', 'HBM4')
  assert hbm4.usd_per_GB.low <= 560 / 36 <= hbm4.usd_per_GB.high
  dram = parts.of('channels', 'DDR5').usd_per_GB
  assert dram.low <= 2.4 and dram.high >= 36.7


@pytest.mark.parametrize(
  ('old', 'new', 'expected'),
  [
    ('usd_per_GB = { value = 23.5, low = 15.5',
     'usd_per_GB = { value = 3.5, low = 15.5',
     'stacks.HBM4.usd_per_GB: expected low <= value <= high'),
    ("pins = { value = 2048, source = 'JEDEC JESD270",
     "pins = { value = -1, source = 'JEDEC JESD270",
     'stacks.HBM4.pins.value: found -1; expected'),
    ('[stacks.HBM4]\n', '[stacks.HBM4]\ncolour = 3\n',
     'stacks.HBM4.colour: found 3; expected no such key'),
    ("stack = 'HBM3E'\nstacks = { value = 6",
     "stack = 'HBM9'\nstacks = { value = 6",
     "machines.h200-sxm: 'HBM9' is not in stacks (HBM2e"),
    ('[relations]', '[relations', 'not TOML'),
  ],
)  # fmt: skip
def test_a_fault_names_file_and_field(tmp_path, old, new, expected):
  path = tmp_path / 'mine.toml'
  text = SHIPPED.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  with pytest.raises(errors.SpecError) as fault:
    parts_lib.load_parts(path)
  assert str(path) in str(fault.value)
  assert expected in str(fault.value)


def test_no_file_and_no_part():
  with pytest.raises(errors.SpecError, match='no.toml: No such file'):
    parts_lib.load_parts('no.toml')
  with pytest.raises(errors.SpecError, match="did you mean 'HBM4'"):
    parts_lib.load_parts().of('stacks', 'HBM4F')
