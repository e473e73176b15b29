"""What the TPU and H100 compilers make of a plan, on any machine.

    pip install 'diffmem[xla-truth]'
    JAX_PLATFORMS=cpu python -m benchmarks.plan_truth rows.jsonl

compiles the programs of `benchmarks/plan_programs.py` ahead of time for eight
chips that are only described, and appends a JSON row per mesh: the
bytes that the collectives of a device send (`sent_B`, read from the HLO) and
the memory that it needs (`needs_B` of a TPU, `peak_B` of an H100). The planner
says the same of the same plan: `said_of`. For TPU v5p the compiler turns every
reduce-scatter into an all-reduce and a slice, which sends twice the bytes;
`asked_B` counts these as the program has them.
"""

import argparse
import json
import pathlib
import tempfile

import jax
import numpy as np
from jax.experimental import topologies

from benchmarks import hlo_collectives, plan_programs
from benchmarks.xla_truth import _BYTES, _H100
from diffmem.planning import Plan
from diffmem.planning.export import to_jax
from diffmem.workloads import (
  AXES,
  Choices,
  Machine,
  Training,
  Transformer,
  lower_train,
  memory_of,
)
from diffmem.workloads.choices import RECOMPUTE
from diffmem.workloads.transformer import Attention, Experts
from diffmem.workloads.working_set import XLA_GPU, XLA_TPU

_TOPOLOGIES = {'v5p': 'v5p:2x2x2', 'v5e': 'v5e:2x4', 'h100': ''}  # of 8 chips
_CFG = {
  'L': 16, 'd': 1024, 'H': 16, 'KV': 8, 'hd': 64, 'ff': 4096, 'V': 2048,
  'E': 0, 'topk': 2,
}  # fmt: skip
_MOE = {**_CFG, 'E': 8, 'ff': 1024}
DESIGN = tuple(
  {'cfg': cfg, 'mesh': mesh, 'recompute': recompute, 'micro_batch': 2,
   'rounds': rounds, 'S': 1024}
  for cfg, mesh, recompute, rounds in (
    (_CFG, {'fsdp': 8}, 'none', 1),
    (_CFG, {'fsdp': 8}, 'full', 2),
    (_CFG, {'data': 8}, 'full', 1),
    (_CFG, {'tensor': 4, 'data': 2}, 'none', 1),
    (_CFG, {'tensor': 4, 'data': 2}, 'full', 1),
    (_CFG, {'tensor': 2, 'fsdp': 4}, 'none', 1),
    (_CFG, {'tensor': 2, 'fsdp': 2, 'data': 2}, 'full', 2),
    (_CFG, {'context': 2, 'fsdp': 4}, 'none', 1),
    (_MOE, {'expert': 4, 'fsdp': 2}, 'none', 1),
    (_MOE, {'expert': 4, 'tensor': 2}, 'none', 1),
  )
)  # fmt: skip


def plan_of(row: dict) -> Plan:
  """The plan of a row; everything near."""
  mesh = {axis: row['mesh'].get(axis, 1) for axis in AXES}
  groups = ('attention_weights', 'mlp_weights', 'expert_weights', 'embeddings',
            'gradients', 'optimizer', 'activations')  # fmt: skip
  return Plan(
    mesh={**mesh, 'interleave': 1}, sharding={}, number_format='bfloat16',
    micro_batch=row['micro_batch'],
    recompute=row['recompute'], placement={g: {'HBM': 1.0} for g in groups},
    predicted={}, interval90=None, certified_gap=0.0, rounding_loss=0.0,
    breakdown=None,
  )  # fmt: skip


def sequences_of(row: dict) -> int:
  """Sequences of a step."""
  ranks = np.prod([row['mesh'].get(a, 1) for a in plan_programs.BATCH_AXES])
  return int(row['micro_batch'] * row['rounds'] * ranks)


