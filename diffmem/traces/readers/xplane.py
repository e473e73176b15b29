"""JAX profiler traces, `*.xplane.pb`, through `jax.profiler.ProfileData`.

`jax.profiler.trace(folder)` writes a file `plugins/profile/<session>/
<host>.xplane.pb` below it; the input is that file or the folder. A trace has
planes (a device, or the host), lines in them (streams, threads) and events with
a name, a duration and stats. Read are the operations of compiled programs: the
line 'XLA Ops' of a device plane (TPU), and events with the stat `hlo_op` (GPU
streams, CPU threads).

Events of one operation of one program on one device become one row: time_s is
the median duration, repeats their number, rel_std 1.4826 x the median absolute
deviation over the median. `variant` is '<program> <operation>'. flops and bytes
come from the stats `flops` and `bytes_accessed` of one run of the operation,
where there are any (TPU); the bytes count as read, the trace does not split
them. Collectives keep their op, copies are `copy`, all else is `kernel`. Halves
of asynchronous operations ('-start', '-done') are skipped: neither is the
transfer's time. A profile does not name the machine: give `Options.system`.

Operations on CPU threads may wait for others inside their duration.
"""

import collections
import dataclasses
import pathlib
import statistics
from typing import Any, NamedTuple

from diffmem import errors
from diffmem.traces.readers.ledger import Imported, Ledger, Options

_OPS = {
  'all-reduce': 'all_reduce',
  'all-gather': 'all_gather',
  'reduce-scatter': 'reduce_scatter',
  'all-to-all': 'all_to_all',
  'collective-permute': 'send_recv',
  'copy': 'copy',
}
_FLOPS = ('flops', 'model_flops')
_BYTES = ('bytes_accessed', 'bytes accessed', 'raw_bytes_accessed')


class _Key(NamedTuple):
  device: str
  program: str
  op: str


@dataclasses.dataclass
class _Runs:
  """All runs of one operation."""

  times_s: list[float] = dataclasses.field(default_factory=list)
  flops: float | None = None
  bytes: float | None = None


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads the operations of a profile.

  Raises:
    TraceError: not a profile, several sessions, or nothing of a device in it.
  """
  if path.is_dir():
    path = _only_profile(path)
  ledger = Ledger(path, options)
  runs: dict[_Key, _Runs] = collections.defaultdict(_Runs)
  others = 0
  for plane in _load(path).planes:
    for line in plane.lines:
      for event in line.events:
        stats = dict(event.stats)
        key = _key(plane.name, line.name, event.name, stats)
        if key is None:
          others += 1
          continue
        found = runs[key]
        found.times_s.append(event.duration_ns * 1e-9)
        found.flops = found.flops or _stat(stats, _FLOPS)
        found.bytes = found.bytes or _stat(stats, _BYTES)
  if others:
    ledger.remark(f'{others} events are no operations of compiled programs')
  for key, found in runs.items():
    _add(ledger, key, found)
  return ledger.done()


def _only_profile(folder: pathlib.Path) -> pathlib.Path:
  found = sorted(folder.rglob('*.xplane.pb'))
  if len(found) != 1:
    names = ', '.join(str(p.relative_to(folder)) for p in found[:4]) or 'none'
    raise errors.TraceError(
      folder, value=names, expected='one *.xplane.pb; give it by its own name'
    )
  return found[0]


def _load(path: pathlib.Path) -> Any:
  """The profile; jax is loaded here and not before."""
  import jax.profiler

  try:
    return jax.profiler.ProfileData.from_serialized_xspace(path.read_bytes())
  except (RuntimeError, OSError, ValueError) as error:
    raise errors.TraceError(
      path, expected=f'a profile of jax.profiler ({error})'
    ) from None


def _key(plane: str, line: str, name: str, stats: dict) -> _Key | None:
  """What an event is about; None if it is no operation of a program."""
  if 'hlo_op' in stats:
    name = str(stats['hlo_op'])
  elif not (plane.startswith('/device:') and line == 'XLA Ops'):
    return None
  # TPU names are whole instructions: '%fusion.1 = f32[8]{0} fusion(...)'.
  op = name.lstrip('%').split(' ')[0]
  return _Key(plane, str(stats.get('hlo_module', '')), op)


def _add(ledger: Ledger, key: _Key, runs: _Runs) -> None:
  stem = key.op.split('.')[0]
  if stem.endswith(('-start', '-done')):
    ledger.skip(None, f'{key.op}: half of an asynchronous operation')
    return
  times = runs.times_s
  median = statistics.median(times)
  if median <= 0:
    ledger.skip(None, f'{key.op}: no duration')
    return
  spread = statistics.median(abs(t - median) for t in times)
  ledger.add(
    None,
    system=ledger.system(key.device.strip('/').removeprefix('device:')),
    op=next((op for name, op in _OPS.items() if stem == name), 'kernel'),
    tier=ledger.tier(),
    flops=runs.flops,
    bytes_read=runs.bytes,
    variant=f'{key.program} {key.op}'.strip(),
    time_s=median,
    repeats=len(times),
    rel_std=1.4826 * spread / median if len(times) > 2 else None,
    source='jax.profiler',
    note=key.device,
  )


def _stat(stats: dict[str, Any], names: tuple[str, ...]) -> float | None:
  """The first known stat above zero, None where there is none."""
  for name in names:
    value = stats.get(name)
    if isinstance(value, (int, float)) and value > 0:
      return float(value)
  return None
