"""A serving plan as arguments of vLLM and SGLang.

Names and meanings: vLLM's engine arguments, data-parallel and expert-parallel
deployment guides (documentation of versions 0.12 to 0.21), and SGLang's server
arguments and HiCache guide (documentation of 2026). An engine's data-parallel
ranks have attention of their own and share experts, which is a plan's `expert`
axis; a plan's `data` axis is whole servers side by side (`Launch.replicas`).
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

from diffmem import errors
from diffmem.planning.export import kinds as kinds_lib
from diffmem.planning.export import launch
from diffmem.planning.export.launch import Launch, Value
from diffmem.planning.export.specs import Strategies, strategies_of
from diffmem.planning.result import Plan
from diffmem.workloads import caches as caches_lib
from diffmem.workloads import stage as stage_lib

_GIB, _GB = 2.0**30, 1e9
CACHES = (stage_lib.KV_CACHE, caches_lib.KV_WINDOWED, caches_lib.STATES)
ROLES = ('', 'prefill', 'decode')
_KV_ROLES = {'prefill': 'kv_producer', 'decode': 'kv_consumer'}


class Server(NamedTuple):
  """The fields of a plan, and of its job, that an engine has arguments for.

  Attributes:
    attention: ranks that split each head's matrices.
    copies: groups of ranks with attention, and sequences, of their own.
    expert: ranks that the experts are spread over, whole.
    dense_whole: whether dense MLPs are whole on every rank.
    pipeline: stages.
    sequences: running at once on one copy.
    step_tokens: of prompts that one step of a copy takes; 0 for no limit.
    context: tokens of a sequence; 0 for the model's own.
    usable: share of the device's memory.
    cache_away_B: of one device, keys and values with the host [B].
    weights_away_B: the same of weights [B].
    role: '', 'prefill' or 'decode'.
  """

  attention: int
  copies: int
  expert: int
  dense_whole: bool
  pipeline: int
  sequences: int
  step_tokens: int
  context: int
  usable: float
  cache_away_B: float
  weights_away_B: float
  role: str


def to_vllm(
  plan: Plan, context: int = 0, usable: float = 0.9, role: str = ''
) -> Launch:
  """A plan as arguments of `vllm serve`.

  Args:
    plan: of a decode or prefill step.
    context: tokens of the longest sequence; 0 for the model's own.
    usable: share of a device's memory, as in `make_plan`.
    role: 'prefill' or 'decode' in a disaggregated fleet.

  Raises:
    PlanError: a plan for training, or an unknown role.
  """
  server, left_out = _server_of(plan, context, usable, role)
  return vllm_launch(server, plan.mesh.get('data', 1), left_out)


def vllm_launch(server: Server, replicas: int, left_out: list[str]) -> Launch:
  """Arguments of `vllm serve`, and what they cannot say."""
  left_out = list(left_out)
  world = server.attention * server.copies
  if 1 < server.expert < world:
    left_out.append(
      f'experts on {server.expert} of {world} ranks: vLLM spreads whole '
      'experts over all ranks'
    )
  return Launch(vllm_arguments(server), replicas, tuple(left_out))


def vllm_arguments(server: Server) -> dict[str, Value]:
  """Arguments of `vllm serve`."""
  found: dict[str, Value] = {
    '--tensor-parallel-size': server.attention,
    '--data-parallel-size': server.copies,
    '--pipeline-parallel-size': server.pipeline,
    '--max-num-seqs': server.sequences,
    '--gpu-memory-utilization': server.usable,
  }
  if server.expert > 1:
    found['--enable-expert-parallel'] = True
  if server.step_tokens:
    found['--max-num-batched-tokens'] = server.step_tokens
  if server.context:
    found['--max-model-len'] = server.context
  if server.cache_away_B:
    # Of all tensor and pipeline ranks of one engine together.
    ranks = server.attention * server.pipeline
    found['--kv-offloading-backend'] = 'native'
    found['--kv-offloading-size'] = server.cache_away_B * ranks / _GIB
  if server.weights_away_B:
    found['--cpu-offload-gb'] = server.weights_away_B / _GIB
  if server.role:
    config = {
      'kv_connector': 'NixlConnector',
      'kv_role': _KV_ROLES[server.role],
    }
    found['--kv-transfer-config'] = json.dumps(config)
  return found


def server_of_vllm(arguments: dict[str, Value]) -> Server:
  """The fields of arguments of `vllm serve`; undoes `vllm_arguments`."""
  get = arguments.get
  tensor = int(get('--tensor-parallel-size', 1))
  copies = int(get('--data-parallel-size', 1))
  pipeline = int(get('--pipeline-parallel-size', 1))
  role = json.loads(str(get('--kv-transfer-config', '{}'))).get('kv_role', '')
  whole = bool(get('--enable-expert-parallel', False))
  return Server(
    attention=tensor,
    copies=copies,
    expert=tensor * copies if whole else 1,
    dense_whole=tensor == 1,
    pipeline=pipeline,
    sequences=int(_needed(arguments, '--max-num-seqs')),
    step_tokens=int(get('--max-num-batched-tokens', 0)),
    context=int(get('--max-model-len', 0)),
    usable=float(get('--gpu-memory-utilization', 0.9)),
    cache_away_B=float(get('--kv-offloading-size', 0.0))
    * _GIB
    / (tensor * pipeline),
    weights_away_B=float(get('--cpu-offload-gb', 0.0)) * _GIB,
    role={v: k for k, v in _KV_ROLES.items()}.get(role, ''),
  )


def to_sglang(
  plan: Plan, context: int = 0, usable: float = 0.9, role: str = ''
) -> Launch:
  """A plan as arguments of `sglang.launch_server`; see `to_vllm`."""
  server, left_out = _server_of(plan, context, usable, role)
  return sglang_launch(server, plan.mesh.get('data', 1), left_out)


def sglang_launch(server: Server, replicas: int, left_out: list[str]) -> Launch:
  """Arguments of `sglang.launch_server`, and what they cannot say."""
  left_out = list(left_out)
  if server.copies > 1 and server.attention > 1 and not server.dense_whole:
    left_out.append(
      f'dense MLPs over {server.attention} ranks: SGLang splits them over all '
      f'{server.attention * server.copies}, or not at all'
    )
  return Launch(sglang_arguments(server), replicas, tuple(left_out))


def sglang_arguments(server: Server) -> dict[str, Value]:
  """Arguments of `sglang.launch_server`.

  With data-parallel attention `--tp-size` counts all ranks of a stage;
  `--max-running-requests` and `--chunked-prefill-size` all copies together.
  """
  found: dict[str, Value] = {
    '--tp-size': server.attention * server.copies,
    '--dp-size': server.copies,
    '--ep-size': server.expert,
    '--pp-size': server.pipeline,
    '--max-running-requests': server.sequences * server.copies,
    '--mem-fraction-static': server.usable,
  }
  if server.copies > 1:
    found['--enable-dp-attention'] = True
    if server.dense_whole:
      found['--moe-dense-tp-size'] = 1
  if server.step_tokens:
    found['--chunked-prefill-size'] = server.step_tokens * server.copies
  if server.context:
    found['--context-length'] = server.context
  if server.cache_away_B:
    found['--enable-hierarchical-cache'] = True
    found['--hicache-size'] = server.cache_away_B / _GB  # of each rank
  if server.weights_away_B:
    found['--cpu-offload-gb'] = server.weights_away_B / _GIB
  if server.role:
    found['--disaggregation-mode'] = server.role
  return found


def server_of_sglang(arguments: dict[str, Value]) -> Server:
  """The fields of arguments of SGLang; undoes `sglang_arguments`."""
  get = arguments.get
  copies = int(get('--dp-size', 1))
  attention = int(get('--tp-size', 1)) // copies
  return Server(
    attention=attention,
    copies=copies,
    expert=int(get('--ep-size', 1)),
    dense_whole=(
      attention == 1 if copies == 1 else get('--moe-dense-tp-size') == 1
    ),
    pipeline=int(get('--pp-size', 1)),
    sequences=int(_needed(arguments, '--max-running-requests')) // copies,
    step_tokens=int(get('--chunked-prefill-size', 0)) // copies,
    context=int(get('--context-length', 0)),
    usable=float(get('--mem-fraction-static', 0.9)),
    cache_away_B=float(get('--hicache-size', 0.0)) * _GB,
    weights_away_B=float(get('--cpu-offload-gb', 0.0)) * _GIB,
    role=str(get('--disaggregation-mode', '')),
  )


def _needed(arguments: dict[str, Value], name: str) -> Value:
  if name not in arguments:
    raise errors.PlanError(f'{name} is missing')
  return arguments[name]


def _server_of(
  plan: Plan, context: int, usable: float, role: str
) -> tuple[Server, list[str]]:
  if plan.recompute is not None:
    raise errors.PlanError('engines serve; this is a plan for training')
  away_B = {
    name: launch.bytes_away(plan, groups)
    for name, groups in (('cache', CACHES), ('weights', launch.WEIGHTS))
  }
  return server_of(
    plan.mesh,
    strategies_of(plan.sharding),
    stage_lib.EXPERTS in plan.placement,
    away_B,
    sequences=plan.micro_batch,
    context=context,
    usable=usable,
    role=role,
  )


def server_of(
  mesh: Mapping[str, int],
  kind: Strategies,
  has_experts: bool,
  away_B: Mapping[str, Mapping[str, float]],
  *,
  sequences: int,
  step_tokens: int = 0,
  context: int = 0,
  usable: float = 0.9,
  role: str = '',
) -> tuple[Server, list[str]]:
  """The fields of a server, and what engines cannot be told.

  Args:
    mesh: ranks of each axis.
    kind: how the tensor ranks share each kind of layer.
    has_experts: whether the model has any.
    away_B: 'cache' and 'weights' -> memory -> bytes of a device.
    sequences: running at once on a rank of `expert` and `data`.
    step_tokens: of prompts that a step takes there; 0 for no limit.
    context: tokens of the longest sequence; 0 for the model's own.
    usable: share of a device's memory.
    role: '', 'prefill' or 'decode'.

  Raises:
    PlanError: an unknown role.
  """
  if role not in ROLES:
    raise errors.PlanError(f"role {role!r}: expected '', 'prefill' or 'decode'")
  tensor, expert, left_out = mesh.get('tensor', 1), mesh.get('expert', 1), []
  kind = kind if tensor > 1 else Strategies()
  own = tensor if kind.attention == 'sequence' else 1
  experts = expert * (tensor if kind.experts == 'expert' else 1)
  if (kind.mlp == 'sequence') != (own > 1):
    left_out.append(
      f'attention by {kind.attention}, MLPs by {kind.mlp}: engines split both '
      'alike'
    )
  if mesh.get('context', 1) > 1:
    left_out.append(f'context = {mesh["context"]}: not exported')
  host = dict.fromkeys(('cache', 'weights'), 0.0)
  for name, row in away_B.items():
    for memory, size_B in row.items():
      if kinds_lib.is_host(memory):
        host[name] += size_B
      else:
        left_out.append(f'{name} in {memory} ({size_B:.3g} B): not exported')
  if host['cache']:
    left_out.append(
      'keys and values with the host: engines keep those of waiting sequences '
      'there, the plan those of running ones too'
    )
  server = Server(
    attention=tensor // own,
    copies=expert * own,
    expert=experts if has_experts else 1,
    dense_whole=kind.mlp == 'sequence' or tensor == 1,
    pipeline=mesh.get('pipeline', 1),
    sequences=max(sequences // own, 1),
    step_tokens=step_tokens // own,
    context=context,
    usable=usable,
    cache_away_B=host['cache'],
    weights_away_B=host['weights'],
    role=role,
  )
  return server, left_out