def said_of(row: dict) -> dict[str, float]:
  """What the planner says: bytes sent and memory, of one device."""
  c = row['cfg']
  mlp = {'d_ff': c['ff']}
  if c['E']:
    mlp = {'experts': Experts(count=c['E'], top_k=c['topk'], d_ff=c['ff'])}
  model = Transformer(
    name='compiled', source='benchmarks/plan_truth.py', layers=c['L'],
    d_model=c['d'], vocab=c['V'], max_context=1 << 20,
    attention=Attention(heads=c['H'], kv_heads=c['KV'], head_dim=c['hd']),
    **mlp,
  )  # fmt: skip
  chips = int(np.prod(list(row['mesh'].values())))
  machine = Machine(('HBM',), ('',), ('ICI',), (chips,), 'matrix:bfloat16', 0.9)
  choices = Choices.of(
    **{axis: float(n) for axis, n in row['mesh'].items()},
    micro_batch=float(row['micro_batch']),
    recompute=float(RECOMPUTE.index(row['recompute'])),
  )
  training = Training(row['S'], sequences_of(row))
  lowered = lower_train(model, training, choices, machine)
  # A step has each operation as often as its energy is spent.
  sent_B = (lowered.sent_B.sum(-1) * lowered.energy_weight).sum()
  program = XLA_GPU if row['chip'] == 'h100' else XLA_TPU
  program = program._replace(
    gradient_B=4.0, optimizer_B=12.0, shares_optimizer=True,
    sequence_parallel=True, holds_gradients=True, one_hot=False,
    capacity_factor=1.0,
  )  # fmt: skip
  memory = memory_of(model, training, choices, program)
  memory_B = memory.peak_B
  if row['rounds'] > 1:
    # A scan over micro-batches holds the sum and the newest gradients.
    memory_B += memory.gradients_B
  return {'sent_B': float(sent_B), 'memory_B': float(memory_B)}


def devices_of(row: dict) -> list:
  """Devices that are only described."""
  chips = int(np.prod(list(row['mesh'].values())))
  if row['chip'] == 'h100':
    found = topologies.get_topology_desc(
      platform='cuda', target_config=_H100, topology=f'1x1x{chips}'
    )
  else:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=_TOPOLOGIES[row['chip']]
    )
  return found.devices


def compiled(row: dict) -> dict:
  """Bytes sent, by kind, and memory of a device, as compiled."""
  devices = devices_of(row)
  jax_plan = to_jax(plan_of(row), devices)
  program, arguments = plan_programs.train_program(
    {**row, 'B': sequences_of(row)}, jax_plan
  )
  gpu = row['chip'] == 'h100'
  lowered = program.trace(*arguments).lower(
    lowering_platforms=('cuda' if gpu else 'tpu',)
  )
  text, memory = _on_gpu(lowered) if gpu else _on_tpu(lowered)
  found = hlo_collectives.collectives_of(text, len(devices))
  by_kind: dict[str, float] = {}
  for one in found:
    by_kind[one.kind] = by_kind.get(one.kind, 0.0) + one.sent_B
  sent_B = sum(by_kind.values())
  return {
    **memory,
    'sent_B': sent_B,
    'asked_B': sent_B - by_kind.get(hlo_collectives.WIDENED, 0.0) / 2.0,
    'sent_by_kind_B': by_kind,
  }


def _on_gpu(lowered) -> tuple[str, dict[str, float]]:
  done = lowered.compile()
  found = done.memory_analysis()
  return done.as_text(), {
    'peak_B': float(found.peak_memory_in_bytes),
    'argument_B': float(found.argument_size_in_bytes),
  }


def _on_tpu(lowered) -> tuple[str, dict[str, float]]:
  """Compiles with 16 MiB: the answer names what is needed, and is quick."""
  import re

  with tempfile.TemporaryDirectory() as folder:
    options = {
      'xla_tpu_max_hbm_size_mib': '16', 'xla_dump_to': folder,
      'xla_dump_hlo_as_text': True,
      'xla_jf_crs_combiner_threshold_in_bytes': '0',
    }  # fmt: skip
    try:
      done = lowered.compile(compiler_options=options)
      needs_B = float(done.memory_analysis().peak_memory_in_bytes)
    except jax.errors.JaxRuntimeError as error:
      said = re.search(r'temporaries \(([\d.]+)([GMK])\) exceeds', str(error))
      if not said:
        raise
      needs_B = float(said[1]) * _BYTES[said[2]]
    texts = sorted(
      pathlib.Path(folder).glob('*after_optimizations.txt'),
      key=lambda p: p.stat().st_size,
    )
    return texts[-1].read_text(), {'needs_B': needs_B}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('file', help='JSON lines, appended to')
  parser.add_argument('--chip', choices=list(_TOPOLOGIES), default='h100')
  parser.add_argument('--only', type=int, help='number of a row of the design')
  options = parser.parse_args()
  for i, design in enumerate(DESIGN):
    if options.only not in (None, i):
      continue
    row = {'chip': options.chip, **design}
    row |= compiled(row)
    said = said_of(row)
    memory_B = row.get('peak_B', row.get('needs_B'))
    print(
      f'{row["mesh"]} {row["recompute"]} x{row["rounds"]}: sent '
      f'{said["sent_B"] / row["sent_B"]:.3f}, asked '
      f'{said["sent_B"] / row["asked_B"]:.3f}, memory '
      f'{said["memory_B"] / memory_B:.3f}', row['sent_by_kind_B'], flush=True,
    )  # fmt: skip
    with open(options.file, 'a', encoding='utf-8') as file:
      file.write(json.dumps(row) + '\n')


if __name__ == '__main__':
  main()
