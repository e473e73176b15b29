"""One named job: what it takes in time, memory, energy and money.

The pieces of `evaluate_runs`, for a job that nobody has run yet: kernels priced
by the fitted machine, software by the fitted stacks, memory as the planner
counts it, energy by tier and engine.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffmem import errors
from diffmem.cost import account as account_lib
from diffmem.cost import prices as prices_lib
from diffmem.fitting import corrections, observe
from diffmem.runs import pricing
from diffmem.runs.machines import Machines, unknown
from diffmem.runs.software import Software
from diffmem.runs.table import Z90, Kind
from diffmem.runs.training import predict_training_runs
from diffmem.runs.training_parts import step_of
from diffmem.runs.training_rows import TrainingRun
from diffmem.system import FittedSystem
from diffmem.workloads import Choices, Decoding, Training
from diffmem.workloads.kernels import (
  MOST_VERIFIED,
  Kernel,
  Pass,
  Sequences,
  Shard,
  forward,
)
from diffmem.workloads.memory import Memory, memory_of
from diffmem.workloads.train_kernels import Mesh, Step
from diffmem.workloads.transformer import Transformer


class Estimate(NamedTuple):
  """What a job takes.

  Attributes:
    times_s: by name: (best estimate, low and high end of 90 %) [s].
    tokens_per_s: of all devices together [1/s].
    memory: of one device at the fullest moment.
    capacity_B: of the memory that the engines compute from [B].
    account: energy of a step, by tier and engine.
    bill: cost on rented accelerators; None where no price is known.
    devices: all of them.
    help: what to know: assumptions, and what to do where it does not fit.
  """

  times_s: Mapping[str, tuple[float, float, float]]
  tokens_per_s: float
  memory: Memory
  capacity_B: float
  account: account_lib.Account
  bill: account_lib.Bill | None
  devices: int
  help: str

  @property
  def fits(self) -> bool:
    """Whether the memory is enough, with the compiler's margin."""
    return bool(self.memory.fits(self.capacity_B))

  def document(self) -> dict[str, Any]:
    """The estimate as plain values, for JSON."""
    return {
      'times_s': {
        name: dict(zip(('best', 'lo90', 'hi90'), value, strict=True))
        for name, value in self.times_s.items()
      },
      'tokens_per_s': self.tokens_per_s,
      'devices': self.devices,
      'memory_B': {n: float(v) for n, v in self.memory.parts_B.items()},
      'capacity_B': self.capacity_B,
      'fits': self.fits,
      'energy_J': self.account.by_part(),
      'energy_per_token_J': self.account.token_J,
      'device_power_W': self.account.device_power_W,
      'usd_per_token': self.bill.token_usd if self.bill else None,
      'help': self.help,
    }


