"""What the co-design part of a report is made of: plain data, all optional.

The caller fills these from `diffmem.codesign`; every number is in the unit
that stands beside it. `lo` and `hi` are the ends of a 90 % interval. A part
that is None or empty has no section: nothing is invented.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence

from diffmem.report.plane_data import Design as Design
from diffmem.report.plane_data import Front as Front
from diffmem.report.plane_data import KvCapacity as KvCapacity
from diffmem.report.plane_data import Metric as Metric
from diffmem.report.plane_data import NextGB as NextGB
from diffmem.report.plane_data import Regions as Regions
from diffmem.report.plane_data import Retrieval as Retrieval
from diffmem.report.plane_data import RetrievalRow as RetrievalRow
from diffmem.report.plane_data import Sensitivity as Sensitivity
from diffmem.report.plane_data import Series as Series
from diffmem.report.supply_data import Move as Move
from diffmem.report.supply_data import Order as Order
from diffmem.report.supply_data import PartSupply as PartSupply
from diffmem.report.supply_data import Service as Service
from diffmem.report.supply_data import Supply as Supply

# An account whose parts do not add up is an error of the caller.
BALANCE = 1e-9


class ParameterKind(enum.StrEnum):
  """What a parameter is, for the colour of its bar."""

  RATE = 'rate'
  SIZE = 'size'
  LATENCY = 'latency'
  ENERGY = 'energy'
  OTHER = 'other'


_SUFFIXES = (
  ('_J_per_B', ParameterKind.ENERGY), ('_J_per_FLOP', ParameterKind.ENERGY),
  ('_W', ParameterKind.ENERGY), ('_Bps', ParameterKind.RATE),
  ('_FLOPps', ParameterKind.RATE), ('_B', ParameterKind.SIZE),
  ('_s', ParameterKind.LATENCY),
)  # fmt: skip


def kind_of(parameter: str) -> ParameterKind:
  """What a parameter is by the unit in its name.

  Examples:
    >>> kind_of('HBM.read_Bps').value, kind_of('HBM.device_J_per_B').value
    ('rate', 'energy')
  """
  return next(
    (k for s, k in _SUFFIXES if parameter.endswith(s)), ParameterKind.OTHER
  )


@dataclasses.dataclass(frozen=True)
class MixRow:
  """One workload of the mix at its own optimum.

  Attributes:
    name: of the workload.
    phase: 'train', 'decode' or 'prefill'.
    tokens_per_s: its traffic.
    accelerators: busy ones that the traffic needs.
    power_W: of these.
    usd_per_Mtoken: cost of a million tokens, USD.
    joule_per_token: energy of one token, J.
    step_time_s: of one replica.
    mesh: such as 'tensor 8'.
    placement: such as 'KV cache 30 % in CXL'.
  """

  name: str
  phase: str = ''
  tokens_per_s: float | None = None
  accelerators: float | None = None
  power_W: float | None = None
  usd_per_Mtoken: float | None = None
  joule_per_token: float | None = None
  step_time_s: float | None = None
  mesh: str = ''
  placement: str = ''


@dataclasses.dataclass(frozen=True)
class AccountPart:
  """One bar of a waterfall.

  Attributes:
    name: such as 'HBM, path'.
    value: what it adds; negative where it takes away (overlapped time).
    kind: parts of one kind share a colour: 'purchase', 'device', 'path'.
  """

  name: str
  value: float
  kind: str = ''


@dataclasses.dataclass(frozen=True)
class Account:
  """Where money, time or energy goes; its parts add up to the total.

  Attributes:
    quantity: 'Cost', 'Time' or 'Energy'.
    unit: of all values: 'USD', 's' or 'J'.
    per: what it is for, such as 'million tokens'.
    parts: from top to bottom.
    total: their sum, computed apart from them.

  Raises:
    ValueError: the parts differ from the total by more than 1e-9 of their
      absolute sum.
  """

  quantity: str
  unit: str
  per: str
  parts: Sequence[AccountPart]
  total: float

  def __post_init__(self):
    values = [part.value for part in self.parts]
    room = BALANCE * max(abs(self.total), sum(map(abs, values)))
    if not abs(math.fsum(values) - self.total) <= room:
      raise ValueError(
        f'{self.quantity} per {self.per}: the parts add up to '
        f'{math.fsum(values)!r} {self.unit}, the total is {self.total!r}'
      )


@dataclasses.dataclass(frozen=True)
class Elasticity:
  """What one parameter is worth, at the re-optimised plan.

  Attributes:
    parameter: full name, such as 'HBM.read_Bps'.
    value: percent change of the objective for one percent more of it.
    lo: lower end of the 90 % interval over the fit's ensemble.
    hi: its upper end.
    worth: value of one more unit, in `worth_unit`; positive where it helps.
    worth_lo: lower end of its interval.
    worth_hi: upper end.
    worth_unit: such as 'USD per GB/s'.
    note: such as 'prior only'.
    kind: None takes it from the name.
  """

  parameter: str
  value: float
  lo: float | None = None
  hi: float | None = None
  worth: float | None = None
  worth_lo: float | None = None
  worth_hi: float | None = None
  worth_unit: str = ''
  note: str = ''
  kind: ParameterKind | None = None


@dataclasses.dataclass(frozen=True)
class Tornado:
  """All elasticities of one objective.

  Attributes:
    objective: such as 'cost per token'.
    rows: in any order.
    basis: of the engineers' units: 'per accelerator and year'.
  """

  objective: str
  rows: Sequence[Elasticity]
  basis: str = ''


@dataclasses.dataclass(frozen=True)
class Change:
  """A change in percent with its 90 % interval."""

  value: float
  lo: float | None = None
  hi: float | None = None


@dataclasses.dataclass(frozen=True)
class WhatIf:
  """A named change of the hardware and what it does to the mix.

  Attributes:
    name: such as 'HBM3E -> HBM4'.
    tokens_per_s: change at the same accelerators, percent.
    joule_per_token: change, percent.
    usd_per_token: change, percent.
    pays: probability that it pays at `price`.
    price: the price that was assumed, as it should be read.
    break_even_usd_per_GB: up to which price it pays; None where there is no
      such price (`note` says why).
    plan: the new optimal plan in a few words.
    note: what was assumed.
  """

  name: str
  tokens_per_s: Change | None = None
  joule_per_token: Change | None = None
  usd_per_token: Change | None = None
  pays: float | None = None
  price: str = ''
  break_even_usd_per_GB: Change | None = None
  plan: str = ''
  note: str = ''


@dataclasses.dataclass(frozen=True)
class TextTable:
  """A table of texts, such as a design beside today's.

  Attributes:
    title: short.
    head: of the columns; the first names the rows.
    rows: one text per column.
  """

  title: str
  head: Sequence[str]
  rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Search:
  """How design searches came down.

  Attributes:
    objective: such as 'Cost per million tokens'.
    unit: of it.
    methods: best value so far against evaluations.
    best_known: the best design by any means.
    within: share above it that counts as found.
    tables: the design that was found, its budgets.
    help: what came out, in a sentence.
  """

  objective: str
  unit: str
  methods: Sequence[Series]
  best_known: float | None = None
  within: float = 0.01
  tables: Sequence[TextTable] = ()
  help: str = ''


@dataclasses.dataclass(frozen=True)
class Measurement:
  """A trace that would tell something.

  Attributes:
    name: such as 'decode_attention on HBM, 64 MB, idle'.
    reduction: expected drop of the decision's uncertainty, percent.
    lo: lower end of its interval.
    hi: upper end.
    tells: the parameters that it tells.
    command: how `collect` takes it.
    after: what it drops after all those before it, percent; then the order
      is kept and this is what the bars show.
  """

  name: str
  reduction: float
  lo: float | None = None
  hi: float | None = None
  tells: str = ''
  command: str = ''
  after: float | None = None


@dataclasses.dataclass(frozen=True)
class CodesignData:
  """Everything that the co-design part of a report may show.

  Attributes:
    mix: the workloads, each at its optimum.
    accounts: cost, time and energy of a token, by tier and engine.
    tornados: elasticities, one objective each.
    what_ifs: named changes of the hardware.
    fronts: two metrics of several designs.
    maps: a metric over two parameters.
    search: the design search.
    supply: parts over quarters.
    kv: economics of KV capacity.
    retrieval: storage for vector search.
    measurements: what to measure next, in any order.
  """

  mix: Sequence[MixRow] = ()
  accounts: Sequence[Account] = ()
  tornados: Sequence[Tornado] = ()
  what_ifs: Sequence[WhatIf] = ()
  fronts: Sequence[Front] = ()
  maps: Sequence[Sensitivity] = ()
  search: Search | None = None
  supply: Supply | None = None
  kv: KvCapacity | None = None
  retrieval: Sequence[Retrieval] = ()
  measurements: Sequence[Measurement] = ()
