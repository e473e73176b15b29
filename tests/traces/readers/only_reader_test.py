import pytest

from diffmem import errors
from diffmem.traces import readers

TABLE = {
  'device': ['GPU A', 'GPU A', 'GPU B'],
  'mode': ['h2d_pinned', 'd2h_pinned', 'h2d_pageable'],
  'transfer_bytes': [1024, 4096, 4096],
  'GBps': [1.125, 2.25, 1.5],
}


@pytest.fixture
def path(write_parquet):
  return write_parquet('links.parquet', TABLE)


def read(path, *only, **options):
  options = readers.Options(only=only, **options)
  return readers.read(path, 'nvbandwidth', options)


@pytest.mark.parametrize(
  ('only', 'sizes'),
  [
    (('system=gpu a',), [1024, 4096]),
    (('variant=*_pinned', 'bytes_read>=1'), [1024]),
    (('granule_bytes<=1024',), [1024]),
    (('granule_bytes=4096',), [4096, 4096]),
    (('granule_bytes>=4096', 'system=*B'), [4096]),
  ],
)
def test_rows_that_match_stay(path, only, sizes):
  found = read(path, *only)
  assert list(found.traces['granule_bytes']) == sizes
  assert f'{3 - len(sizes)} rows left out' in found.summary()


def test_patterns_speak_of_the_names_in_the_file(path):
  found = read(path, 'system=*A', system='mine')
  assert list(found.traces['system']) == ['mine', 'mine']
  found = read(path, 'granule_bytes=4096', system='mine')
  assert list(found.traces['system']) == ['mine', 'mine']


@pytest.mark.parametrize(
  ('only', 'message'),
  [
    ('system', 'COLUMN=TEXT'),
    ('colour=red', 'colour=red'),
    ('system<=a', 'COLUMN=TEXT'),
    ('granule_bytes=small', 'COLUMN=NUMBER'),
    ('system=*C', "one of 'GPU A', 'GPU B'"),
    ('granule_bytes>=1e9', 'granule_bytes'),
  ],
)
def test_patterns_that_make_no_sense(path, only, message):
  with pytest.raises(errors.TraceError, match=message):
    read(path, only)
