"""Lists of probes: what a file says is what runs, and what rows say of it."""

import dataclasses
import subprocess
import sys

import pytest

from diffmem import errors
from diffmem.system import cpu_system
from diffmem.traces import collect, files, table
from diffmem.traces.collect import (
  chosen,
  disk,
  gpu,
  gpu_attention,
  gpu_host,
  gpu_kernels,
  gpu_memory,
  gpu_power,
  memory,
  native,
  planned,
  programs,
)

MIB = 1024**2
CPU = (
  memory.Chase(64 * 1024),
  memory.Chase(32 * 1024, threads=2),
  memory.Sweep('triad', 32 * 1024),
  memory.Sweep('copy', 16 * 1024, 2),
  memory.Loaded('stream', 300, 2),
  disk.FileRead('random_read', 4096, 2),
  disk.FileRead('sequential_read', 65536),
  programs.Program('gemm', (16, 32, 64)),
  programs.Program('reduce', (4096,)),
)
GPU = (
  gpu_memory.Sweep('read 3:1', MIB),
  gpu_memory.Chase(MIB, 16, 128, True),
  gpu_kernels.Gemm(8, 64, 128, 'float32'),
  gpu_attention.Attention('decode_attention', 2, 64, 4, 2, 16),
  gpu_kernels.Cast(8, 64),
  gpu_kernels.MultiplyAdd(MIB, 4),
  gpu_host.HostCopy(4096, True, False),
  gpu_power.Window(None),
  gpu_power.Window(gpu_kernels.Gemm(8, 64, 128, 'float8')),
)


@pytest.mark.parametrize(
  ('platform', 'probes'), [('cpu', CPU), ('gpu', GPU)], ids=['cpu', 'gpu']
)
def test_a_list_comes_back_as_it_was_written(
  platform, probes, tmp_path, machine
):
  machine = dataclasses.replace(machine, cpus=(0, 1))
  path = tmp_path / 'list.toml'
  text = chosen.list_text(
    chosen.ProbeList(platform, probes), [p.name for p in probes]
  )
  path.write_text(text + text[text.index('#') :])  # each probe twice
  read = chosen.load_list(path, machine)
  assert read.platform == platform
  assert [p.name for p in read.probes] == [p.name for p in probes]
  assert [_shown(p) for p in read.probes] == [_shown(p) for p in probes]


def _shown(probe):
  """Fields of a probe, without where it stands in a run."""
  fields = dataclasses.asdict(probe)
  return {n: v for n, v in fields.items() if n not in ('group', 'stride')}


def test_probes_that_no_list_can_hold_are_refused():
  with pytest.raises(errors.SpecError, match='object is no probe'):
    chosen.list_text(chosen.ProbeList('cpu', (object(),)))


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ("platform = 'tpu'", ("'tpu'", 'cpu', 'gpu')),
    ("platform = 'cpu'\nprobe = []", ('probe', 'at least 1')),
    ("[[probe]]\nkind = 'chase'\nbytes = 64", ('probe.0', 'bytes')),
    ("[[probe]]\nkind = 'sweep'\nop = 'read'\narray_bytes = 512",
     ('probe.0', "'read'", 'triad')),
    ("[[probe]]\nkind = 'program'\nop = 'gemm'\nshape = [4, 4]",
     ('probe.0', '3 numbers')),
    ("[[probe]]\nkind = 'chase'\nbytes_per_thread = 64\nthreads = 9",
     ('probe.0.threads', 'found 9', 'at most 2')),
    ("[[probe]]\nkind = 'chase'\nbytes_per_thread = 640000000000",
     ('probe.0', 'memory that is free')),
    ('[[probe', ('TOML',)),
  ],
)  # fmt: skip
def test_faults_are_named(text, said, tmp_path, machine):
  path = tmp_path / 'list.toml'
  if not text.startswith('platform'):
    text = f"platform = 'cpu'\n{text}"
  path.write_text(text)
  machine = dataclasses.replace(machine, cpus=(0, 1))
  with pytest.raises(errors.SpecError) as caught:
    chosen.load_list(path, machine)
  for part in (str(path), *said):
    assert part in str(caught.value)
  with pytest.raises(errors.SpecError, match='nothing.toml'):
    chosen.load_list(tmp_path / 'nothing.toml')


_ASKED = (
  'op', 'tier', 'granule_bytes', 'participants', 'working_set_bytes', 'm', 'n',
  'k', 'launches', 'flops',
)  # fmt: skip


