"""Tables of `experiments.kv_capacity`."""

import math

from experiments import program

_GB = 1e9
# Rows of a curve that are printed.
_POINTS = 16
# Prefix lengths of the boundary that are printed.
_LENGTHS = (1024, 4096, 16384, 65536, 131072)


def show(found, tiers, trace, maps, idle=()) -> None:
  """Prints an answer of `kv_capacity` or `patience`, and the boundaries."""
  print(
    f'{trace.source}: {len(trace.arrival_s):,} requests in '
    f'{trace.duration_s:,.0f} s, {trace.prompt_tokens.mean():,.0f} prompt '
    f'tokens in the mean; judged at {found.requests_per_s:.3g} requests/s'
  )
  if trace.blocks is None:
    _print_patience(found, tiers)
  else:
    _print_curve(found, tiers)
    _print_purchase('Best purchase', found, found.chosen, found.next_GB, tiers)
    if found.given:
      _print_purchase('As asked', found, found.given, found.given_next_GB,
                      tiers)  # fmt: skip
    _print_costs(found)
  for one in maps:
    _print_boundary(one)
  if idle:
    program.table(
      'Caches of silent sessions, for the plan of a decode step (kv_idle_0 on)',
      ['group', 'tokens', 'reads per step'],
      [
        [f'{i}', f'{group.tokens:,.0f}', f'{group.reads_per_step:.3g}']
        for i, group in enumerate(idle)
      ],
    )
  if found.help:
    print(found.help)


def _print_patience(found, tiers) -> None:
  mean, median, high = found.prompt_tokens
  print(
    f'prompts: mean {mean:,.0f}, median {median:,.0f}, 90th percentile '
    f'{high:,.0f} tokens; without reuse {found.accelerators:.3g} accelerators '
    f'are busy, {1e6 * found.usd_per_token:.3g} USD per million tokens'
  )
  program.table(
    'How long a token may wait for a sure reuse and still pay',
    ['tier', 'USD/GB', 'patience', 'room to keep all that long, GB'],
    [
      [one.tier, f'{tier.usd_per_GB:g}', _time(one.patience_s),
       f'{one.room_B / _GB:,.0f}']
      for one, tier in zip(found.tiers, tiers, strict=True)
    ],
  )  # fmt: skip


def _print_curve(found, tiers) -> None:
  curve = found.curve
  last = len(curve.capacity_B) - 1
  # From where more than the most popular blocks hits.
  low = next(i for i in range(last + 1) if curve.capacity_B[i] > 1e10) \
    if curve.capacity_B[-1] > 1e11 else 0  # fmt: skip
  places = sorted({
    low + round(k * (last - low) / (_POINTS - 1)) for k in range(_POINTS)
  })  # fmt: skip
  worth = [t.name for t in tiers]
  program.table(
    'Hits against capacity, and the price below which the next GB pays '
    '(90 % intervals)',
    ['GB', 'kept for', 'hits %', '90 %',
     *(f'{n}, USD/GB' for n in worth), f'90 %, {worth[-1]}'],
    [
      [
        f'{curve.capacity_B[i] / _GB:,.0f}',
        _time(curve.lifetime_s[i]),
        f'{100 * curve.hit[0, i]:.1f}',
        f'{100 * curve.hit[1, i]:.1f} to {100 * curve.hit[2, i]:.1f}',
        *(f'{curve.worth_usd_per_GB[n][0, i]:.2f}' for n in worth),
        f'{curve.worth_usd_per_GB[worth[-1]][1, i]:.2f} to '
        f'{curve.worth_usd_per_GB[worth[-1]][2, i]:.2f}',
      ]
      for i in places
    ],
  )  # fmt: skip
  print(f'the trace can tell about up to {found.supported_B / _GB:,.0f} GB')


def _print_purchase(title, found, bill, next_GB, tiers) -> None:
  rows = []
  for tier, more in zip(tiers, next_GB, strict=True):
    name = tier.name
    size = f'{bill.capacity_B[name] / _GB:,.4g}'
    spread = ''
    if bill is found.chosen:
      low, high = found.chosen_B[name][1:]
      spread = f'{low / _GB:,.4g} to {high / _GB:,.4g}'
    value, last = more.breakeven_usd_per_GB, more.last_usd_per_GB
    rows.append([
      name, size, spread, f'{100 * bill.hit[name]:.2f}',
      f'{3600 * bill.memory_usd_per_s[name]:.3g}'
      + (' (wear)' if name in bill.worn else ''),
      f'{bill.written_Bps[name] / _GB:.3g}',
      f'{value.value:.3g}', f'{value.low:.3g} to {value.high:.3g}',
      '' if last is None else f'{last.value:.3g}', f'{tier.usd_per_GB:g}',
      _time(more.patience_s),
    ])  # fmt: skip
  program.table(
    f'{title}: what each tier holds, and what one GB more of it is worth',
    ['tier', 'GB', '90 %', 'hits %', 'USD/h', 'written GB/s',
     'next GB, USD', '90 %', 'last GB, USD', 'price', 'patience'],
    rows,
    width=140,
  )  # fmt: skip


def _print_costs(found) -> None:
  named = [('no reuse', found.none), ('best', found.chosen)]
  named += [('as asked', found.given)] if found.given else []
  rows = []
  for name, bill in named:
    rest = [
      sum(part.values())
      for part in (
        bill.memory_usd_per_s, bill.power_usd_per_s, bill.moving_usd_per_s
      )
    ]  # fmt: skip
    less = 100 * (1 - bill.usd_per_token / found.none.usd_per_token)
    rows.append([
      name, f'{100 * sum(bill.hit.values()):.1f}', f'{bill.accelerators:.3g}',
      f'{100 * bill.link_busy:.2g}',
      *(f'{3600 * v:.3g}' for v in (bill.accelerators_usd_per_s, *rest)),
      f'{1e6 * bill.usd_per_token:.4g}', f'{less:.1f}',
    ])  # fmt: skip
  program.table(
    'What prompts cost',
    ['', 'hits %', 'accelerators', 'links busy %', 'accelerators USD/h',
     'memory', 'its power', 'moving', 'USD/M tokens', 'less %'],
    rows,
    width=140,
  )  # fmt: skip
  value, low, high = (3600 * v for v in found.saving_usd_per_s)
  print(f'the best saves {value:.3g} USD/h (90 %: {low:.3g} to {high:.3g})')


def _print_boundary(one) -> None:
  import numpy as np

  lengths = [n for n in _LENGTHS if n <= one.prefix_tokens[-1] * 1.001]
  rows = [
    [
      f'{n:,}',
      *(
        f'{np.interp(n, one.prefix_tokens, values) / _GB:.3g}'
        for values in (one.boundary_Bps, *one.tier_Bps.values())
      ),
    ]
    for n in lengths
  ]
  program.table(
    f'{one.model}: reloading is quicker than computing above so many GB/s',
    ['prefix tokens', 'boundary', *one.tier_Bps],
    rows,
  )
  for name, tokens in one.crossing_tokens.items():
    print(
      f'{name}: '
      + (
        'computing is always quicker'
        if math.isinf(tokens)
        else 'reloading is always quicker'
        if tokens <= one.prefix_tokens[0]
        else f'reloading is quicker above {tokens:,.0f} tokens'
      )
    )


def _time(seconds: float) -> str:
  if math.isinf(seconds):
    return 'all of it'
  for unit, size in (('d', 86400.0), ('h', 3600.0), ('min', 60.0)):
    if seconds >= 2 * size:
      return f'{seconds / size:.3g} {unit}'
  return f'{seconds:.2g} s'
