"""A fleet as a user writes it: parts, memories, workloads, rates, scenarios.

    name = 'serving-2027'
    first_quarter = '2027Q1'
    quarters = 8
    site_MW = [8, 8, 12]                 # the last value lasts

    [parts.h200-sxm]
    price_usd = 35000                    # with its memory, before shortages
    date = '2026-06'
    source = 'where it was read'
    memory_GB = { HBM = 141 }            # soldered to it
    lead_quarters = 3
    supply = 2000                        # most that is delivered in a quarter
    existing = 500

    [memories.HBM]
    soldered = true
    supply_GB = 2.0e6                    # reserved already, by quarter
    lead_quarters = 7

    [[workloads]]
    name = 'chat'
    demand_tokens_per_s = 2.0e6
    growth_per_quarter = 0.15
    unmet_usd_per_Mtok = 2.0             # or hard = true

    [[rates]]
    workload = 'chat'
    part = 'h200-sxm'
    variant = 'hbm'
    tokens_per_s = 700                   # of one accelerator
    power_W = 450
    source = 'where it was measured'

Amounts by quarter are a number or a list whose last value lasts; counts of
things that happen once (`contracted`, `retire`) are lists that end in zeros.
"""

import re
from collections.abc import Mapping
from typing import Annotated

import pydantic

_Positive = Annotated[float, pydantic.Field(gt=0)]
_NotNegative = Annotated[float, pydantic.Field(ge=0)]
_Whole = Annotated[int, pydantic.Field(ge=0)]
_Count = Annotated[int, pydantic.Field(ge=1)]
_Text = Annotated[str, pydantic.Field(min_length=3)]
_Date = Annotated[str, pydantic.Field(pattern=r'^\d{4}(-\d{2}){0,2}$')]
# A number, or one for each quarter; the last one lasts.
_List = Annotated[tuple[_NotNegative, ...], pydantic.Field(min_length=1)]
Amounts = _NotNegative | _List
_QUARTER = re.compile(r'^(\d{4})Q([1-4])$')


