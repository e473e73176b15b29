"""Serving runs of an H200, answered from H100 data and both data sheets.

The software's overheads come from runs on every machine but the H200; the
H200's steps are priced on the system that the what-if made. The same jobs
priced on the H200's own fit say how much of the error the swap answers for. No
job of the table was run on both machines in one configuration, so that measured
speed-ups cannot be had.

A run counts as memory-bound if the H100's bandwidth, swapped alone (its memory
is given the H200's size on both sides, because room for more sequences makes
each of them slower), shortens its time per token by at least half as much, in
logarithms, as it is larger.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffmem.runs import serving, software
from diffmem.runs.machines import Machines
from diffmem.system import FittedSystem

_ASKED = 'h200_sxm'
_NEW = 'h200-sxm'


class Swapped(Machines):
  """Fitted systems of a folder, some of them replaced."""

  def __init__(self, folder: str, systems: Mapping[str, FittedSystem]):
    super().__init__(folder)
    self._loaded.update(systems)


class Runs(NamedTuple):
  """Times per output token of the H200's runs.

  Attributes:
    observed_s: as measured [run] [s].
    what_if_s: H100 data and both data sheets; software of other machines
      [run] [s].
    own_fit_s: the same software over the H200's own fit [run] [s].
    old_speed_s: over the H100 with as much memory as the H200 [run] [s].
    seen_s: own fit, and shipped software, which has seen these runs [run] [s].
    elasticity: of the time to the memory's speed, as predicted without any
      H200 row: 1 where memory alone decides [run].
    backend: serving software [run].
    model: name [run].
    is_timed: whether some H100 table has the number formats of its kernels;
      none has weight-only int4 [run].
    why: rows without an answer, by reason.
  """

  observed_s: np.ndarray
  what_if_s: np.ndarray
  own_fit_s: np.ndarray
  old_speed_s: np.ndarray
  seen_s: np.ndarray
  elasticity: np.ndarray
  backend: np.ndarray
  model: np.ndarray
  is_timed: np.ndarray
  why: dict[str, int]

  @property
  def apart(self) -> np.ndarray:
    """What-if over the H200's own fit, less 1: the swap's own error [run]."""
    return self.what_if_s / self.own_fit_s - 1.0


def runs(
  rows: Sequence[Mapping[str, Any]],
  folder: str,
  what_if: FittedSystem,
  old_speed: FittedSystem,
) -> Runs:
  """Answers the H200's rows of the serving table.

  Args:
    rows: columns of `serving_e2e.parquet`.
    folder: of fitted systems and software.json.
    what_if: the H200 made from the H100.
    old_speed: the H100 with the H200's memory size.
  """
  rows = [row for row in rows if not row.get('exact_duplicate')]
  asked = [row for row in rows if row['system'] == _ASKED]
  others = [row for row in rows if row['system'] != _ASKED]
  machines = Machines(folder)
  held_out = serving.fit_runs(serving.read_runs(others, machines))
  shipped = software.of_folder(folder).serving

  swapped = serving.read_runs(asked, Swapped(folder, {_NEW: what_if}))
  own = serving.read_runs(asked, machines)
  as_old = serving.read_runs(asked, Swapped(folder, {_NEW: old_speed}))
  what_if_s, old_speed_s = (
    serving.predicted(priced, held_out)['tpot_s']
    for priced in (swapped, as_old)
  )
  memories = [one.system.tier('HBM') for one in (what_if, old_speed)]
  faster = float(memories[0].read_Bps / memories[1].read_Bps)
  found = Runs(
    observed_s=swapped.observed.tpot_s,
    what_if_s=what_if_s,
    own_fit_s=serving.predicted(own, held_out)['tpot_s'],
    old_speed_s=old_speed_s,
    seen_s=serving.predicted(own, shipped)['tpot_s'],
    elasticity=np.log(old_speed_s / what_if_s) / np.log(faster),
    backend=swapped.backends,
    model=np.array([job.model.name for job in swapped.jobs], object),
    is_timed=np.array([_is_timed(asked[i]) for i in swapped.index], bool),
    why={},
  )
  judged = np.isfinite(found.observed_s)
  why: dict[str, int] = {}
  for reason in swapped.why.values():
    why[reason] = why.get(reason, 0) + 1
  columns = {
    name: value[judged]
    for name, value in found._asdict().items()
    if name != 'why'
  }
  return Runs(**columns, why=why)


def _is_timed(row: Mapping[str, Any]) -> bool:
  return 'int4_wo' not in (row['gemm_quant_mode'], row['moe_quant_mode'])
