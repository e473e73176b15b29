"""What serving software adds to kernels: few named numbers per stack.

A stack is a backend (TensorRT-LLM, SGLang, vLLM). Its numbers are fitted on
measured runs, from priors that hold for any of them; a backend that was never
fitted gets the geometric mean of those that were.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Overhead(NamedTuple):
  """One number of a stack.

  Attributes:
    unit: SI, '1' for factors and shares.
    prior: before any run was seen.
    prior_sd: standard deviation of its logarithm.
    apart_sd: the same of one stack against their mean.
    help: one line.
  """

  unit: str
  prior: float
  prior_sd: float
  apart_sd: float
  help: str


# Priors are assumptions, of the order that profiles of these engines show: a
# CUDA graph starts an element-wise kernel in 1 to 3 us, a scheduler step takes
# about 1 ms, a request some 20 ms from socket to queue.
OVERHEADS = {
  'product_factor': Overhead(
    '1', 1.0, 0.1, 0.03, 'time of matrix products over that of their kernels'
  ),
  'fused_cast_s': Overhead(
    's', 8e-6, 0.4, 0.3, 'cast in the timing of a narrow product that runs fuse'
  ),
  'hidden_start_s': Overhead(
    's', 3e-6, 0.3, 0.1, 'start of a large kernel that its predecessor hides'
  ),
  'attention_factor': Overhead(
    '1', 1.0, 0.25, 0.1, 'time of attention over that of its kernels'
  ),
  'expert_factor': Overhead(
    '1', 1.0, 0.3, 0.1, 'time of routed experts over that of their kernels'
  ),
  'narrow_factor': Overhead(
    '1', 0.8, 0.3, 0.1, 'the same of experts whose weights alone have four bits'
  ),
  'link_factor': Overhead(
    '1', 1.0, 0.3, 0.2, 'time of collectives over that of their kernels: fusion'
  ),
  'small_s': Overhead(
    's', 1.5e-6, 0.7, 0.4, 'one element-wise kernel of a decode step'
  ),
  'step_s': Overhead(
    's', 1e-3, 0.7, 0.5, 'scheduling and sampling, every step'
  ),
  'sequence_s': Overhead(
    's', 10e-6, 0.8, 0.5, 'host time of a step for each sequence in it'
  ),
  'prompt_factor': Overhead(
    '1', 1.0, 0.2, 0.1, 'time of a prompt over that of its kernels'
  ),
  'prompt_kernel_s': Overhead(
    's', 5e-6, 1.0, 0.6, 'start of each kernel of a prompt, without CUDA graph'
  ),
  'mixed_share': Overhead(
    '1', 0.8, 0.3, 0.2, 'share of the time of a prompt that decoding waits for'
  ),
  'request_s': Overhead('s', 50e-3, 0.8, 0.6, 'a request from socket to queue'),
  'waits': Overhead('1', 2.0, 0.1, 0.1, 'steps that a prompt waits for'),
  'burst_share': Overhead(
    '1', 0.05, 0.8, 0.5, 'share of all open requests whose prompts are ahead'
  ),
  'wave_share': Overhead(
    '1', 0.1, 1.0, 0.7, 'the same where all answers are equally long'
  ),
  'group_share': Overhead(
    '1', 0.5, 0.5, 0.3, 'data-parallel groups that do prompts at the same time'
  ),
  'handover_s': Overhead(
    's', 50e-3, 1.0, 0.7, 'from a prompt replica to a decode replica'
  ),
}  # fmt: skip
NAMES = tuple(OVERHEADS)
# Priors of single stacks. SGLang does all waiting prompts before it goes on
# with answers (its scheduler's default), so that equally long answers end, and
# prompts queue, together.
_OWN_PRIORS = {('sglang', 'wave_share'): 0.5}


def prior(backend: str, name: str) -> float:
  """What is believed of one stack's number before any run was seen."""
  return _OWN_PRIORS.get((backend, name), OVERHEADS[name].prior)


@dataclasses.dataclass(frozen=True)
class Stacks:
  """Fitted overheads.

  Attributes:
    values: by backend and name, SI units.
    stderr: standard error of each logarithm, the prior's where no run tells.
    rows: runs that each backend was fitted on.
    log_sd: by observable, standard deviation of the logarithm of runs that
      were not fitted; 'known tpot_s' of those whose campaign was.
    campaigns: by campaign ('backend|version|date|model') and observable, the
      logarithm of what its runs took over what these numbers say: settings
      that a table does not record, such as speculative decoding.
  """

  values: Mapping[str, Mapping[str, float]]
  stderr: Mapping[str, Mapping[str, float]]
  rows: Mapping[str, int]
  log_sd: Mapping[str, float]
  campaigns: Mapping[str, Mapping[str, float]]

  def of(self, backend: str) -> dict[str, float]:
    """A backend's numbers; the mean of all for one that is not known."""
    if backend in self.values:
      return dict(self.values[backend])
    if not self.values:
      return {name: prior(backend, name) for name in NAMES}
    return {
      name: float(
        np.exp(np.mean([math.log(v[name]) for v in self.values.values()]))
      )
      for name in NAMES
    }

  def document(self) -> dict[str, Any]:
    """What a JSON file holds: every number with unit, prior and spread."""
    stacks = {
      backend: {
        'rows': self.rows[backend],
        'overheads': {
          name: {
            'value': float(f'{values[name]:.6g}'),
            'unit': OVERHEADS[name].unit,
            'prior': prior(backend, name),
            'prior_sd': OVERHEADS[name].prior_sd,
            'apart_sd': OVERHEADS[name].apart_sd,
            'stderr': float(f'{self.stderr[backend][name]:.4g}'),
            'help': OVERHEADS[name].help,
          }
          for name in NAMES
        },
      }
      for backend, values in self.values.items()
    }
    return {
      'stacks': stacks,
      'log_sd': {n: float(f'{v:.4g}') for n, v in self.log_sd.items()},
      'campaigns': {
        key: {n: float(f'{v:.4g}') for n, v in effects.items()}
        for key, effects in sorted(self.campaigns.items())
      },
    }

  @classmethod
  def from_document(cls, document: Mapping[str, Any]) -> 'Stacks':
    """Stacks of `document()`; KeyError and the like where it is none."""
    stacks = document['stacks']

    def of_all(key: str) -> dict[str, dict[str, float]]:
      return {
        backend: {n: float(s['overheads'][n][key]) for n in NAMES}
        for backend, s in stacks.items()
      }

    return cls(
      values=of_all('value'),
      stderr=of_all('stderr'),
      rows={backend: int(s['rows']) for backend, s in stacks.items()},
      log_sd={n: float(v) for n, v in document['log_sd'].items()},
      campaigns={
        key: {n: float(v) for n, v in effects.items()}
        for key, effects in document['campaigns'].items()
      },
    )


# How far the priors alone are off: assumption, of the order that they are.
_PRIOR_LOG_SD = {
  'ttft_s': 0.6, 'tpot_s': 0.3, 'known ttft_s': 0.6, 'known tpot_s': 0.3,
}  # fmt: skip


def prior_stacks() -> Stacks:
  """Stacks before any run: every backend has the priors."""
  return Stacks({}, {}, {}, dict(_PRIOR_LOG_SD), {})
