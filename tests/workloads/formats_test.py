"""Bytes of stored values, and formats of parts."""

import pydantic
import pytest

from diffmem import errors
from diffmem.workloads import Formats, value_B
from diffmem.workloads.formats import format_names


@pytest.mark.parametrize(
  ('name', 'bits', 'scale_bits', 'values'),
  [
    ('float32', 32, 0, 1),
    ('bfloat16', 16, 0, 1),
    ('float16', 16, 0, 1),
    ('float8', 8, 0, 1),
    ('int8', 8, 0, 1),
    ('fp8_block', 8, 32, 128 * 128),
    ('nvfp4', 4, 8, 16),
    ('mxfp4', 4, 8, 32),
    ('mxfp8', 8, 8, 32),
    ('int4_wo', 4, 16, 128),
  ],
)
def test_bytes_are_bits_and_a_share_of_the_scale(
  name, bits, scale_bits, values
):
  assert value_B(name) == pytest.approx((bits + scale_bits / values) / 8)


def test_every_format_is_checked_above():
  assert len(format_names()) == 10


def test_unknown_format_gets_the_nearest():
  with pytest.raises(errors.SpecError, match="'fp8'; did you mean"):
    value_B('fp8')
  with pytest.raises(pydantic.ValidationError, match="mean 'nvfp4'"):
    Formats(experts='nvfp')


def test_parts_without_a_format_have_that_of_the_weights():
  formats = Formats(weights='float8', experts='nvfp4')
  assert formats.of('attention') == 'float8'
  assert formats.of('experts') == 'nvfp4'
  assert formats.of('embeddings') == formats.of('kv_cache') == 'bfloat16'
  assert formats.part_B('experts') == 0.5625
  assert formats.part_B('attention') == 1.0


def test_formats_are_hashable_and_comparable():
  one, other = Formats(weights='int8'), Formats(weights='int8')
  assert one == other and hash(one) == hash(other)
  assert one != Formats()
