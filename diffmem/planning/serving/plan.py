"""`plan_serving`: workers, batches and pools of a serving fleet under limits.

Every worker and batch is valued by the laws (`serving_space.py`), pools by
queueing formulas (`pools.py`); the search is exhaustive
(`serving_search.py`). What the laws leave out is left out here too: kernels
run at the engine's sustained rate, and a serving engine has no overhead of its
own. `prefill_factor` and `decode_factor` take measured over predicted times,
such as `diffmem.runs` gives.
"""

import math
import time

import numpy as np

from diffmem import errors
from diffmem.planning.serving import answer as answer_lib
from diffmem.planning.serving import refusal as refusal_lib
from diffmem.planning.serving import search as search_lib
from diffmem.planning.serving import tables as tables_lib
from diffmem.planning.serving.pools import Demand
from diffmem.planning.serving.result import ServingOutcome, ServingResult
from diffmem.planning.serving.search import Goal
from diffmem.planning.serving.space import Job
from diffmem.system import FittedSystem, System, to_numpy
from diffmem.units import format_si
from diffmem.workloads import Machine, Transformer, load_workload, machine_of

MODES = ('aggregated', 'disaggregated')
OBJECTIVES = ('tokens_per_s', 'cost_per_token_usd', 'energy_per_token_J')
_PERCENTILES = (0.5, 0.999)
# Without a limit of the first token queues may grow, but not without end.
_MOST_USE = 0.95
# By how much limits are loosened, to see which bind.
LOOSER = 1.1
# Number formats of weights -> the engines that multiply them, best first.
_ENGINES = {
  'fp8_block': ('fp8_block', 'float8'),
  'float8': ('float8',),
  'mxfp8': ('float8',),
  'int8': ('int8',),
  'nvfp4': ('nvfp4', 'float4'),
}


def plan_serving(
  system: System | FittedSystem,
  workload: Transformer | str,
  *,
  chips: int,
  input_len: int,
  output_len: int,
  requests_per_s: float | None = None,
  ttft_s: float | None = None,
  tpot_s: float | None = None,
  percentile: float = 0.9,
  prefix_hit: float = 0.0,
  objective: str = 'tokens_per_s',
  usd_per_chip_hour: float | None = None,
  mode: str = 'any',
  top: int = 5,
  length_cv: float = 0.0,
  prefill_factor: float = 1.0,
  decode_factor: float = 1.0,
  usable: float = 0.9,
  on_progress=None,
) -> ServingResult:
  """Chooses workers, batches, pools and placement of a serving fleet.

  Args:
    system: one device with what it reaches.
    workload: a transformer, or what `load_workload` takes.
    chips: devices at most.
    input_len: mean tokens of a prompt.
    output_len: mean tokens of an answer, 2 or more.
    requests_per_s: to be served with the fewest chips; None for the highest
      rate that the chips sustain.
    ttft_s: limit of the time to the first token; None for none: pools are
      then used to 95 % of what they can do.
    tpot_s: limit of the time per further token; None for none.
    percentile: share of the requests that keep the limits.
    prefix_hit: share of a prompt's tokens whose keys and values are cached.
    objective: 'tokens_per_s', 'cost_per_token_usd' or 'energy_per_token_J'.
      With a rate given the first two look for the fewest chips.
    usd_per_chip_hour: rent.
    mode: 'aggregated', 'disaggregated' or 'any'.
    top: how many plans, each of different workers.
    length_cv: coefficient of variation of the lengths.
    prefill_factor: measured over predicted time of prompts.
    decode_factor: measured over predicted time of decode steps.
    usable: share of each memory that tensors may fill.
    on_progress: called with steps done and in all.

  Returns:
    the plans; where there are none, `outcome`, `help` and `limit` say why.

  Raises:
    PlanError: an argument that does not fit, with the nearest that does.
    SpecError: an unknown workload, or an engine that the system lacks.
  """
  began = time.monotonic()
  if isinstance(system, FittedSystem):
    system = system.system
  system = to_numpy(system)
  if not isinstance(workload, Transformer):
    workload = load_workload(workload)
  _check_counts(chips=chips, input_len=input_len, top=top)
  _check_counts(least=2, output_len=output_len)
  _check_context(workload, input_len, output_len)
  _check_positive(
    requests_per_s=requests_per_s, ttft_s=ttft_s, tpot_s=tpot_s,
    usd_per_chip_hour=usd_per_chip_hour, prefill_factor=prefill_factor,
    decode_factor=decode_factor,
  )  # fmt: skip
  _check_share('percentile', percentile, *_PERCENTILES)
  _check_share('prefix_hit', prefix_hit, 0.0, 1.0 - 1.0 / input_len)
  _check_share('length_cv', length_cv, 0.0, 10.0)
  errors.check_name('objective', objective, OBJECTIVES)
  if objective == 'cost_per_token_usd' and usd_per_chip_hour is None:
    raise errors.PlanError(
      'objective cost_per_token_usd needs usd_per_chip_hour'
    )
  errors.check_name('mode', mode, ('any', *MODES))
  modes = MODES if mode == 'any' else (mode,)
  job = Job(
    workload, serving_machine(system, workload, usable), int(input_len),
    int(output_len), round(prefix_hit * input_len),
  )  # fmt: skip
  factors = tables_lib.Factors(float(prefill_factor), float(decode_factor))
  demand = Demand(
    int(output_len), _limit(ttft_s), _limit(tpot_s), percentile,
    length_cv**2, _MOST_USE if ttft_s is None else 1.0,
  )  # fmt: skip
  goal = Goal(objective, requests_per_s, int(chips), int(top))
  request = {
    'system': system.name, 'workload': workload.name,
    'parameters': workload.parameters().total, 'chips': chips,
    'input_len': input_len, 'output_len': output_len,
    'requests_per_s': requests_per_s, 'ttft_s': ttft_s, 'tpot_s': tpot_s,
    'percentile': percentile, 'prefix_hit': prefix_hit,
    'objective': objective, 'usd_per_chip_hour': usd_per_chip_hour,
    'mode': mode, 'length_cv': length_cv, 'engine': job.machine.engine,
    'usable': usable, 'prefill_factor': prefill_factor,
    'decode_factor': decode_factor,
  }  # fmt: skip
  loose = demand._replace(
    ttft_s=LOOSER * demand.ttft_s, tpot_s=LOOSER * demand.tpot_s
  )
  tables = tables_lib.tables_of(
    system, job, chips, loose, modes, factors, on_progress
  )
  outcome = search_lib.search(tables, demand, goal, modes)
  if not outcome.found:
    return _refused(system, job, tables, demand, goal, modes, request)
  return ServingResult(
    outcome=ServingOutcome.PLANNED,
    help='',
    request=request,
    **answer_lib.answer(
      tables, demand, goal, modes, outcome, usd_per_chip_hour, LOOSER, began
    ),
  )


