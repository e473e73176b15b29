"""Where a fit starts: read off the data, plateau by plateau.

A start does not have to be right, it has to be in the basin. Latencies and
bandwidths of a cache come from the rows whose working set is well inside it
and well outside the one before; a memory's from the largest working sets.
"""

import numpy as np

from diffmem.fitting import observe
from diffmem.system import System, Tier
from diffmem.traces import Traces


def data_driven(system: System, traces: Traces) -> System:
  """The system with latencies and rates moved to what the traces show."""
  values = {}
  for tier in system.tiers:
    inside = _plateau(system, tier, traces)
    latency_s = _latency_s(tier, traces, inside)
    values[f'{tier.name}.latency_s'] = latency_s
    values |= _rates(tier, traces, inside, latency_s)
  return system.with_values(values)


def _plateau(system: System, tier: Tier, traces: Traces) -> np.ndarray:
  """Rows that this tier serves, by the sizes that the prior gives it."""
  home = tier.home or tier.name
  memories = [t.name for t in system.tiers if not t.is_cache and not t.link]
  here = traces.get('tier', (memories or [''])[0]) == home
  chain = [t for t in system.tiers if t.home == home]
  size = traces.get('working_set_bytes', np.inf)
  threads = traces.get('participants', 1.0)
  inner = chain[: chain.index(tier)] if tier in chain else chain
  for cache in inner:
    scale = np.where(cache.private, threads, 1.0)
    here = here & (size > 1.5 * cache.capacity_B * scale)
  if tier.is_cache:
    scale = np.where(tier.private, threads, 1.0)
    here = here & (size < 0.7 * tier.capacity_B * scale)
  return here


def _latency_s(tier: Tier, traces: Traces, inside: np.ndarray) -> float:
  latency_s = traces.get('latency_s')
  rows = inside & (traces['op'] == 'pointer_chase') & ~np.isnan(latency_s)
  if not rows.any():
    rows = inside & ~np.isnan(latency_s)
  if not rows.any():
    return float(tier.latency_s)
  return float(np.quantile(latency_s[rows], 0.1))


def _rates(tier, traces, inside, latency_s) -> dict:
  bandwidth = traces.get('bandwidth_Bps')
  known = inside & ~np.isnan(bandwidth)
  rows = known & np.isin(traces['op'], observe.FITTED_ON_BANDWIDTH)
  if not rows.any():
    rows = known & (traces['op'] == 'loaded_latency')
  if not rows.any():
    return {}
  threads = traces.get('participants', 1.0)
  share = np.where(tier.private, threads, 1.0)
  peak_Bps = np.quantile((bandwidth / share)[rows], 0.9)
  alone = rows & (threads == 1)
  values = {
    f'{tier.name}.read_Bps': peak_Bps * 1.2,
    f'{tier.name}.write_Bps': peak_Bps,
    f'{tier.name}.mixed_Bps': peak_Bps * 1.5,
  }
  if alone.any():
    one_Bps = np.median(bandwidth[alone])
    in_flight_B = 1.3 * one_Bps * latency_s
    values[f'{tier.name}.read_in_flight_B'] = in_flight_B
    values[f'{tier.name}.write_in_flight_B'] = in_flight_B
  return values
