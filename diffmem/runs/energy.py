"""Board energy per token of serving, from throughput: predicted and fitted.

Power of a board is linear in what it does, up to its cap:

    P = idle + bytes/s x J/B + FLOP/s x J/FLOP + link B/s x J/B
        + share of time not decoding x prefill power + small terms

with the joules of the catalog (or a checkpoint) times a fitted factor, and
powers as fitted shares of the board's cap. Bytes are those of a decode step:
weights once, experts that its tokens touch, keys and values, and the state of
linear attention, which is read and written in 32 bits. Throughput and step
time are given, measured or predicted; energy per token follows.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from diffmem import errors
from diffmem.runs.answer import ANSWERED, Answer, refusal
from diffmem.runs.energy_rows import (
  EnergyRun,
  family_of,
  near_Bps,
  number,
  read_row,
  token_flops,
)
from diffmem.system import System, Tier, load_catalog

OBSERVABLE = 'energy_per_token_J'

# Scatter of a run beside what the law can tell, and sharpness of the cap.
_RUN_SD = 0.08
_CAP_P = 12.0


class Parameter(NamedTuple):
  """A factor or share of a board: prior median, its width, one line."""

  prior: float
  prior_sd: float
  help: str


PARAMETERS = {
  'idle': Parameter(0.28, 0.5, 'power while kernels run, over the cap'),
  'near': Parameter(1.0, 0.3, "factor on the near memory's joules per byte"),
  'matrix': Parameter(1.0, 0.6, "factor on the engine's joules per FLOP"),
  'link': Parameter(1.0, 0.5, "factor on the link's joules per byte"),
  'prefill': Parameter(0.42, 0.5, 'more while prefilling, over the cap'),
  'host': Parameter(0.2, 0.7, 'the same where images or video come in'),
  'ranks': Parameter(0.03, 2.0, 'more with several ranks, over the cap'),
  'doubling': Parameter(0.025, 1.0, 'more per doubling of sequences, over cap'),
  'fp8': Parameter(0.04, 2.0, 'more where activations are quantised, over cap'),
}


@dataclasses.dataclass(frozen=True)
class EnergyStacks:
  """Fitted numbers by machine, 'other' for the rest.

  Attributes:
    values: machine -> parameter -> value.
    log_sd: standard deviation of held-out residuals, in logarithm.
  """

  values: Mapping[str, Mapping[str, float]]
  log_sd: float = 0.25

  def of(self, machine: str) -> Mapping[str, float]:
    """Numbers of a machine, or those of 'other'."""
    return self.values.get(machine, self.values['other'])

  def document(self) -> dict[str, Any]:
    """What a JSON file holds: every number with its prior."""
    boards = {
      machine: {
        name: {
          'value': float(f'{values[name]:.6g}'),
          'prior': PARAMETERS[name].prior,
          'prior_sd': PARAMETERS[name].prior_sd,
        }
        for name in PARAMETERS
      }
      for machine, values in self.values.items()
    }
    return {'log_sd': float(f'{self.log_sd:.4g}'), 'boards': boards}

  @classmethod
  def from_document(cls, document: Mapping[str, Any]) -> 'EnergyStacks':
    """The stacks of a document that `document` gave.

    Raises:
      KeyError: a board or a number is missing.
    """
    values = {
      machine: {name: float(numbers[name]['value']) for name in PARAMETERS}
      for machine, numbers in document['boards'].items()
    }
    if 'other' not in values:
      raise KeyError('other')
    return cls(values, float(document['log_sd']))


def prior_stacks() -> EnergyStacks:
  """Every machine at the prior."""
  return EnergyStacks({'other': {n: p.prior for n, p in PARAMETERS.items()}})


def parts_W(
  run: EnergyRun, system: System, at: Mapping[str, float]
) -> dict[str, float]:
  """Mean power of one board by cause, before its cap [W]."""
  cap_W = float(system.power_cap_W)
  near = next(t for t in system.tiers if not t.is_cache)
  joules = _joules(system, near)
  ways = 1.0 - 1.0 / run.gpus
  model, each = run.model, run.tokens_per_s / run.gpus
  # Two all-reduces of a layer, each sends and receives its payload twice.
  link_Bps = 8.0 * model.layers * model.d_model * run.tokens_per_s * ways
  waits = 'host' if run.host_bound else 'prefill'
  return {
    'idle': at['idle'] * cap_W,
    'near': at['near'] * joules['near'] * near_Bps(run),
    'matrix': at['matrix'] * joules['matrix'] * each * token_flops(run),
    'link': at['link'] * joules['link'] * link_Bps,
    'prefill': at[waits] * cap_W * (1.0 - run.decode_share),
    'ranks': at['ranks'] * cap_W * (run.gpus > 1),
    'batch': at['doubling'] * cap_W * math.log2(run.batch / 8.0 + 1.0),
    'quantising': at['fp8'] * cap_W * (run.precision == 'fp8'),
  }


def token_J(run: EnergyRun, system: System, at: Mapping[str, float]) -> float:
  """Energy of a generated token, all boards together [J]."""
  power_W = _capped_W(
    sum(parts_W(run, system, at).values()), float(system.power_cap_W)
  )
  return run.gpus * float(power_W) / run.tokens_per_s


def predict_energy(
  rows: Sequence[Mapping[str, Any]],
  checkpoints: Mapping[str, System] | None,
  stacks: EnergyStacks,
) -> list[Answer]:
  """Energy per token of every row, none lost.

  Args:
    rows: columns of `ml_energy.csv`.
    checkpoints: fitted systems by name; the catalog stands in for the rest.
    stacks: from `fit_energy` or `prior_stacks`.
  """
  answers = []
  for index, row in enumerate(rows):
    try:
      run = read_row(row, index)
    except errors.DiffmemError as error:
      observed = number(row, 'energy_per_token_J', math.nan)
      answers.append(refusal(index, OBSERVABLE, observed, str(error)))
      continue
    system = system_of(run.machine, checkpoints)
    found = token_J(run, system, stacks.of(run.machine))
    answers.append(
      Answer(index, OBSERVABLE, run.observed, found, stacks.log_sd, ANSWERED)
    )
  return answers


def fit_energy(
  rows: Sequence[Mapping[str, Any]],
  checkpoints: Mapping[str, System] | None = None,
) -> EnergyStacks:
  """Fits every machine of the rows; `log_sd` is from families left out."""
  runs = usable_runs(rows)
  misses = [abs(miss) for _, miss in held_out_errors(runs, checkpoints)]
  # 1.645 deviations hold 90 % of a normal distribution.
  log_sd = float(np.quantile(misses, 0.9) / 1.645) if len(misses) > 4 else 0.25
  return dataclasses.replace(_fit(runs, checkpoints), log_sd=log_sd)


def usable_runs(rows: Sequence[Mapping[str, Any]]) -> list[EnergyRun]:
  """Runs of the rows that are complete and have an observation."""
  runs = []
  for index, row in enumerate(rows):
    try:
      runs.append(read_row(row, index))
    except errors.DiffmemError:
      continue
  return [r for r in runs if r.observed > 0]


def held_out_errors(
  runs: Sequence[EnergyRun],
  checkpoints: Mapping[str, System] | None = None,
) -> list[tuple[EnergyRun, float]]:
  """Each run with log(predicted / observed), its whole family left out."""
  found = []
  for family in dict.fromkeys(family_of(r.model) for r in runs):
    stacks = _fit(
      [r for r in runs if family_of(r.model) != family], checkpoints
    )
    for run in (r for r in runs if family_of(r.model) == family):
      system = system_of(run.machine, checkpoints)
      predicted = token_J(run, system, stacks.of(run.machine))
      found.append((run, math.log(predicted / run.observed)))
  return found


def system_of(machine: str, checkpoints: Mapping[str, System] | None) -> System:
  """A machine's fitted system, or its published figures."""
  if checkpoints and machine in checkpoints:
    return checkpoints[machine]
  return _catalog(machine)