class _Strict(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(frozen=True, extra='forbid')


class PartType(_Strict):
  """One type of accelerator with the memory that is soldered to it.

  Attributes:
    price_usd: of one with its share of a server and its memory, at the
      memories' own prices [USD].
    date: of the price.
    source: of the price.
    memory_GB: soldered memory -> GB (1e9 bytes) of one part.
    lead_quarters: from order to service.
    lead_source: who says so.
    assembly_quarters: before delivery, when its soldered memory is needed.
    supply: most that is delivered in each quarter; None for no limit.
    existing: in service when the first quarter begins.
    retire: of those, how many leave at the beginning of each quarter.
    contracted: ordered already, with their memory: deliveries by quarter.
    years_of_service: after which one leaves, and over which it is financed.
    deposit_share: of the price, paid at the order.
    host_W: of the server around it: processors, fans, network [W].
    system: checkpoint or catalog name, for rates from the planner.
  """

  price_usd: _Positive
  date: _Date
  source: _Text
  memory_GB: Mapping[str, _Positive] = {}
  lead_quarters: _Whole
  lead_source: _Text = 'assumption'
  assembly_quarters: _Whole = 1
  supply: Amounts | None = None
  existing: _NotNegative = 0
  retire: tuple[_NotNegative, ...] = ()
  contracted: tuple[_NotNegative, ...] = ()
  years_of_service: _Positive = 5.0
  deposit_share: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.0
  host_W: _NotNegative = 0.0
  system: str | None = None


class Memory(_Strict):
  """A kind of memory: soldered to parts, or bought in pools.

  Attributes:
    soldered: comes with a part and limits how many can be built; otherwise
      bought by the GB and filled by variants.
    usd_per_GB: None for `memory_usd_per_GB` of the price file.
    lead_quarters: from order to delivery.
    lead_source: who says so.
    supply_GB: soldered: reserved already, by quarter; what is left over stays.
      A pool: most that is delivered in a quarter. None for no limit.
    orderable_GB: soldered: most that can be ordered on top for delivery in
      each quarter.
    reservation_share: of the price, paid for what is ordered on top.
    existing_GB: of a pool, in service when the first quarter begins.
    years_of_service: of a pool, after which it leaves.
  """

  soldered: bool = False
  usd_per_GB: _Positive | None = None
  lead_quarters: _Whole = 0
  lead_source: _Text = 'assumption'
  supply_GB: Amounts | None = None
  orderable_GB: Amounts = 0.0
  reservation_share: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.0
  existing_GB: _NotNegative = 0.0
  years_of_service: _Positive = 5.0


class Workload(_Strict):
  """What must run.

  Attributes:
    name: of the workload.
    demand_tokens_per_s: in the first quarter or in each, as a mean.
    growth_per_quarter: on top; 0.1 is 10 % more each quarter.
    unmet_usd_per_Mtok: what a million tokens cost that are not served.
    hard: whether nothing may stay unserved.
    model: of `diffmem.workloads`, for rates from the planner, as below.
    phase: 'train' or 'decode'.
    chips: accelerators of one replica, by part or for all.
    batch: sequences decoded at once on one replica, by part or for all.
    context: cached tokens of each.
    seq_len: of a training sequence.
    global_batch_tokens: of a training step.
    dtype: number format of its matrix products.
    variants: names of placements that are planned.
  """

  name: str
  demand_tokens_per_s: Amounts
  growth_per_quarter: Annotated[float, pydantic.Field(gt=-1)] = 0.0
  unmet_usd_per_Mtok: _Positive | None = None
  hard: bool = False
  model: str | None = None
  phase: Annotated[str, pydantic.Field(pattern='^(train|decode)$')] = 'decode'
  chips: _Count | Mapping[str, _Count] = 8
  batch: _Count | Mapping[str, _Count] = 128
  context: _Count = 8192
  seq_len: _Count = 8192
  global_batch_tokens: _Count = 2**20
  dtype: str = 'bfloat16'
  variants: tuple[str, ...] = ()

  @pydantic.model_validator(mode='after')
  def _priced(self):
    if self.hard == (self.unmet_usd_per_Mtok is not None):
      raise ValueError('expected either unmet_usd_per_Mtok or hard = true')
    return self


class Variant(_Strict):
  """A placement for the planner.

  Attributes:
    memories: only these may hold tensors; empty for all.
    homes: tensor group -> memories where it may live.
    batch_scale: of the workload's batch.
  """

  memories: tuple[str, ...] = ()
  homes: Mapping[str, tuple[str, ...]] = {}
  batch_scale: _Positive = 1.0


class Rate(_Strict):
  """What one accelerator does for a workload.

  Attributes:
    workload: name.
    part: name.
    variant: name of the placement.
    tokens_per_s: of one accelerator of a replica.
    power_W: of its board while it works.
    memory_GB: memory -> GB that it fills; of pools, what must be bought.
    source: a run, or the plan of a checkpoint.
  """

  workload: str
  part: str
  variant: str = 'hbm'
  tokens_per_s: _Positive
  power_W: _NotNegative
  memory_GB: Mapping[str, _NotNegative] = {}
  source: _Text


class Scenario(_Strict):
  """Prices, supply and demand as factors by quarter.

  Attributes:
    help: one line.
    date: when it was written down.
    source: why.
    price: part or memory -> factor; 'energy' too. A price is that of the
      quarter of the order.
    supply: part or memory -> factor of what is reserved or delivered; 'power'
      for the site.
    demand: workload -> factor; 'all' for each that is not named.
    later_quarters: part or memory -> quarters on top of the lead time.
  """

  help: str = ''
  date: _Date | None = None
  source: str = ''
  price: Mapping[str, Amounts] = {}
  supply: Mapping[str, Amounts] = {}
  demand: Mapping[str, Amounts] = {}
  later_quarters: Mapping[str, _Whole] = {}


class Fleet(_Strict):
  """Everything that is known of a fleet.

  Attributes:
    name: for titles.
    first_quarter: such as '2027Q1'.
    quarters: how many are planned.
    discount_rate: of a year, of future payments.
    finance_rate: of a year, at which parts are paid off.
    busy_share: of the hours, in which an accelerator serves.
    energy_usd_per_kWh: None for the price file's grid.
    energy_over_device_energy: PUE; None for the price file's.
    site_MW: power of the site; None for no limit.
    parts: by name.
    memories: by name.
    workloads: one after the other.
    variants: for rates from the planner.
    rates: what each part does for each workload.
    scenarios: by name, beside the built-in ones.
  """

  name: str
  first_quarter: Annotated[str, pydantic.Field(pattern=_QUARTER.pattern)]
  quarters: Annotated[int, pydantic.Field(ge=1, le=60)]
  discount_rate: _NotNegative = 0.08
  finance_rate: _NotNegative = 0.08
  busy_share: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
  energy_usd_per_kWh: _Positive | None = None
  energy_over_device_energy: (
    Annotated[float, pydantic.Field(ge=1)] | None
  ) = None  # fmt: skip
  site_MW: Amounts | None = None
  parts: Annotated[Mapping[str, PartType], pydantic.Field(min_length=1)]
  memories: Mapping[str, Memory] = {}
  workloads: Annotated[tuple[Workload, ...], pydantic.Field(min_length=1)]
  variants: Mapping[str, Variant] = {}
  rates: tuple[Rate, ...] = ()
  scenarios: Mapping[str, Scenario] = {}

  @property
  def labels(self) -> tuple[str, ...]:
    """Names of the quarters: '2027Q1', '2027Q2', ..."""
    return tuple(quarter(self.first_quarter, i) for i in range(self.quarters))

  @pydantic.model_validator(mode='after')
  def _consistent(self):
    problems = [*_unknown_names(self), *_wrong_lengths(self)]
    if problems:
      raise ValueError('; '.join(problems))
    return self


def quarter(first: str, later: int) -> str:
  """The name of a quarter, `later` after `first`; before it if negative.

  Examples:
    >>> quarter('2027Q3', 2), quarter('2027Q1', -1)
    ('2028Q1', '2026Q4')
  """
  year, number = map(int, _QUARTER.match(first).groups())
  index = 4 * year + number - 1 + later
  return f'{index // 4}Q{index % 4 + 1}'


def _unknown_names(fleet: Fleet) -> list[str]:
  """What is named without being there, or twice."""
  names = [w.name for w in fleet.workloads]
  problems = [f'workloads: {n!r} twice' for n in names if names.count(n) > 1]
  for name, part in fleet.parts.items():
    for memory in part.memory_GB:
      if memory not in fleet.memories or not fleet.memories[memory].soldered:
        problems.append(
          f'parts.{name}.memory_GB.{memory}: expected a soldered memory of '
          f'[memories], which has {", ".join(fleet.memories) or "none"}'
        )
  keys = [(r.workload, r.part, r.variant) for r in fleet.rates]
  for i, rate in enumerate(fleet.rates):
    if keys.count(keys[i]) > 1:
      problems.append(f'rates.{i}: {keys[i]} twice')
    if rate.workload not in names:
      problems.append(f'rates.{i}.workload: no workload {rate.workload!r}')
    if rate.part not in fleet.parts:
      problems.append(f'rates.{i}.part: no part {rate.part!r}')
    problems += _overfull(fleet, i, rate)
  for workload in fleet.workloads:
    problems += [
      f'workloads.{workload.name}.variants: no variant {v!r}'
      for v in workload.variants
      if v not in fleet.variants
    ]
  return problems


def _overfull(fleet: Fleet, i: int, rate: Rate) -> list[str]:
  part = fleet.parts.get(rate.part)
  problems = []
  for memory, size_GB in rate.memory_GB.items():
    if memory not in fleet.memories:
      problems.append(f'rates.{i}.memory_GB.{memory}: no such memory')
    elif fleet.memories[memory].soldered and part is not None:
      most_GB = part.memory_GB.get(memory, 0.0)
      if size_GB > most_GB * (1 + 1e-9):
        problems.append(
          f'rates.{i}.memory_GB.{memory}: {size_GB:g} GB, but {rate.part} has '
          f'{most_GB:g}'
        )
  return problems


def _wrong_lengths(fleet: Fleet) -> list[str]:
  problems = []
  for name, part in fleet.parts.items():
    for field in ('retire', 'contracted'):
      if len(getattr(part, field)) > fleet.quarters:
        problems.append(
          f'parts.{name}.{field}: more than {fleet.quarters} quarters'
        )
    if sum(part.retire) > part.existing:
      problems.append(
        f'parts.{name}.retire: {sum(part.retire):g} of {part.existing:g}'
      )
  return problems
