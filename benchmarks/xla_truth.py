"""Memory that the TPU and H100 compilers give a transformer, on any machine.

Both compilers run ahead of time without their chips. The program is a plain
one: scan over layers, bfloat16 weights, float32 Adam moments, attention with
all scores in memory, decode with the stacked cache carried by the scan.

    pip install 'diffmem[xla-truth]'
    JAX_PLATFORMS=cpu python -m benchmarks.xla_truth rows.jsonl --seed=1

appends one JSON row per compiled program of a random design. An H100 row has
`peak_B` of the compiler's memory analysis; a TPU row has what the compiler
says that the program needs when it is given 16 MiB (`needs_B`), which is quick
because nothing is scheduled after that message. TPU plugin 0.0.42 answers so;
0.0.41 compiles for two minutes and names another number.
"""

import argparse
import json
import os
import re

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from benchmarks.xla_programs import (
  AXES,
  TOKEN_AXES,
  decode_program,
  train_program,
)
from diffmem.workloads import Choices, Decoding, Training, Transformer
from diffmem.workloads.transformer import Attention, Experts
from diffmem.workloads.working_set import XLA_GPU, XLA_TPU

_TPU = {
  4: ('v5e:2x2', 'v6e:2x2', 'v5p:2x2x1'),
  8: ('v5e:2x4', 'v6e:2x4', 'v5p:2x2x2'),
  16: ('v5e:4x4', 'v6e:4x4', 'v5p:2x2x4'),
  32: ('v5e:4x8', 'v6e:4x8', 'v5p:2x4x4'),
  64: ('v5e:8x8', 'v6e:8x8', 'v5p:4x4x4'),
}
_RECOMPUTE = {'none': 0.0, 'dots': 1.0, 'full': 2.0}
_BYTES = {'G': 2.0**30, 'M': 2.0**20, 'K': 2.0**10}
# An H100 SXM as XLA describes it (openxla/xla, pull request 25919).
_H100 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
  l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability {
    major: 9 feature_extension: ACCELERATED_FEATURES
  }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability 9.0a" name: "NVIDIA H100 80GB HBM3"
  driver_version: "13.0.0" runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def mesh_of(row: dict) -> Mesh:
  """The mesh of a row, on devices that are only described."""
  shape = [row['mesh'].get(axis, 1) for axis in AXES]
  n = int(np.prod(shape))
  if row['platform'] == 'gpu':
    found = topologies.get_topology_desc(
      platform='cuda',
      target_config=_H100,
      topology=f'1x{max(n // 8, 1)}x{min(n, 8)}',
    )
  else:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=row['topology']
    )
  return Mesh(np.array(found.devices)[:n].reshape(shape), AXES)


def compiled_B(row: dict) -> dict[str, float]:
  """What the compiler says of a row: peak or needed bytes of one device."""
  mesh = mesh_of(row)
  program = train_program if row['what'] == 'train' else decode_program
  step, arguments = program(row, mesh)
  gpu = row['platform'] == 'gpu'
  lowered = step.trace(*arguments).lower(
    lowering_platforms=('cuda' if gpu else 'tpu',)
  )
  if gpu:
    found = lowered.compile().memory_analysis()
    return {
      'argument_B': found.argument_size_in_bytes,
      'temp_B': found.temp_size_in_bytes,
      'peak_B': found.peak_memory_in_bytes,
    }
  try:
    options = {'xla_tpu_max_hbm_size_mib': '16'}
    found = lowered.compile(compiler_options=options).memory_analysis()
    return {'needs_B': found.peak_memory_in_bytes}
  except jax.errors.JaxRuntimeError as error:
    found = re.search(r'temporaries \(([\d.]+)([GMK])\) exceeds', str(error))
    if not found:
      raise
    return {'needs_B': float(found[1]) * _BYTES[found[2]]}


