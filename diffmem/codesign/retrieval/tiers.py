"""Storage tiers for retrieval: how much in HBM, DRAM and SSD, and its price.

`plan_retrieval` tries every layout of `retrieval_layouts`, every number of
shards, code and re-ranking, solves the continuous choices of the best few
(`retrieval_program`), and rounds to whole machines, drives and modules, which
it checks again against every limit (`retrieval_design`). The answer says what
it costs, what the next GB, thousand reads per second or microsecond is worth,
and what each other layout would cost.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from diffmem import errors
from diffmem.codesign.retrieval import cost as cost_of
from diffmem.codesign.retrieval import program
from diffmem.codesign.retrieval.cost import Point
from diffmem.codesign.retrieval.design import Design, rounded
from diffmem.codesign.retrieval.layouts import (
  LAYOUTS,
  Layout,
  Question,
  asked,
  candidates,
)
from diffmem.codesign.retrieval.parts import second_of
from diffmem.codesign.retrieval.site import Sites, slower
from diffmem.cost.prices import Prices

_POLISHED = 6  # Candidates of a layout that are solved beyond the grid.
# A start of the grid that is dearer than this, over the least known, is not
# solved: the grid costs up to 6 % (measured on 18 questions, all layouts).
_GRID_SLACK = 1.1
_NORMAL_90 = 1.645  # Standard deviations to each side of 90 %.


class Retrieval(NamedTuple):
  """The answer.

  Attributes:
    outcome: 'planned', or 'infeasible' where no layout serves the question.
    help: what follows from it, or what stands in the way.
    designs: the best of each layout that serves, cheapest first.
    refused: layouts that do not, and why.
  """

  outcome: str
  help: str
  designs: tuple[Design, ...]
  refused: dict[str, str]

  def to_dict(self) -> dict[str, Any]:
    """Plain numbers and texts."""
    return {
      'outcome': self.outcome,
      'help': self.help,
      'designs': [d.to_dict() for d in self.designs],
      'refused': self.refused,
    }


def plan_retrieval(question: Question, sites: Sites) -> Retrieval:
  """The cheapest whole machines for a question, and what they are worth.

  Args:
    question: index, rate, recall and latency.
    sites: machines and prices.

  Raises:
    SpecError: a question that cannot be.
  """
  question.check()
  designs, refused = [], {}
  for layout in LAYOUTS:
    site = sites.of(layout)
    if site is None:
      refused[layout.name] = 'no accelerator is given'
      continue
    try:
      found = _best_design(question, site, layout)
    except errors.SpecError as error:
      refused[layout.name] = str(error)
      continue
    if isinstance(found, str):
      refused[layout.name] = found
    else:
      designs.append(found)
  designs.sort(key=lambda d: d.usd_per_s)
  if not designs:
    reasons = '\n'.join(f'  {k}: {v}' for k, v in refused.items())
    return Retrieval(
      'infeasible', f'no layout serves it:\n{reasons}', (), refused
    )
  return Retrieval(
    'planned', _help(question, designs[0]), tuple(designs), refused
  )


def least_usd_per_s(question: Question, sites: Sites) -> float:
  """Cost before rounding, of the best layout [USD/s]; inf where none serves.

  Raises:
    SpecError: a question that cannot be.
  """
  question.check()
  least = np.inf
  for layout in LAYOUTS:
    if sites.of(layout) is not None:
      least = layout_usd_per_s(question, sites, layout, least)
  return least


def layout_usd_per_s(
  question: Question,
  sites: Sites,
  layout: Layout,
  known_usd_per_s: float = np.inf,
) -> float:
  """Cost of one layout before rounding [USD/s]; inf where it does not serve.

  Args:
    question: what is served.
    sites: machines and prices.
    layout: where things lie.
    known_usd_per_s: a cost that is known already and returned where the layout
      is not cheaper [USD/s].

  Raises:
    SpecError: a layout that needs an accelerator where none is given.
  """
  site = sites.of(layout)
  if site is None:
    raise errors.SpecError(f'{layout.name}: no accelerator is given')
  least = known_usd_per_s
  for usd_per_s, one, point in _ranked(question, site, layout)[:_POLISHED]:
    if usd_per_s < _GRID_SLACK * least:
      least = min(least, program.polish(question, site, one, point).usd_per_s)
  return float(least)


def interval90_usd_per_s(
  question: Question, sites: Sites, layout: Layout
) -> tuple[float, float]:
  """Cost of a layout before rounding, between fast and slow machines [USD/s].

  All times of its machines are 1.645 standard deviations shorter, and longer,
  together: 90 % by what the laws missed on public runs that were held out. The
  design is optimised again each time. Infinite where the slow ones cannot keep
  the latency.
  """
  site = sites.of(layout)
  costs = []
  for deviations in (-_NORMAL_90, _NORMAL_90):
    moved = slower(site, deviations)
    costs.append(layout_usd_per_s(question, Sites(moved, moved, moved), layout))
  return costs[0], costs[1]


def break_even_usd_per_GB(
  question: Question,
  sites: Sites,
  prices: Prices,
  one: Layout = LAYOUTS[0],
  other: Layout = LAYOUTS[1],
) -> float | None:
  """Price of memory at which two layouts on hosts cost the same [USD/GB].

  Args:
    question: what is served.
    sites: machines; the price of memory in them is replaced.
    prices: for the years that a purchase serves.
    one: cheaper where memory is dear.
    other: cheaper where it is cheap.

  Returns:
    None where one of them is cheaper at every price from 0.01 to 1000.
  """
  question.check()

  def difference(log_price: float) -> float:
    a_byte = second_of(np.exp(log_price) / 1e9, prices)
    host = sites.host._replace(memory_usd_per_Bs=a_byte)
    costs = [
      layout_usd_per_s(question, Sites(host), layout) for layout in (one, other)
    ]
    return float(np.log(costs[0] / costs[1]))

  low, high = np.log(0.01), np.log(1000.0)
  ends = difference(low), difference(high)
  if not np.all(np.isfinite(ends)) or ends[0] * ends[1] > 0:
    return None
  return float(np.exp(optimize.brentq(difference, low, high, xtol=1e-4)))


def sensitivity(
  question: Question,
  sites: Sites,
  queries_per_s: Sequence[float],
  recalls: Sequence[float],
) -> dict[str, Any]:
  """Cost before rounding against rate and recall, for a picture.

  Args:
    question: the rest of it.
    sites: machines and prices.
    queries_per_s: rates; [rate].
    recalls: targets; [recall].

  Returns:
    'queries_per_s' [rate], 'recall' [recall], 'usd_per_s' [rate, recall] with
    None where nothing serves, and 'usd_per_million' queries, alike.
  """
  costs = np.array(
    [
      [
        least_usd_per_s(
          question._replace(queries_per_s=float(q), recall=float(r)), sites
        )
        for r in recalls
      ]
      for q in queries_per_s
    ]
  )
  each = costs / np.asarray(queries_per_s, float)[:, None] * 1e6

  def plain(table):
    return [[v if np.isfinite(v) else None for v in row] for row in table]

  return {
    'queries_per_s': [float(q) for q in queries_per_s],
    'recall': [float(r) for r in recalls],
    'usd_per_s': plain(costs.tolist()),
    'usd_per_million': plain(each.tolist()),
  }


def _ranked(question, site, layout):
  """Feasible candidates of a layout with their starts, cheapest first."""
  floors = []
  for one in candidates(question, layout):
    try:
      floors.append((cost_of.floor_usd_per_s(question, site, one), one))
    except errors.SpecError:
      continue
  found = []
  for floor, one in sorted(floors, key=lambda f: f[0]):
    if len(found) >= _POLISHED and floor > found[_POLISHED - 1][0]:
      break
    begun = program.start(question, site, one) if np.isfinite(floor) else None
    if begun is not None:
      found.append((begun[1], one, begun[0]))
      found.sort(key=lambda f: f[0])
  return found


def _reason(question, site, layout) -> str:
  """The limit that is hardest to keep, of the candidate that is nearest."""
  nearest, why = -np.inf, ''
  for one in candidates(question, layout):
    try:
      per = asked(question, one, site.rates)
    except errors.SpecError as error:
      why = str(error) if nearest == -np.inf else why
      continue
    idle = Point(1e9, site.most_drives, float(bool(layout.vectors)), 1e-3, 1e-3)
    if layout.on_drives:
      idle = idle._replace(share=0.0)
    slack = cost_of.slacks(question, site, one, per, idle)
    name = min(slack, key=slack.get)
    if slack[name] > nearest:
      nearest = slack[name]
      why = f'{name}: needs {np.exp(-nearest):.3g} times what there is, at best'
  return why


def _best_design(question, site, layout) -> Design | str:
  ranked = _ranked(question, site, layout)
  if not ranked:
    return _reason(question, site, layout)
  designs = []
  for _, one, point in ranked[:_POLISHED]:
    solved = program.polish(question, site, one, point)
    design = rounded(question, site, solved)
    if design is not None:
      designs.append(design)
  if not designs:
    return 'no whole number of machines and drives serves it'
  return min(designs, key=lambda d: d.usd_per_s)


def _help(question, best: Design) -> str:
  point = best.fractional.multipliers
  binding = [n for n, v in point.items() if v > 1e-6]
  law = question.corpus
  text = (
    f'{best.candidate.layout.name}: {best.machines} '
    f'machine{"s" * (best.machines > 1)}; before rounding, which adds '
    f'{100 * best.rounding:.0f} %, what binds: '
    f'{", ".join(binding) or "nothing"}. Laws of recall: {law.source}.'
  )
  if abs(question.vectors - 1e9) > 1.0:
    text += ' All were measured at 1e9 vectors; other sizes scale with ln n.'
  if best.candidate.reranked:
    text += ' What re-ranking finds is an assumption that no run checks.'
  if question.percentile is not None:
    text += ' The spread of times behind the percentile is an assumption.'
  return text
