"""Reload and recompute times against measured serving with KV tiers.

    python -m benchmarks.kv_reload_truth --traces=DIR

reads `offload/vllm_h100_ttft_offload.csv`, `vllm_h100_hit_rate_throughput.csv`
and `kv_tiering_ttft.csv` of a folder of public measurements and prints the
error of each group; it takes a minute. Nothing is fitted to these tables:
prompts are timed by the shipped checkpoints (fitted to kernel tables), by their
laws alone or kernel by kernel; the link has its published figure (`PCIe
published`), or rate and granule of a link test of the same machine without any
model (`PCIe tested`: `vllm_h100_host_link_blocksize.csv`, copies to the GPU).

`no overlap` and `overlap` predict throughput at a hit rate h from the measured
ends alone: 1 / ((1 - h) / X0 + h / X1), and min(X0 / (1 - h), X1 / h).

Mean absolute errors of this version, Llama 3.1 8B on an H100 with vLLM: time to
first token 2.7 % computed kernel by kernel and 20 % by the laws alone; loaded
from DRAM 19 % (median 11; a start of 9 ms is not in the model) with the tested
link, 31 % with the published one; throughput against hit rate 3.1 % (prompts of
512 tokens assumed, they are not stated), no overlap 2.5 %, overlap 25 %. Llama
3.2 1B: 31, 26 (loaded), 10 and 13 % (throughput). Qwen3 8B on an A100 with
SGLang, 3 requests at once by Little's law: predicted times are half of the
measured ones, and their ratio to the GPU alone is off by 27 %: tiers gain less
there than computed. `lmcache_gke_tiering.csv` does not state its workload.
"""

import argparse
import csv
import pathlib

import numpy as np
from scipy import optimize

from diffmem import checkpoint
from diffmem.codesign.kv import boundary as kv_boundary
from diffmem.runs import prompt_pass
from diffmem.system import System
from diffmem.workloads import kv_reuse, load_workload
from diffmem.workloads.caches import PAGE_TOKENS

# Clients of a closed loop that are served at once: mean time to first token
# times requests a second, from the two rows of the study that give both.
_STUDY = 'mooncake_ssd_offload'
_ROUND_TOKENS = 4096.0
_ROUNDS = 10
_ALONE = 'gpu'


def tested_link(rows, system) -> System:
  """The system with the rate and granule of a link by block sizes.

  Least squares of 1 / (block / rate + 1 / blocks a second), in the logarithm.

  Args:
    rows: of `vllm_h100_host_link_blocksize.csv`.
    system: the H100.
  """
  chosen = [
    r for r in rows if r['direction'] == 'cpu_to_gpu' and r['method'] == 'dma'
  ]
  block_B = np.array([1024.0 * float(r['block_kib']) for r in chosen])
  rate_Bps = np.array([1e9 * float(r['throughput_GBps']) for r in chosen])

  def miss(point):
    peak, granule = np.exp(point)
    return np.log(peak * block_B / (block_B + granule) / rate_Bps)

  found = optimize.least_squares(miss, np.log([50e9, 1e5]), loss='soft_l1')
  peak, granule = np.exp(found.x)
  print(f'PCIe tested: {peak / 1e9:.1f} GB/s, granule {granule / 1e3:.0f} kB')
  return system.with_values(
    {
      'PCIe.read_Bps': peak,
      'PCIe.granule_B': granule,
      # The test has many blocks under way: no wait beside the granule.
      'PCIe.read_in_flight_B': 1e9,
    }
  )


def ttft_rows(
  rows, fitted, system, link: str
) -> list[tuple[str, float, float]]:
  """(group, measured, predicted) seconds of prompts that are all or not cached.

  Args:
    rows: of `vllm_h100_ttft_offload.csv`.
    fitted: the H100.
    system: the same with what is known of its link.
    link: 'published' or 'tested'.
  """
  found = []
  for row in rows:
    if not row['ttft_ms']:
      continue
    model = load_workload(row['model'].lower().removesuffix('-instruct'))
    tokens = 1e3 * float(row['prompt_ktokens'])
    measured = float(row['ttft_ms']) / 1e3
    group = f'{model.name} {row["path"]}'
    if row['path'] != 'gpu_recompute':
      said = {f'PCIe {link}': _reload_s(system, model, np.array([tokens]))[0]}
    elif link != 'tested':
      continue
    else:
      said = {
        'laws': kv_reuse.recompute_s(system, model, tokens),
        'kernels': prompt_pass.PromptPass(fitted, model)(tokens),
      }
    found += [(f'{group}: {n}', measured, float(s)) for n, s in said.items()]
  return found