@functools.cache
def _catalog(machine: str) -> System:
  return load_catalog(machine).system


def _fit(runs, checkpoints) -> EnergyStacks:
  values = {
    machine: _fit_machine(
      [r for r in runs if r.machine == machine],
      system_of(machine, checkpoints),
    )
    for machine in dict.fromkeys(r.machine for r in runs)
  }
  values['other'] = {
    name: math.exp(np.mean([math.log(v[name]) for v in values.values()]))
    if values
    else parameter.prior
    for name, parameter in PARAMETERS.items()
  }
  return EnergyStacks(values)


def _fit_machine(runs, system) -> dict[str, float]:
  """Least squares of log power around the priors, pseudo-Huber loss."""
  names = list(PARAMETERS)
  start = np.log([PARAMETERS[n].prior for n in names])
  widths = np.array([PARAMETERS[n].prior_sd for n in names])
  one = dict.fromkeys(names, 1.0)
  # Parts are linear in the parameters; 'prefill' or 'host', whichever is on.
  parts = np.array([list(parts_W(r, system, one).values()) for r in runs])
  host = np.array([r.host_bound for r in runs])[:, None]
  waits = parts[:, 4:5]
  columns = np.concatenate(
    [parts[:, :4], waits * ~host, waits * host, parts[:, 5:]], axis=1
  )
  observed_W = np.array([r.observed * r.tokens_per_s / r.gpus for r in runs])
  cap_W = float(system.power_cap_W)

  def residuals(point):
    power_W = _capped_W(columns @ np.exp(point), cap_W)
    z = np.log(power_W / observed_W) / _RUN_SD
    misses = np.sign(z) * np.sqrt(8.0 * (np.sqrt(1.0 + z * z / 4.0) - 1.0))
    return np.concatenate([misses, (point - start) / widths])

  found = optimize.least_squares(residuals, start)
  return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def _capped_W(power_W, cap_W: float):
  return (power_W**-_CAP_P + cap_W**-_CAP_P) ** (-1.0 / _CAP_P)


def _joules(system: System, near: Tier) -> dict[str, float]:
  """Catalog joules of a byte of near memory, of a FLOP, of a link's byte."""
  links = [t for t in system.tiers if t.link and t.span > 1]
  nearest = min(links, key=lambda t: t.span, default=system.tier('PCIe'))
  engine = system.engine('matrix:bfloat16')
  return {
    'near': float(near.device_J_per_B) + float(near.path_J_per_B),
    'matrix': float(engine.energy_J_per_FLOP),
    'link': float(nearest.path_J_per_B),
  }
