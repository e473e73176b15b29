"""The FlexGen part of the comparison: predictions, then searches."""

import pathlib
import statistics
import time

import numpy as np

from benchmarks.peers import (
  flexgen_cases,
  flexgen_laws,
  flexgen_own,
  flexgen_programme,
  flexgen_search,
  markdown,
)
from diffmem.runs import offload
from diffmem.runs.software import Software

# Gaps below this are floating-point rounding.
_ROUNDING = 1e-11


def predictions(software: Software, runs: pathlib.Path | None) -> str:
  """Published policies: what was measured, and what each model says."""
  published = flexgen_cases.load()
  cases = published.cases
  columns = {
    "FlexGen's equations": [
      flexgen_cases.predict(case, published.hardware) for case in cases
    ],
    'diffmem, nothing fitted': flexgen_laws.predict(
      cases, offload.prior_stacks()
    ),
    'diffmem as shipped (fitted to these)': flexgen_laws.predict(
      cases, software.offload
    ),
  }
  if runs:
    columns['diffmem, model left out'] = flexgen_laws.held_out(cases, runs)
  rows = []
  for i, case in enumerate(cases):
    shown = [
      f'{values[i]:.3g} ({_percent(values[i], case)})'
      for values in columns.values()
    ]
    rows.append(
      [
        f'{case.name}, prompt {case.job.prompt:.0f}',
        f'{flexgen_laws.percents(case)}, {case.gpu_batch} x {case.blocks}',
        f'{case.measured_tokens_per_s:g}',
        *shown,
      ]
    )
  means = [
    statistics.mean(
      abs(flexgen_laws.relative(v, case))
      for v, case in zip(values, cases, strict=True)
    )
    for values in columns.values()
  ]
  rows.append(
    ['mean absolute error', '', '', *(f'{100 * m:.1f} %' for m in means)]
  )
  return markdown.table(
    ['case', 'published policy', 'measured, tokens/s', *columns], rows
  )


def searches() -> str:
  """The best policies under FlexGen's equations and limits."""
  published = flexgen_cases.load()
  # Compiles, so that no search pays for it.
  case = published.cases[-1]
  flexgen_programme.one_pair(
    1, 1, case.job, published.hardware, published.room_B
  )
  rows = []
  for case in published.cases:
    arguments = case.job, published.hardware, published.room_B
    began = time.process_time()
    walked = flexgen_search.shipped_search(*arguments)
    walk_s = time.process_time() - began
    found = flexgen_search.best_policy(*arguments)
    rows.append(
      [
        f'{case.name}, prompt {case.job.prompt:.0f}',
        _published_rate(case, published),
        f'{walked.tokens_per_s:.4g} in {walk_s:.2g} s',
        f'{found.tokens_per_s:.5g}',
        _policy(found),
        _gap(found.gap),
        f'{found.whole.tokens_per_s:.5g}',
        f'{found.programmes} of {found.pairs}',
        f'{found.seconds:.2g} s',
      ]
    )
  return markdown.table(
    [
      'case',
      'published policy',
      "FlexGen's walk finds, CPU",
      'ours, tokens/s',
      'ours, percent and batch',
      'certified gap',
      'in whole percents',
      'programmes',
      'search, CPU',
    ],
    rows,
  )


def own_policies(software: Software) -> str:
  """What diffmem's own laws choose in FlexGen's memory."""
  published = flexgen_cases.load()
  stacks = software.offload
  theirs = flexgen_laws.predict(published.cases, stacks)
  rows = []
  for case, rate in zip(published.cases, theirs, strict=True):
    found = flexgen_own.best_policy(case, published, stacks)
    rows.append(
      [
        f'{case.name}, prompt {case.job.prompt:.0f}',
        f'{case.measured_tokens_per_s:g}',
        f'{rate:.3g}',
        f'{found.tokens_per_s:.3g} ({_gain(found, rate)})',
        _policy(found),
        _gap(found.gap),
        f'{found.programmes} of {found.pairs}',
        f'{found.seconds:.2g} s',
      ]
    )
  return markdown.table(
    [
      'case',
      'measured, published policy',
      'predicted, published policy',
      'predicted, ours',
      'ours, percent and batch',
      'certified gap',
      'pairs solved',
      'search, CPU',
    ],
    rows,
  )


def _published_rate(case, published: flexgen_cases.Published) -> str:
  """Throughput under the equations; whether the limits allow it."""
  pair = flexgen_programme.one_pair(
    case.gpu_batch, case.blocks, case.job, published.hardware, published.room_B
  )
  terms = pair.offsets[0] + pair.slopes[0] @ case.fractions.ravel()
  over = float(terms[7:].max()) - 1.0
  note = f', {100 * over:.0f} % beyond the limits' if over > 0 else ''
  return f'{flexgen_cases.predict(case, published.hardware):.4g}{note}'


def _gain(found: flexgen_own.Found, rate: float) -> str:
  return f'{100 * (found.tokens_per_s / rate - 1):+.0f} %'


def _gap(gap: float) -> str:
  return f'{100 * gap:.1g} %' if gap > _ROUNDING else '0 %'


def _policy(found: flexgen_search.Found | flexgen_own.Found) -> str:
  shares = np.abs(100.0 * found.fractions[:, :2].ravel())
  percents = ' '.join(f'{x:.3g}' for x in np.round(shares, 1))
  return f'{percents}, {found.gpu_batch} x {found.blocks}'


def _percent(value: float, case: flexgen_cases.Case) -> str:
  return f'{100 * flexgen_laws.relative(value, case):+.0f} %'
