"""What holds for every reader, and the program."""

import copy
import json
import pathlib
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffmem import errors, traces
from diffmem.traces import readers

OPTIONS = readers.Options(system='box', clock_Hz=1e9)
ROOT = pathlib.Path(__file__).parents[3]
TEXT_FORMATS = {
  'mlc': ('mlc', 'a.txt'),
  'nvbandwidth': ('nvbandwidth', 'a.txt'),
  'stream': ('stream', 'a.txt'),
  'babelstream': ('stream', 'a.txt'),
  'roofline_power': ('roofline_power', 'a.txt'),
}
FUZZ = settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_or_refuse(path, format):
  """Any file gives traces or a `TraceError` of that file."""
  try:
    found = readers.read(path, format, OPTIONS)
  except errors.TraceError as error:
    assert str(path.parent) in error.file
    assert error.expected
  else:
    assert len(found.traces) > 0


def test_names():
  assert set(readers.FORMATS) == {
    'mess', 'gpu_kernels', 'collectives', 'fio', 'mlc', 'nvbandwidth',
    'stream', 'roofline_power', 'ml_energy', 'xplane',
  }  # fmt: skip


@pytest.mark.parametrize('format', readers.FORMATS)
def test_absent_empty_and_wrong_files(tmp_path, format):
  with pytest.raises(errors.TraceError, match='there is none'):
    readers.read(tmp_path / 'none', format)
  empty = tmp_path / 'empty.csv'
  empty.touch()
  with pytest.raises(errors.TraceError, match='it is empty'):
    readers.read(empty, format)
  for name in ('a.parquet', 'a.csv', 'a.txt', 'a.json', 'bwlat_50.txt'):
    path = tmp_path / name
    path.write_bytes(b'\xff\xfe\x00PAR1 nothing\n{}')
    with pytest.raises(errors.TraceError):
      readers.read(path, format, OPTIONS)


def test_unknown_format_and_idle_option(write):
  path = write('a.csv', 'a,b\n1,2\n')
  with pytest.raises(errors.TraceError, match='gpu_kernels'):
    readers.read(path, 'vtune')
  with pytest.raises(errors.TraceError, match='no op'):
    readers.read(path, 'fio', readers.Options(op='gemm'))


@FUZZ
@given(content=st.text(max_size=300), data=st.data())
def test_any_text(tmp_path, content, data):
  format = data.draw(st.sampled_from(sorted(readers.FORMATS)))
  name = data.draw(st.sampled_from(['a.csv', 'a.json', 'bwlat_50.txt']))
  path = tmp_path / name
  path.write_text(content, encoding='utf-8', errors='replace')
  read_or_refuse(path, format)


@FUZZ
@given(data=st.data())
def test_damaged_output(tmp_path, samples, data):
  """One word of a real output replaced by another."""
  sample = data.draw(st.sampled_from(sorted(TEXT_FORMATS)))
  format, name = TEXT_FORMATS[sample]
  lines = samples[sample].splitlines()
  i = data.draw(st.integers(0, len(lines) - 1))
  words = lines[i].split(' ')
  j = data.draw(st.integers(0, len(words) - 1))
  junk = ['', '-1', 'nan', 'inf', '1e400', '0', '1e300', 'x', '9' * 30, '٣']
  words[j] = data.draw(st.sampled_from(junk))
  lines[i] = ' '.join(words)
  path = tmp_path / name
  path.write_text('\n'.join(lines), encoding='utf-8')
  read_or_refuse(path, format)


FIO = {
  'fio version': 'fio-3.35',
  'global options': {'ioengine': 'libaio', 'rw': 'randread', 'bs': '4k'},
  'jobs': [
    {
      'jobname': 'j',
      'groupid': 0,
      'error': 0,
      'job options': {'iodepth': '8', 'numjobs': '1'},
      'read': {
        'io_bytes': 4096, 'bw_bytes': 409600000, 'total_ios': 1,
        'lat_ns': {'mean': 80000.0},
      },
    }
  ],
}  # fmt: skip
NVBANDWIDTH = {
  'nvbandwidth': {
    'GPU Device list': ['0: GPU (00:17:00)'],
    'testcases': [
      {
        'name': 'host_to_device_memcpy_ce',
        'status': 'Passed',
        'bandwidth_description': 'memcpy',
        'bandwidth_matrix': [['50.0']],
        'bufferSize': 4096,
      }
    ],
  }
}
JUNK = st.sampled_from(
  [None, True, -1, 0, 10**400, 1e300, float('nan'), 'x', '', [], {}, [[]]]
)


@FUZZ
@given(data=st.data())
def test_damaged_json(tmp_path, data):
  """One value of a real output replaced by another."""
  format, value = data.draw(
    st.sampled_from([('fio', FIO), ('nvbandwidth', NVBANDWIDTH)])
  )
  root = value = copy.deepcopy(value)
  while True:
    keys = range(len(value)) if isinstance(value, list) else sorted(value)
    key = data.draw(st.sampled_from(keys))
    is_leaf = not isinstance(value[key], (dict, list)) or not value[key]
    if is_leaf or data.draw(st.integers(0, 4)) == 0:
      value[key] = data.draw(JUNK)
      break
    value = value[key]
  path = tmp_path / 'a.json'
  path.write_text(json.dumps(root))
  read_or_refuse(path, format)


@FUZZ
@given(data=st.data())
def test_damaged_counters(tmp_path, samples, data):
  for kind in ('bw', 'lat'):
    lines = samples[f'perf_{kind}'].splitlines()
    i = data.draw(st.integers(0, len(lines) - 1))
    lines[i] = data.draw(st.sampled_from(['', 'x', '0 accesses', '1e400 cycles',
      '-1 seconds time elapsed', 'seconds time elapsed']))  # fmt: skip
    folder = tmp_path / kind
    folder.mkdir(exist_ok=True)
    (folder / f'{kind}_50_0.txt').write_text('\n'.join(lines))
  read_or_refuse(tmp_path, 'mess')


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.import_traces', *arguments],
    cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
  )  # fmt: skip


def test_program(tmp_path, write, samples):
  source = write('mlc.txt', samples['mlc'])
  out = tmp_path / 'out.csv'
  done = run(
    '--format=mlc', f'--input={source}', f'--out={out}', '--system=box'
  )
  assert done.returncode == 0, done.stderr
  assert 'cache-to-cache' in done.stdout and 'wrote 20 rows' in done.stdout
  assert len(traces.read_traces(out)) == 20


def test_program_refuses(tmp_path, write):
  source = write('a.csv', 'a,b\n1,2\n')
  done = run('--format=fio', f'--input={source}', f'--out={tmp_path}/o.csv')
  assert done.returncode == 2 and done.stderr.startswith('error: ')
  assert 'Traceback' not in done.stderr
  assert not (tmp_path / 'o.csv').exists()