def question_of(row: dict) -> tuple:
  """A row as `memory_of` is asked: model, phase, choices, program."""
  c, mesh = row['cfg'], row['mesh']
  mlp = {'d_ff': c['ff']}
  if c['E']:
    mlp = {'experts': Experts(count=c['E'], top_k=c['topk'], d_ff=c['ff'])}
  model = Transformer(
    name='compiled', source='benchmarks/xla_truth.py', layers=c['L'],
    d_model=c['d'], vocab=c['V'], max_context=1 << 20,
    attention=Attention(heads=c['H'], kv_heads=c['KV'], head_dim=c['hd']),
    **mlp,
  )  # fmt: skip
  ranks = np.prod([mesh.get(axis, 1) for axis in TOKEN_AXES])
  choices = Choices.of(
    **{axis: float(mesh.get(axis, 1)) for axis in AXES},
    micro_batch=row['B'] / ranks,
    recompute=_RECOMPUTE.get(row['remat'], 0.0),
  )
  program = XLA_GPU if row['platform'] == 'gpu' else XLA_TPU
  if row['what'] == 'train':
    return model, Training(row['S'], row['B']), choices, program
  return model, Decoding(row['B'], row['S']), choices, program


def random_row(rng: np.random.Generator) -> dict:
  """A small or medium transformer on a mesh that divides it."""
  d = int(rng.choice([1024, 1536, 2048, 3072, 4096, 5120, 8192]))
  heads = d // 128
  experts = int(rng.choice([0, 0, 0, 8, 32]))
  n = int(rng.choice([4, 8, 16, 32, 64]))
  tensor = int(rng.choice([t for t in (1, 2, 4, 8) if t <= n]))
  expert = 1
  if experts:
    expert = int(rng.choice([e for e in (1, 2, 4, 8) if e * tensor <= n]))
  rest = n // (tensor * expert)
  fsdp = int(rng.choice([f for f in (1, 2, 4, 8, 16, 32, 64) if f <= rest]))
  what = str(rng.choice(['train', 'train', 'decode']))
  kv = int(rng.choice([k for k in (4, 8, 16, heads) if heads % k == 0]))
  kv = max(kv, tensor)
  kv = kv if heads % kv == 0 else heads
  wide = int(rng.choice([2, 3, 4])) * d
  platform = str(rng.choice(['tpu', 'tpu', 'gpu']))
  per_rank = int(rng.choice([1, 2, 4, 8]))
  row = {
    'platform': platform,
    'topology': 'h100' if platform == 'gpu' else str(rng.choice(_TPU[n])),
    'cfg': {
      'L': int(rng.choice([8, 12, 24, 32, 48])), 'd': d, 'H': heads, 'KV': kv,
      'hd': 128, 'ff': wide // 4 if experts else wide,
      'V': int(rng.choice([32000, 50304, 65536, 128256])), 'E': experts,
      'topk': 2, 'cap': 1.25,
    },
    'what': what,
    'mesh': {
      'data': rest // fsdp, 'fsdp': fsdp, 'expert': expert, 'tensor': tensor
    },
    'B': per_rank * n // int(rng.choice([1, tensor])),
    'S': int(rng.choice([512, 1024, 2048, 4096])),
    'remat': '',
  }  # fmt: skip
  if what == 'decode':
    row['S'] *= 4
  else:
    row['remat'] = str(rng.choice(['full', 'full', 'full', 'dots', 'none']))
  return row


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('file', help='JSON lines, appended to')
  parser.add_argument('--seed', type=int, default=1)
  parser.add_argument('--rows', type=int, default=10)
  parser.add_argument(
    '--check', action='store_true', help='compile the rows of the file again'
  )
  options = parser.parse_args()
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  if options.check:
    with open(options.file, encoding='utf-8') as file:
      rows = [json.loads(line) for line in file]
    for row in rows:
      found = compiled_B(row)
      again_B = found.get('peak_B', found.get('needs_B'))
      print(json.dumps({**row, 'again_B': again_B}))
    return
  rng = np.random.default_rng(options.seed)
  for _ in range(options.rows):
    row = random_row(rng)
    row |= {k: float(v) for k, v in compiled_B(row).items()}
    with open(options.file, 'a', encoding='utf-8') as file:
      file.write(json.dumps(row) + '\n')


if __name__ == '__main__':
  main()