def serving_machine(
  system: System, model: Transformer, usable: float = 0.9
) -> Machine:
  """How a fleet uses a system: levels with their full spans.

  Workers of any size are valued by one program, so that spans are those of
  the machine, not of a mesh; the engine is that of the model's weights.

  Args:
    system: the machine.
    model: whose matrices run.
    usable: share of each memory that tensors may fill.
  """
  formats = _ENGINES.get(model.formats.of('weights'), ())
  named = [d for d in formats if f'matrix:{d}' in system.engine_names]
  dtype = next(iter(named), 'bfloat16')
  machine = machine_of(system, 1, dtype=dtype, usable=usable)
  levels = [t for t in system.tiers if t.link and t.span > 1]
  levels.sort(key=lambda t: t.span)
  return machine._replace(
    levels=tuple(t.name for t in levels), spans=tuple(t.span for t in levels)
  )


def _refused(system, job, tables, demand, goal, modes, request):
  """No fleet: what lacks, or which limits could be kept."""
  if tables.lacking_B > 0:
    lacking = format_si(tables.lacking_B, 'B')
    return ServingResult(
      outcome=ServingOutcome.NO_MEMORY,
      help=(
        f'Not one sequence of {job.model.name} fits on {goal.chips} '
        f'{system.name}: the nearest worker lacks {lacking} on every device. '
        'Take more chips, a narrower number format, or add memory.'
      ),
      request=request,
      limit={'constraint': 'memory', 'overflow_B': tables.lacking_B},
    )
  free = demand._replace(ttft_s=np.inf, tpot_s=np.inf)
  tables = tables_lib.tables_of(
    system, job, goal.chips, free, modes, tables.factors
  )
  found = refusal_lib.reachable(tables, demand, goal, modes)
  slow = found.requests_per_s <= 0.0
  named = {
    k: v if math.isfinite(v) else None for k, v in found._asdict().items()
  }
  return ServingResult(
    outcome=ServingOutcome.TOO_SLOW if slow else ServingOutcome.TOO_MUCH,
    help=refusal_lib.sentence(
      found, demand, goal, job.model.name, system.name
    ),
    request=request,
    limit={'constraint': 'latency' if slow else 'rate', **named},
  )  # fmt: skip


def _limit(value: float | None) -> float:
  return math.inf if value is None else float(value)


def _check_counts(least: int = 1, **counts: int) -> None:
  for name, value in counts.items():
    if isinstance(value, bool) or value < least or value != int(value):
      near = max(least, round(value)) if value == value else least
      raise errors.PlanError(
        f'{name} = {value!r}: expected a whole number of at least {least}; '
        f'the nearest is {near}'
      )


def _check_context(model: Transformer, input_len: int, output_len: int) -> None:
  if input_len + output_len > model.max_context:
    near = max(model.max_context - output_len, 1)
    raise errors.PlanError(
      f'input_len + output_len = {input_len + output_len} is beyond the '
      f'context of {model.name}, {model.max_context} tokens; the nearest '
      f'input_len is {near}'
    )


def _check_positive(**values: float | None) -> None:
  for name, value in values.items():
    if value is not None and not (value > 0 and math.isfinite(value)):
      raise errors.PlanError(f'{name} = {value!r}: expected more than 0')


def _check_share(name: str, value: float, least: float, most: float) -> None:
  if not least <= value <= most:
    near = least if not value > least else most
    raise errors.PlanError(
      f'{name} = {value!r}: expected {least:g} to {most:g}; the nearest is '
      f'{near:g}'
    )