def throughput_rows(rows, fitted, system) -> list[tuple[str, float, float]]:
  """(group, measured, predicted) tokens a second at a hit rate.

  Args:
    rows: of `vllm_h100_hit_rate_throughput.csv`.
    fitted: the H100.
    system: the same with what is known of its link.
  """
  found = []
  groups: dict[tuple[str, str], dict[float, float]] = {}
  for row in rows:
    ends = groups.setdefault((row['model'], row['method']), {})
    ends[float(row['cpu_hit_rate_pct']) / 100.0] = float(
      row['throughput_tok_s']
    )
  for (name, method), measured in groups.items():
    model = load_workload(name.lower().removesuffix('-instruct'))
    # The prompts' lengths are not stated: half a thousand tokens are taken.
    tokens = 512.0
    compute_s = float(prompt_pass.PromptPass(fitted, model)(tokens)) / tokens
    reload_s = float(_reload_s(system, model, np.array([8192.0]))[0]) / 8192.0
    for h, value in measured.items():
      said = 1.0 / ((1.0 - h) * compute_s + h * reload_s)
      found.append((f'{model.name} {method}: kernels, link', value, said))
      if 0.0 < h < 1.0:
        none = 1.0 / ((1.0 - h) / measured[0.0] + h / measured[1.0])
        full = min(measured[0.0] / (1.0 - h), measured[1.0] / h)
        found.append((f'{model.name} {method}: no overlap', value, none))
        found.append((f'{model.name} {method}: overlap', value, full))
  return found


def tiering_rows(rows, fitted) -> list[tuple[str, float, float]]:
  """(group, measured, predicted) seconds of conversations with KV tiers.

  The study runs Qwen3-8B on an A100: 20 clients, 10 rounds of 4096 tokens.
  Hits are taken as measured; all are reloaded from DRAM. `over the GPU alone`
  is the ratio to the same round without further tiers.

  Args:
    rows: of `kv_tiering_ttft.csv`.
    fitted: the A100.
  """
  model = load_workload('qwen3-8b')
  compute = prompt_pass.PromptPass(fitted, model, backend='sglang')
  study = [row for row in rows if row['study'] == _STUDY]
  prompt = _ROUND_TOKENS * (_ROUNDS + 1) / 2.0
  at_once = np.mean(
    [
      float(row['avg_ttft_s']) * float(row['input_tok_s']) / prompt
      for row in study
      if row['round'] == 'all'
    ]
  )
  times: dict[tuple[str, str], tuple[float, float]] = {}
  for row in study:
    if row['round'] == 'all' or not row['hit_rate_pct']:
      continue
    tokens = _ROUND_TOKENS * (float(row['round']) + 1.0)
    cached = np.array([tokens * float(row['hit_rate_pct']) / 100.0])
    time_s = compute(tokens - cached, cached) + np.where(
      cached > 0, _reload_s(fitted.system, model, cached), 0.0
    )
    times[row['config'], row['round']] = (
      float(row['avg_ttft_s']),
      float(at_once * time_s[0]),
    )
  found = [(f'{_STUDY} {config}', *both) for (config, _), both in times.items()]
  for (config, number), both in times.items():
    alone = times.get((_ALONE, number))
    if alone and config != _ALONE:
      ratio = (m / a for m, a in zip(both, alone, strict=True))
      found.append((f'{_STUDY}: over the GPU alone', *ratio))
  return found


def errors_by_group(rows) -> dict[str, tuple[int, float, float, float]]:
  """By group: rows, mean and median absolute error, and bias [%]."""
  groups: dict[str, list[float]] = {}
  for group, measured, predicted in rows:
    groups.setdefault(group, []).append(predicted / measured - 1.0)
  return {
    name: (
      len(e),
      100.0 * float(np.mean(np.abs(e))),
      100.0 * float(np.median(np.abs(e))),
      100.0 * float(np.mean(e)),
    )
    for name, e in groups.items()
  }


def _reload_s(system, model, tokens: np.ndarray) -> np.ndarray:
  """From DRAM; pages of all layers lie together, as in vLLM since 0.12."""
  cached_B = np.array([kv_boundary.prefix_bytes(model, n) for n in tokens])
  page_B = kv_boundary.prefix_bytes(model, PAGE_TOKENS)
  return kv_reuse.reload_s(system, cached_B, page_B, tier='DRAM')


def main() -> None:
  """Prints errors by group."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--traces', required=True)
  parser.add_argument('--checkpoints', default='checkpoints')
  parser.add_argument('--rows', action='store_true', help='print every row')
  args = parser.parse_args()
  folder = pathlib.Path(args.traces) / 'offload'
  h100, a100 = (
    checkpoint.load_system(f'{args.checkpoints}/{name}')
    for name in ('h100-sxm', 'a100-sxm')
  )

  def table(name):
    with (folder / f'{name}.csv').open(newline='') as file:
      return list(csv.DictReader(file))

  first = table('vllm_h100_ttft_offload')
  tested = tested_link(table('vllm_h100_host_link_blocksize'), h100.system)
  rows = ttft_rows(first, h100, h100.system, 'published')
  rows += ttft_rows(first, h100, tested, 'tested')
  rows += throughput_rows(table('vllm_h100_hit_rate_throughput'), h100, tested)
  rows += tiering_rows(table('kv_tiering_ttft'), a100)
  if args.rows:
    for group, measured, predicted in rows:
      print(f'{group:55s} {measured:12.5g} {predicted:12.5g}')
  print(f'{"group":60s} {"n":>3s} {"MAPE":>6s} {"median":>6s} {"bias":>6s}')
  for name, (n, mape, median, bias) in errors_by_group(rows).items():
    print(f'{name:60s} {n:3d} {mape:6.1f} {median:6.1f} {bias:+6.1f}')


if __name__ == '__main__':
  main()