def estimate_training(
  model: Transformer,
  machine: str,
  mesh: Mesh,
  *,
  seq_len: int,
  sequences: int,
  micro_batch: int,
  machines: Machines,
  software: Software,
  recompute: str = 'none',
  stack: str = '',
) -> Estimate:
  """One training step.

  Args:
    model: the transformer; its `formats` say what products run in.
    machine: accelerator, such as 'h100-sxm'.
    mesh: how the job is spread.
    seq_len: tokens of a sequence.
    sequences: of a step, all devices together.
    micro_batch: sequences of one micro-batch on one data rank.
    machines: fitted systems.
    software: fitted stacks.
    recompute: 'none', 'selective' or 'full'.
    stack: software, such as 'nemo'; '' for the mean of all.

  Raises:
    SpecError: an unknown accelerator, a sequence beyond the model's context, a
      mesh or batch that does not divide.
  """
  fitted = _machine(machines, machine)
  model.check_context(seq_len)
  _check_divides(mesh, sequences, micro_batch)
  run = TrainingRun(
    index=0, machine=machines.name_of(machine), stack=stack, model=model,
    mesh=mesh, seq_len=seq_len, micro_batch=micro_batch, sequences=sequences,
    recompute=recompute, is_fused=True, trains_weights=True,
    is_pretraining=True, is_complete=True, observed_s=math.nan, source='',
    group='',
  )  # fmt: skip
  (answer,) = predict_training_runs([run], machines, software.training)
  step = step_of(run)
  kernels = _step_kernels(step, recompute)
  groups = _expert_groups(mesh)
  choices = Choices.of(
    tensor=mesh.tensor, pipeline=mesh.pipeline, interleave=mesh.interleave,
    expert=groups, fsdp=mesh.sharded,
    data=mesh.data / (groups * mesh.sharded),
    micro_batch=micro_batch,
    # A fused core never keeps its scores, which is all that selective
    # recomputation saves.
    recompute={'none': 1, 'selective': 1, 'full': 2}[recompute],
  )  # fmt: skip
  training = Training(seq_len // mesh.context, sequences)
  tokens = float(seq_len) * sequences
  return _estimate(
    fitted,
    {'step_time_s': _interval(answer.predicted, answer.log_sd)},
    kernels,
    memory_of(model, training, choices),
    tokens=tokens,
    step_s=answer.predicted,
    devices=mesh.devices,
  )


def estimate_serving(
  model: Transformer,
  machine: str,
  *,
  input_len: int,
  output_len: int,
  concurrency: int,
  machines: Machines,
  software: Software,
  tensor: int = 1,
  expert: int = 1,
  backend: str = '',
  drafted: int = 0,
  accepted: float = 0.7,
) -> Estimate:
  """Serving one replica under a constant number of open requests.

  Speculative decoding verifies `drafted` tokens and one more in a step, which
  then yields (1 - a^(d + 1)) / (1 - a) tokens on average (Leviathan et al.,
  ICML 2023, arXiv:2211.17192, equation 1). Drafting is taken as one layer of
  the model per token, as multi-token prediction does.

  Args:
    model: the transformer; its `formats` say how it is stored.
    machine: accelerator, such as 'h100-sxm'.
    input_len: tokens of a prompt.
    output_len: tokens of an answer.
    concurrency: requests that clients keep open.
    machines: fitted systems.
    software: fitted stacks.
    tensor: devices of the replica.
    expert: groups that share the experts, of these devices.
    backend: 'vllm', 'sglang', 'trtllm'; '' for the mean of all.
    drafted: tokens that are guessed ahead; 0 for none.
    accepted: share of guesses that the model agrees with.

  Raises:
    SpecError: an unknown accelerator, lengths beyond the model's context, or a
      split that the model does not have.
  """
  fitted = _machine(machines, machine)
  model.check_context(input_len + output_len)
  row = {
    'model': model.name, 'system': machine, 'backend': backend,
    'input_len': input_len, 'output_len': output_len,
    'concurrency': concurrency, 'tp_size': tensor, 'pp_size': 1,
    'moe_tp_size': tensor // expert, 'moe_ep_size': expert, 'mode': 'agg',
  }  # fmt: skip
  answers = software.predict(Kind.SERVING, [row], machines, lambda _: model)
  refused = [a.status for a in answers if not a.is_answered]
  if refused:
    raise errors.SpecError(refused[0])
  if not (0 <= drafted < MOST_VERIFIED and 0.0 <= accepted < 1.0):
    raise errors.SpecError(
      f'drafted = {drafted} must be below {MOST_VERIFIED} and accepted = '
      f'{accepted} at least 0 and below 1'
    )
  times_s = {a.observable: _interval(a.predicted, a.log_sd) for a in answers}
  kept = input_len + output_len / 2.0
  shard = Shard(tensor=tensor, expert=expert, expert_tensor=tensor // expert)
  yielded = (1.0 - accepted ** (drafted + 1)) / (1.0 - accepted)
  if drafted:
    slower = _verification(
      model, fitted, shard, float(concurrency), kept, drafted
    )
    tpot_s, *ends = times_s['tpot_s']
    times_s['tpot_s'] = tuple(t * slower / yielded for t in (tpot_s, *ends))
  tpot_s = times_s['tpot_s'][0]
  answered_s = times_s['ttft_s'][0] + (output_len - 1) * tpot_s
  running = concurrency * (1.0 - times_s['ttft_s'][0] / answered_s)
  one = Sequences(max(running, 1.0), 1.0 + drafted, kept)
  new = forward(model, shard, [one]).times(1.0 / yielded)
  # Every new token needs its share of a prompt.
  prompts = forward(model, shard, [Sequences(1.0, input_len)], head_rows=1.0)
  passes = new + prompts.times(max(running, 1.0) / output_len)
  decoding = Decoding(math.ceil(concurrency), input_len + output_len)
  choices = Choices.of(tensor=tensor)
  return _estimate(
    fitted,
    times_s,
    _with_streams(passes),
    memory_of(model, decoding, choices),
    tokens=max(running, 1.0),
    step_s=tpot_s,
    devices=tensor,
  )


def _verification(model, fitted, shard, count, kept, drafted) -> float:
  """Time of a step that verifies drafts over that of a plain one."""
  prices = pricing.Prices(fitted)
  plain, many = (
    forward(model, shard, [Sequences(count, 1.0 + d, kept)])
    for d in (0, drafted)
  )
  prices.learn((*plain.kernels, *many.kernels))
  plain_s, many_s = (
    sum(k.count * prices(k) for k in found.kernels) for found in (plain, many)
  )
  return many_s / plain_s + drafted / model.layers


def _interval(value: float, log_sd: float) -> tuple[float, float, float]:
  wide = math.exp(Z90 * log_sd)
  return value, value / wide, value * wide


def _machine(machines: Machines, machine: str) -> FittedSystem:
  name = machines.name_of(machine)
  if not name:
    raise errors.SpecError(unknown(machine))
  return machines[name]


def _check_divides(mesh: Mesh, sequences: int, micro_batch: int) -> None:
  ranks = mesh.tensor * mesh.pipeline * mesh.context
  if mesh.devices % ranks:
    raise errors.SpecError(
      f'tensor x pipeline x context = {ranks} does not divide {mesh.devices} '
      f'devices; the nearest that do are {_nearest(mesh.devices, ranks)}'
    )
  if mesh.expert > 1 and mesh.expert % mesh.tensor:
    raise errors.SpecError(
      f'expert = {mesh.expert} must be 1 or a multiple of tensor = '
      f'{mesh.tensor}, whose ranks have whole experts too; the nearest is '
      f'{max(round(mesh.expert / mesh.tensor), 1) * mesh.tensor}'
    )
  shared = _expert_groups(mesh) * mesh.sharded
  if mesh.data % shared:
    raise errors.SpecError(
      f'expert / tensor x fsdp = {shared} does not divide {mesh.data} data '
      'ranks'
    )
  at_once = mesh.data * micro_batch
  if sequences % at_once:
    raise errors.SpecError(
      f'{sequences} sequences do not split over {mesh.data} data ranks x '
      f'micro_batch = {micro_batch}; the nearest batch is '
      f'{max(round(sequences / at_once), 1) * at_once}'
    )


def _expert_groups(mesh: Mesh) -> int:
  """Data ranks that share the experts, each with all its tensor ranks."""
  return max(mesh.expert // mesh.tensor, 1)


def _nearest(devices: int, ranks: int) -> str:
  divisors = [d for d in range(1, devices + 1) if devices % d == 0]
  near = sorted(divisors, key=lambda d: abs(math.log(d / ranks)))[:2]
  return ' and '.join(str(d) for d in sorted(near))


def _step_kernels(step: Step, recompute: str) -> list[Kernel]:
  """All kernels of a step on a device of the mean stage."""
  forwards = 2.0 if recompute == 'full' else 1.0
  once = step.forward.times(forwards) + step.backward + step.stage_send
  once += step.gather.times(forwards + 1.0) + step.scatter
  once += step.head.times(1.0 / step.stages)
  whole = once.times(step.micro_batches) + step.reduce
  return _with_streams(
    whole._replace(streamed_B=whole.streamed_B + step.adam_B)
  )


def _with_streams(passes: Pass) -> list[Kernel]:
  half_B = passes.streamed_B / 2.0
  stream = {'bytes_read': half_B, 'bytes_written': half_B}
  return [*passes.kernels, Kernel('stream', 'element-wise', 1.0, stream)]


def _estimate(
  fitted, times_s, kernels, memory, *, tokens, step_s, devices
) -> Estimate:
  system = pricing.with_units(fitted).system
  traces = pricing.as_traces(kernels)
  cost = corrections.cost_of(system, observe.demand_of(system, traces))
  count = np.array([k.count for k in kernels])
  # The board's static power flows for the whole step, whatever overlaps.
  busy_s = float((count * np.asarray(cost.time_s)).sum())
  found = account_lib.account(
    system, cost, tokens=tokens, devices=devices,
    runs=count * step_s / busy_s, energy_runs=count,
  )  # fmt: skip
  near = pricing.near_memory(system)
  capacity_B = float(system.tier(near).capacity_B)
  memory = dataclasses.replace(
    memory,
    **{
      f.name: jnp.asarray(getattr(memory, f.name)).reshape(())
      for f in dataclasses.fields(memory)
    },
  )
  return Estimate(
    times_s=times_s,
    tokens_per_s=tokens / step_s,
    memory=memory,
    capacity_B=capacity_B,
    account=found,
    bill=_bill(found, fitted.system.name),
    devices=devices,
    help=_help(fitted, memory, capacity_B),
  )


def _bill(found, machine: str) -> account_lib.Bill | None:
  try:
    return account_lib.rented(found, prices_lib.load_prices(), machine)
  except errors.SpecError:
    return None


def _help(fitted: FittedSystem, memory: Memory, capacity_B: float) -> str:
  said = []
  if not fitted.residuals:
    said.append(f'{fitted.system.name} was never measured: times are priors')
  peak_B = float(memory.peak_B)
  if not bool(memory.fits(capacity_B)):
    most = max(memory.parts_B, key=lambda name: float(memory.parts_B[name]))
    said.append(
      f'does not fit: {peak_B / 1e9:.0f} GB on {capacity_B / 1e9:.0f} GB, '
      f'mostly {most.removesuffix("_B")}; share it over more devices'
    )
  return '; '.join(said)
