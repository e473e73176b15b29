"""diffmem's offload law of FlexGen's cases over all batch sizes at once.

A pass takes the p-norm of three streams (drives, host link, engines) and a
fixed time for each layer and block (`diffmem.runs.offload_stack`). The streams
are affine in the fractions at given batch sizes, and in the batch and the
blocks at given fractions, so that a few corner policies say it all.
"""

from typing import NamedTuple

import numpy as np

from benchmarks.peers import flexgen_laws
from benchmarks.peers.flexgen_cases import Case, Published
from benchmarks.peers.flexgen_programme import PLACES, Space, space_of
from diffmem.runs import offload
from diffmem.runs.offload_stack import (
  OffloadStacks,
)
from diffmem.runs.offload_stack import (
  published as at_published_rates,
)
from diffmem.workloads.offload import Share

STREAMS = 3
# Shares of weights and cache (near, host, disk) that span all policies.
_CORNERS = (
  ((1.0, 0.0, 0.0), (1.0, 0.0, 0.0)),
  ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
  ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0)),
  ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
  ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
)
# Batch and blocks that span what is affine in both.
_SIZES = np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 2.0]])


class Law(NamedTuple):
  """The law of one case over all pairs of batch sizes.

  Attributes:
    offsets: of prefill's and a step's streams [pair, 2, 3] [s].
    slopes: [pair, 2, 3, 9].
    fixed_s: of all passes, for each layer and block [pair] [s].
    passes: how many of each [2].
    p: of the norm.
    space: batch sizes, and the rooms' terms.
  """

  offsets: np.ndarray
  slopes: np.ndarray
  fixed_s: np.ndarray
  passes: np.ndarray
  p: float
  space: Space


def law_of(case: Case, published: Published, stacks: OffloadStacks) -> Law:
  """Streams of every pair, from the traffic of the corner policies."""
  (run,) = offload.usable_runs(flexgen_laws.rows_of([case]))
  at = stacks.of(run.stack)
  runs = [
    run._replace(
      job=run.job._replace(
        batch=batch,
        blocks=blocks,
        weights=Share(*weights),
        cache=Share(*cache),
        host_attention=True,
      )
    )
    for batch, blocks in _SIZES
    for weights, cache in _CORNERS
  ]
  need = at_published_rates(runs, None)
  streams = np.stack(
    [
      need.drive_s / at['drive_share'] + need.file_B / at['file_Bps'],
      need.link_s / at['pinned_share'],
      need.matrix_s / at['matrix_share']
      + need.host_s / at['host_share']
      + need.near_s / at['near_share'],
    ],
    -1,
  ).reshape(len(_SIZES), len(_CORNERS), 2, STREAMS)
  space = space_of(case.job, published.hardware, published.room_B)
  sizes = np.stack(
    [np.ones(len(space.blocks)), space.gpu_batch * space.blocks, space.blocks]
  )
  basis = np.linalg.inv(np.column_stack([np.ones(3), _SIZES]))
  corners = np.einsum('zp,zs,scij->pcij', sizes, basis, streams)
  slopes = np.zeros((*corners.shape[:1], 2, STREAMS, PLACES))
  for column, corner in ((1, 1), (2, 2), (4, 3), (5, 4)):
    slopes[..., column] = corners[:, corner] - corners[:, 0]
  passes = np.array([1.0, case.job.generated - 1.0])
  fixed_s = at['layer_s'] * case.job.layers * space.blocks * passes.sum()
  return Law(
    corners[:, 0], slopes, fixed_s, passes, max(at['overlap_p'], 1.0), space
  )


def total_s(law: Law, index: int, fractions: np.ndarray) -> float:
  """Time of all passes of a pair under a policy [s]."""
  streams = law.offsets[index] + law.slopes[index] @ fractions
  norms = (streams**law.p).sum(-1) ** (1.0 / law.p)
  return float(law.passes @ norms + law.fixed_s[index])
