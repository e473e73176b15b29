"""An H200 that nobody has measured, from H100 data and both data sheets.

    python -m benchmarks.h200_from_h100 --traces=DIR --json=h200.json

makes the what-if (`fitting.part_swap` of checkpoints/h100-sxm with two figures
of the H200's data sheet: 4.8 TB/s and 141 GB), and holds it against what was
measured on an H200: every memory-bound kernel row, the change from H100 to
H200 at equal shape and software, and the time per output token of serving
runs. DIR is a folder of public traces (kernels/, serving/) that is not part of
this project. Under two minutes of processor time (`--noserving` and
`--nokernels` leave a half out). Expect 5 to 9 % mean error on the kernels of
each table, 3 % from the swap in serving steps whose kernels were timed on H100,
and 20 % on the runs themselves, whose software no H200 run has shown;
docs/codesign.md discusses them.

No H200 measurement enters the what-if: the catalog's own figures for the
H200's L2 and watts are not read (`tests/fitting/transfer_test.py`), the H100
checkpoint was fitted to H100 rows alone (its card.json), and the software of
the serving runs is fitted again without the H200's runs. No power was measured
on the H100: its catalog entry borrows an H200's joules, so that the power cap
is left out (`--power_cap` brings it back).
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from absl import flags

from experiments import program

_TRACES = flags.DEFINE_string(
  'traces', None, 'Folder with kernels/ and serving/.', required=True
)
_CHECKPOINTS = flags.DEFINE_string(
  'checkpoints', 'checkpoints', 'Folder of fitted systems.'
)
_KERNELS = flags.DEFINE_bool('kernels', True, 'Judge kernel tables.')
_SERVING = flags.DEFINE_bool('serving', True, 'Judge serving runs.')
_POWER_CAP = flags.DEFINE_bool(
  'power_cap', False, 'Let the swapped part slow down at its power cap.'
)
_JSON = flags.DEFINE_string('json', None, "File to write, '-' for stdout.")

# NVIDIA H200 Tensor Core GPU data sheet (2023): bandwidth and size of
# its HBM.
DATA_SHEET = {'read_Bps': 4.8e12, 'capacity_B': 141e9}
_NO_CAP_W = 1e5
_SHARES = ((0.5, 0.7), (0.7, 0.85), (0.85, float('inf')))
_MACHINES = {
  'what_if_s': 'H100 data and data sheet',
  'own_fit_s': "the H200's own fit",
  'old_speed_s': 'the speed of H100',
  'seen_s': 'own fit, software that saw the runs',
}
_SWAP = "what-if over the H200's own fit"
_ERRORS = ('rows', 'mape', 'median', 'p90', 'bias')


def main() -> None:
  folder = pathlib.Path(_TRACES.value)
  if not folder.is_dir():
    program.refuse(f'--traces={folder}: expected a folder; there is none')

  from diffmem import checkpoint, fitting

  old = checkpoint.load_system(f'{_CHECKPOINTS.value}/h100-sxm')
  sheet = checkpoint.load_system('h100-sxm')

  def swapped(**figures: float):
    named = {f'HBM.{name}': value for name, value in figures.items()}
    to = fitting.with_figures(sheet, named, 'NVIDIA H200 data sheet')
    found = fitting.part_swap(old, sheet, to)
    if _POWER_CAP.value:
      return found
    uncapped = found.system.with_values({'system.power_cap_W': _NO_CAP_W})
    return dataclasses.replace(found, system=uncapped)

  new = swapped(**DATA_SHEET)
  document: dict[str, Any] = {'data_sheet': DATA_SHEET}
  if _KERNELS.value:
    document |= _kernels(folder / 'kernels', old, new)
  if _SERVING.value:
    larger = swapped(capacity_B=DATA_SHEET['capacity_B'])
    document |= _serving(folder / 'serving/serving_e2e.parquet', new, larger)
  program.write_json(_JSON.value, document)


def _kernels(folder: pathlib.Path, old, new) -> dict[str, Any]:
  from benchmarks import h200_kernels

  found: dict[str, list] = {'times': [], 'speed_ups': [], 'shares': []}
  for table in h200_kernels.tables(folder, old, new):
    near = table.select(table.share >= h200_kernels.MEMORY_BOUND)
    is_paired = near.old_s > 0
    both = near.select(is_paired)
    found['times'] += [_times(near.op, *part) for part in _by_format(near)]
    if not is_paired.all():
      unseen = near.select(~is_paired)
      found['times'].append(_times(near.op, 'shapes not timed on H100', unseen))
    found['speed_ups'] += [
      _speed_ups(near.op, *part) for part in _by_format(both)
    ]
    for low, high in _SHARES:
      part = both.select((both.share >= low) & (both.share < high))
      if len(part.share):
        label = f'{low:g} to {high:g}' if high < 9 else f'{low:g} or more'
        found['shares'].append(_speed_ups(near.op, label, part))
  for table in h200_kernels.tables(folder, old, new, h200_kernels.UNSEEN):
    near = table.select(table.share >= h200_kernels.MEMORY_BOUND)
    found['times'].append(_times(table.op, 'software not timed on H100', near))
  _print(
    'Memory-bound H200 kernels: time, errors in percent',
    found['times'], ('op', 'rows of'), (*_ERRORS, 'laws_mape', 'in90'),
  )  # fmt: skip
  header = ('rows', 'measured', 'predicted', 'mape', 'median', 'p90', 'bias',
            'laws_mape', 'in90')  # fmt: skip
  _print(
    'The same shape on both: speed-up H100 -> H200, errors in percent',
    found['speed_ups'], ('op', 'rows of'), header,
  )  # fmt: skip
  _print(
    'The same by the share of the time that the HBM is busy (on H100)',
    found['shares'], ('op', 'rows of'), header,
  )  # fmt: skip
  return {'kernels': found}


def _by_format(rows) -> Iterator[tuple[str, Any]]:
  """All rows, then those of each number format where there are several."""
  yield 'all formats', rows
  forms = sorted(set(rows.form))
  if len(forms) > 1:
    for form in forms:
      yield form, rows.select(rows.form == form)


def _times(op: str, of: str, part) -> dict[str, Any]:
  laws = part.laws_s / part.observed_s - 1.0
  return {
    'op': op, 'rows of': of, **errors_of(part.error),
    'laws_mape': errors_of(laws)['mape'],
    'in90': 100.0 * float(part.inside.mean()),
  }  # fmt: skip


def _speed_ups(op: str, of: str, part) -> dict[str, Any]:
  import numpy as np

  measured = part.speed_up
  return {
    'op': op, 'rows of': of,
    'measured': float(np.median(measured)),
    'predicted': float(np.median(part.said)),
    **errors_of(part.said / measured - 1.0),
    'laws_mape': errors_of(part.said_by_laws / measured - 1.0)['mape'],
    'in90': 100.0 * float(part.ratio_inside.mean()),
  }  # fmt: skip


def errors_of(error) -> dict[str, float]:
  """Rows, and mean, median, ninth decile of errors, in percent; their median.

  Args:
    error: signed, relative [row].
  """
  import numpy as np

  size = 100.0 * np.abs(error)
  return {
    'rows': len(size),
    'mape': float(size.mean()),
    'median': float(np.median(size)),
    'p90': float(np.quantile(size, 0.9)),
    'bias': float(100.0 * np.median(error)),
  }


def _serving(path: pathlib.Path, new, larger) -> dict[str, Any]:
  from benchmarks import h200_serving
  from diffmem.runs import table

  found = h200_serving.runs(table.read(path), _CHECKPOINTS.value, new, larger)
  bound = found.elasticity >= 0.5
  groups = {
    'all': bound | ~bound,
    'memory-bound': bound,
    'the same, formats timed on H100': bound & found.is_timed,
  }
  rows = []
  for label, mask in groups.items():
    for name, text in _MACHINES.items():
      error = getattr(found, name)[mask] / found.observed_s[mask] - 1.0
      rows.append({'runs': label, 'machine': text, **errors_of(error)})
    rows.append(
      {'runs': label, 'machine': _SWAP, **errors_of(found.apart[mask])}
    )
  _print(
    'Serving on H200: time per output token, errors in percent',
    rows, ('runs', 'machine'), _ERRORS,
  )  # fmt: skip
  models = []
  for model, backend in sorted(
    set(zip(found.model, found.backend, strict=True))
  ):
    mask = (found.model == model) & (found.backend == backend)
    error = (found.what_if_s / found.observed_s - 1.0)[mask]
    models.append(
      {'model': model, 'backend': backend, **errors_of(error),
       'swap_mape': errors_of(found.apart[mask])['mape']}
    )  # fmt: skip
  _print(
    'The what-if by model', models, ('model', 'backend'),
    (*_ERRORS, 'swap_mape'),
  )  # fmt: skip
  for why, count in sorted(found.why.items(), key=lambda item: -item[1]):
    print(f'no answer for {count}: {why}')
  return {'serving': rows, 'models': models, 'refused': found.why}


def _print(title, rows, texts, numbers) -> None:
  program.table(
    title,
    [*texts, *(n.replace('_', ' ') for n in numbers)],
    [
      [*(row[t] for t in texts), *(_figure(n, row[n]) for n in numbers)]
      for row in rows
    ],
  )


def _figure(name: str, value: float) -> str:
  if name == 'rows':
    return f'{value:d}'
  return f'{value:.3f}' if name in ('measured', 'predicted') else f'{value:.1f}'


if __name__ == '__main__':
  program.run(main)