@pytest.mark.filterwarnings('ignore:measuring with numpy')
def test_rows_ask_what_was_planned(tiny_options, machine, tmp_path):
  if len(machine.cpus) < 2:
    pytest.skip('needs two CPUs')
  path = tmp_path / 'list.toml'
  path.write_text(chosen.list_text(chosen.ProbeList('cpu', CPU)))
  probes = chosen.load_list(path, machine).probes
  found = collect.run_probes(probes, tiny_options, machine=machine)
  failed = {failure.name for failure in found.failures}
  probes = [p for p in probes if p.name not in failed]
  assert len(found.rows) == len(probes) >= 6
  system = cpu_system().system
  for probe, row in zip(probes, found.rows, strict=True):
    said = planned.planned_cpu_row(probe, system, machine, tiny_options)
    columns = said.columns
    assert len(table.from_rows([columns])) == 1
    assert said.rel_std > 0 and said.seconds > 0
    for name in _ASKED:
      if name in row and not (name == 'flops' and row['op'] == 'triad'):
        is_text = isinstance(row[name], str)
        wanted = row[name] if is_text else pytest.approx(row[name], rel=0.02)
        assert columns[name] == wanted, name
    if row['op'] == 'loaded_latency':  # its load is an outcome
      assert columns['in_flight_bytes'] > 64
      continue
    assert columns.get('in_flight_bytes') == row.get('in_flight_bytes')
    share = _read_share(columns), _read_share(row)
    assert share[0] == pytest.approx(share[1])
    assert {'latency_s', 'bandwidth_Bps', 'time_s'} & set(row) == (
      {'latency_s', 'bandwidth_Bps', 'time_s'} & set(columns)
    )


def _read_share(row):
  return row['bytes_read'] / (row['bytes_read'] + row['bytes_written'])


def test_a_lower_load_keeps_less_in_flight(machine, tiny_options):
  system = cpu_system().system
  loads = [
    planned.planned_cpu_row(
      memory.Loaded('triad', delay, 2), system, machine, tiny_options
    ).columns['in_flight_bytes']
    for delay in (0, 300, 3000)
  ]
  assert loads[0] > loads[1] > loads[2] > 64
  # Half the time is a pause: half of the load's own bytes.
  assert loads[1] - 64 == pytest.approx((loads[0] - 64) / 2)


def test_rows_of_a_gpu_ask_what_was_planned(gpu_row, session, options):
  for probe in (GPU[2], GPU[5], GPU[6]):
    row = gpu_row(probe)
    said = planned.planned_gpu_row(probe, 'test-gpu', session.l2_bytes, options)
    assert len(table.from_rows([said.columns])) == 1
    for name in (*_ASKED, 'dtype', 'bytes_read', 'bytes_written'):
      assert said.columns.get(name) == row.get(name), name


def test_power_windows_are_planned_with_their_power():
  options = gpu.GpuOptions()
  idle, busy = (
    planned.planned_gpu_row(probe, 'h100-sxm', 50 * MIB, options)
    for probe in GPU[-2:]
  )
  assert idle.columns['op'] == 'idle' and 'time_s' not in idle.columns
  assert busy.columns['op'] == 'gemm' and 'time_s' in busy.columns
  for row in (idle, busy):
    assert row.columns['power_W'] == 1.0
    assert row.seconds > options.window_s


def _collect(root, *flags):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.collect', *map(str, flags)],
    cwd=root, capture_output=True, text=True, check=False,
  )  # fmt: skip


def test_the_program_measures_exactly_what_a_list_says(root, tmp_path):
  if native.find_compiler() is None:
    pytest.skip('no C compiler here')
  path, out = tmp_path / 'list.toml', tmp_path / 'rows.csv'
  probes = (memory.Chase(96 * 1024), memory.Sweep('copy', 8 * 1024))
  path.write_text(chosen.list_text(chosen.ProbeList('cpu', probes)))
  done = _collect(root, f'--list={path}', f'--out={out}', '--quick')
  assert done.returncode == 0, done.stderr
  rows = files.read_traces(out)
  assert list(rows['op']) == ['pointer_chase', 'copy']
  assert list(rows['working_set_bytes']) == [96 * 1024, 16 * 1024]
  assert (rows['time_s'] > 0).all()


def test_the_program_refuses_two_platforms(root, tmp_path):
  done = _collect(
    root, '--list=x.toml', '--platform=gpu', f'--out={tmp_path / "x.csv"}'
  )
  assert done.returncode == 2
  assert '--platform: the list names its own' in done.stderr
