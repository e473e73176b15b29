import jax
import pytest

from diffmem.traces import table
from diffmem.traces.collect import gpu, native, session
from diffmem.traces.collect import kernels as kernels_lib
from diffmem.traces.collect import machine as machine_lib

MIB = 1024**2


@pytest.fixture(scope='session', autouse=True)
def library_cache(tmp_path_factory):
  """One compiled library for all tests, away from the user's cache."""
  folder = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(folder))
    yield folder / 'diffmem'


@pytest.fixture
def machine():
  """A small machine on the CPUs that are there."""
  cpus = machine_lib.allowed_cpus()[:2]
  return machine_lib.Machine(
    cpus=cpus,
    cache_bytes=(32 * 1024, MIB, 8 * MIB),
    private=(True, True, False),
    available_bytes=1024 * MIB,
    memory_bytes=2048 * MIB,
    disk_bytes=10_000 * MIB,
    huge_pages=False,
    cpu_model='test',
  )


@pytest.fixture
def kernels(machine):
  if native.find_compiler() is None:
    pytest.skip('no C compiler here')
  made = kernels_lib.open_kernels(machine)
  yield made
  made.close()


@pytest.fixture
def tiny_options(tmp_path):
  return session.Options(
    scratch_dir=tmp_path,
    passes=2,
    repeats=3,
    repeat_s=1e-4,
    disk_bytes=16 * MIB,
    disk_repeat_s=1e-3,
    disk_repeats=2,
    largest_bytes=4 * MIB,
  )


@pytest.fixture(name='options')
def gpu_options():
  """A few milliseconds for each probe of a GPU, on the CPU device."""
  return gpu.GpuOptions(
    system='test-gpu', repeats=3, sample_s=1e-3, call_s=2e-4, guess_Bps=1e10,
    guess_FLOPps=1e10, window_s=1.0, settle_s=0.01, warm_up_s=0.01,
  )  # fmt: skip


@pytest.fixture(name='session')
def gpu_session(options):
  """The CPU device in the place of a GPU, without board."""
  with gpu.GpuSession(options, jax.devices('cpu')[0]) as made:
    yield made


@pytest.fixture
def gpu_row(session):
  """Measures a probe; its row, which passes the schema."""

  def measure(probe):
    row = probe.row(session, [probe.measure(session, session.options.repeats)])
    assert len(table.from_rows([row])) == 1
    assert row['system'] == 'test-gpu' and row['source'] == 'diffmem collect'
    assert row['variant'].startswith(f'jax {jax.__version__} cpu, ')
    return row

  return measure
