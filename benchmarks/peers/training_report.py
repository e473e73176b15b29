"""The Calculon and Galvatron parts of the comparison."""

import statistics

from benchmarks.peers import calculon, galvatron, galvatron_search, markdown
from diffmem.runs.machines import Machines
from diffmem.runs.software import Software


def predictions(machines: Machines, software: Software) -> str:
  """Calculon's validation cases: measured and predicted seconds."""
  found = calculon.predictions(machines, software)
  rows = [
    [
      f'{row.name}, {row.devices} GPUs, {row.recompute}',
      f'{row.measured_s:g}',
      f'{row.predicted_s:.4g}',
      f'{100 * row.error:+.1f} %',
    ]
    for row in found
  ]
  mean = statistics.mean(abs(row.error) for row in found)
  rows.append(['mean absolute error', '', '', f'{100 * mean:.1f} %'])
  return markdown.table(['case', 'measured, s', 'diffmem, s', 'error'], rows)


def memory() -> str:
  """Memory of a GPU in Calculon's cases: published and ours."""
  rows = [
    [
      f'{row.name}, {row.devices} GPUs',
      f'{row.activations_GiB:.2f}',
      f'{row.our_activations_GiB:.2f}',
      f'{row.states_GiB:.2f}',
      f'{row.our_states_GiB:.2f}',
      f'{100 * (row.our_states_GiB / row.states_GiB - 1):+.1f} %',
    ]
    for row in calculon.memory()
  ]
  return markdown.table(
    [
      'case',
      'activations, GiB',
      'diffmem',
      'weights, gradients, optimizer, GiB',
      'diffmem, with embeddings',
      'more',
    ],
    rows,
  )


def choices(machines: Machines, software: Software) -> str:
  """What our planner chooses for Calculon's cases, priced alike."""
  rows = []
  for name in calculon.models():
    found = calculon.choice(name, machines, software)
    rows.append(
      [
        f'{name}, {found.devices} GPUs',
        found.published,
        f'{found.published_s:.4g}',
        found.chosen,
        f'{found.chosen_s:.4g}',
        f'{100 * found.certified_gap:.2g} %',
        f'{found.configurations}',
        f'{found.seconds:.2g} s',
      ]
    )
  return markdown.table(
    [
      'case',
      'published',
      'predicted, s',
      'ours',
      'predicted, s',
      'certified gap',
      'configurations',
      'search with compiling, CPU',
    ],
    rows,
  )


def budgets() -> str:
  """Galvatron's budgets of memory under its own cost model."""
  rows = [
    _budget(published, budget_GB)
    for published in galvatron.load()
    for budget_GB in published['machine']['budgets_GB']
  ]
  return markdown.table(
    [
      'case',
      'exact (their dynamic programme), samples/s',
      'programmes that the bound left, CPU',
      'ours, samples/s',
      'ours, a stage',
      'certified gap',
      'search, CPU',
    ],
    rows,
  )


def _budget(published, budget_GB: float) -> list[str]:
  found = galvatron_search.best_plan(published, budget_GB * 1024.0)
  return [
    f'{published["model"]["name"]}, {budget_GB} GB',
    f'{found.exact_samples_per_s:.5g}',
    f'{found.programmes} of {found.problems} in {found.exact_seconds:.2g} s',
    f'{found.samples_per_s:.5g}',
    f'batch {found.batch}: {found.blocks}',
    f'{100 * found.gap:.2g} %',
    f'{found.seconds:.2g} s',
  ]
