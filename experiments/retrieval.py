"""Chooses storage tiers for vector retrieval: layout, HBM, DRAM, SSD, machines.

  python -m experiments.retrieval --corpus=bigann-1B --queries_per_s=50000 \
    --recall=0.95 --latency='10 ms' --percentile=0.99
  python -m experiments.retrieval --vectors=2e10 --vector_B=768 \
    --point=41:0.89 --point=85:0.97 --code_B=96 --queries_per_s=10000 \
    --recall=0.95 --latency='20 ms'
  python -m experiments.retrieval --sensitivity --json=runs/retrieval.json \
    --report=runs/retrieval.html

Each takes about 6 s of processor time, most of it for loading; --sensitivity
adds 6 s. The first answers `graph in DRAM` on 1 machine, about 4 kUSD a year,
with `graph on SSD` on 2 machines behind it at 6.8 kUSD, and 0.006 J per query.
The laws were held out on public runs: `benchmarks/retrieval_truth.py` prints
the errors (DiskANN queries/s 2 to 6 %, FAISS 6 to 19 %, other software or
machines 6 to 135 %). Exit code 2 where nothing serves.
"""

from absl import flags

from experiments import program

_CORPUS = flags.DEFINE_string(
  'corpus', 'bigann-1B', 'How hard the index is to search: a public data set.'
)
_VECTORS = flags.DEFINE_float('vectors', 1e9, 'In the index.', 1e4)
_VECTOR_B = flags.DEFINE_float(
  'vector_B', None, 'Bytes of a vector of your own, with --point.', 1
)
_POINTS = flags.DEFINE_multi_string(
  'point', [], 'Measured reads:recall of your own graph; at least two.'
)
_CODE_B = flags.DEFINE_float(
  'code_B', 50.0, 'Bytes of its codes when the points were measured.', 1
)
_RATE = flags.DEFINE_float('queries_per_s', 50e3, 'Of all machines.', 0)
_RECALL = flags.DEFINE_float('recall', 0.95, 'Of the 10 nearest.', 0, 1)
_LATENCY = flags.DEFINE_string('latency', '10 ms', 'Limit of a query.')
_PERCENTILE = flags.DEFINE_float(
  'percentile', None, 'Share of queries within it; by default the mean.', 0, 1
)
_COPIES = flags.DEFINE_integer('copies', 1, 'Least copies of the index.', 1)
_MOST_BUSY = flags.DEFINE_float(
  'most_busy', 0.8, 'Share of time that threads and drives may work.', 0, 1
)
_HOST = flags.DEFINE_string('host', 'xeon', 'Host of the parts file.')
_HOST_SYSTEM = flags.DEFINE_string(
  'host_system', 'checkpoints/sapphire-rapids-ddr5',
  'Its memory: checkpoint folder, catalog name or TOML.',
)  # fmt: skip
_DRIVE_SYSTEM = flags.DEFINE_string(
  'drive_system', 'checkpoints/nvme-ssd', 'Its drives, likewise.'
)
_ACCELERATOR = flags.DEFINE_string(
  'accelerator', 'h100-sxm', "For layouts in HBM; '' for none."
)
_PARTS = flags.DEFINE_string('parts', None, 'Machines and data sets (TOML).')
_PRICES = flags.DEFINE_string('prices', None, 'Prices (TOML).')
_SENSITIVITY = flags.DEFINE_bool(
  'sensitivity', False, 'Cost against rate and recall too.'
)
_JSON = flags.DEFINE_string('json', None, "File to write, '-' for stdout.")
_REPORT = flags.DEFINE_string('report', None, 'HTML file to write.')

_YEAR_S = 365.25 * 86400.0
_RATES = (0.1, 0.3, 1.0, 3.0, 10.0)  # Of the rate asked for.
_RECALLS = (0.8, 0.85, 0.9, 0.95, 0.97)


def main() -> None:
  from diffmem.codesign.retrieval import tiers as retrieval_tiers
  from diffmem.codesign.retrieval.parts import load_parts
  from diffmem.cost import prices

  parts = load_parts(_PARTS.value)
  question = _question(parts)
  priced = prices.load_prices(_PRICES.value)
  sites = _sites(parts, priced)
  found = retrieval_tiers.plan_retrieval(question, sites)
  document = {'question': _asked(question), **found.to_dict()}
  spans = [
    retrieval_tiers.interval90_usd_per_s(question, sites, d.candidate.layout)
    for d in found.designs
  ]
  for one, span in zip(document['designs'], spans, strict=True):
    one['interval90_usd_per_s'] = [_finite(v) for v in span]
  table = None
  if _SENSITIVITY.value and found.designs:
    table = retrieval_tiers.sensitivity(
      question, sites, [question.queries_per_s * r for r in _RATES], _RECALLS
    )
    table['break_even_usd_per_GB'] = retrieval_tiers.break_even_usd_per_GB(
      question, sites, priced
    )
    document['sensitivity'] = table
  if _JSON.value != '-' and found.designs:
    _print(question, found, spans, table)
  program.write_json(_JSON.value, document)
  if not found.designs:
    program.refuse(found.help)
  if _REPORT.value:
    _write_report(question, found, table)


def _write_report(question, found, table) -> None:
  from diffmem import report
  from diffmem.report import codesign_data

  part = report.retrieval_part(found, question.queries_per_s, table)
  report.write_report(
    _REPORT.value,
    report.ReportData(
      title=f'{question.vectors:.3g} vectors at {question.queries_per_s:,.0f} '
      f'queries/s, recall {question.recall:g}',
      codesign=codesign_data.CodesignData(retrieval=[part]),
      provenance=report.provenance(program.command_line(), {}, None),
    ),
  )
  print(f'wrote {_REPORT.value}')


def _question(parts):
  from diffmem import units
  from diffmem.codesign.retrieval import layouts as retrieval_layouts
  from diffmem.codesign.retrieval import parts as retrieval_parts

  if _POINTS.value or _VECTOR_B.value:
    if not (_POINTS.value and _VECTOR_B.value):
      program.refuse('--point and --vector_B are needed together')
    corpus = retrieval_parts.corpus_of(
      _VECTOR_B.value, _measured(), code_B=_CODE_B.value
    )
  elif _CORPUS.value not in parts.corpora:
    program.refuse(
      f'--corpus={_CORPUS.value}: expected one of {", ".join(parts.corpora)}'
    )
  else:
    corpus = parts.corpora[_CORPUS.value]
  return retrieval_layouts.Question(
    corpus=corpus,
    vectors=_VECTORS.value,
    queries_per_s=_RATE.value,
    recall=_RECALL.value,
    latency_s=units.parse(_LATENCY.value, 's'),
    percentile=_PERCENTILE.value,
    copies=_COPIES.value,
    most_busy=_MOST_BUSY.value,
  )


def _measured() -> list[tuple[float, float]]:
  points = []
  for text in _POINTS.value:
    reads, _, found = text.partition(':')
    try:
      points.append((float(reads), float(found)))
    except ValueError:
      program.refuse(f'--point={text}: expected reads:recall, as 41:0.89')
  return points


def _sites(parts, prices):
  from diffmem import checkpoint
  from diffmem.codesign.retrieval import site as retrieval_site

  name = _ACCELERATOR.value or None
  part = parts.accelerators.get(name) if name else None
  return retrieval_site.sites_of(
    parts,
    prices,
    host=_HOST.value,
    host_system=checkpoint.load_system(_HOST_SYSTEM.value).system,
    drive_system=checkpoint.load_system(_DRIVE_SYSTEM.value).system,
    accelerator=name,
    accelerator_system=part and checkpoint.load_system(part.system).system,
  )


def _asked(question) -> dict:
  fields = question._asdict()
  fields['corpus'] = question.corpus.model_dump()
  return fields


def _finite(value: float) -> float | None:
  return value if value < float('inf') else None


def _print(question, found, spans, table) -> None:
  limit = 'mean' if not question.percentile else f'{question.percentile:.0%}'
  print(
    f'{question.vectors:.3g} vectors of {question.corpus.vector_B:g} B, '
    f'{question.queries_per_s:,.0f} queries/s at recall {question.recall:g}, '
    f'{limit} within {question.latency_s * 1e3:g} ms'
  )
  _print_designs(question, found, spans)
  _print_values(found)
  print(found.help)
  for name, why in found.refused.items():
    print(f'not served by {name}: {why}')
  if table:
    _print_sensitivity(table)


def _print_designs(question, found, spans) -> None:
  def gigabytes(design, tier):
    return f'{design.memory_B.get(tier, 0.0) / 1e9:,.0f}'

  rows = []
  for one, span in zip(found.designs, spans, strict=True):
    candidate = one.candidate
    rows.append(
      [
        candidate.layout.name,
        f'{one.machines} = {one.copies} x {candidate.shards}',
        *(gigabytes(one, tier) for tier in ('HBM', 'DRAM', 'SSD')),
        f'{one.drives * one.machines}', f'{candidate.code_B:g}',
        f'{candidate.reranked:g}', f'{100 * one.busy:.0f}',
        f'{100 * one.drive_busy:.0f}', f'{one.latency_s * 1e3:.3g}',
        f'{one.query_J:.2g}', f'{one.to_dict()["usd_per_year"] / 1e3:,.1f}',
        ' to '.join(
          'none' if _finite(v) is None else f'{v * _YEAR_S / 1e3:,.1f}'
          for v in span
        ),
      ]
    )  # fmt: skip
  program.table(
    'Layouts, cheapest first, in whole machines',
    ['layout', 'machines', 'HBM GB', 'DRAM GB', 'SSD GB', 'drives', 'code B',
     're-ranked', 'busy %', 'drives %', 'ms', 'J/query', 'kUSD/year',
     '90 % unrounded'],
    rows, width=170,
  )  # fmt: skip


def _print_values(found) -> None:
  """Of the cheapest, and of the cheapest that reads drives."""
  shown = [found.designs[0]]
  shown += [d for d in found.designs if d.drives][:1]
  for one in shown if shown[0] is not shown[-1] else shown[:1]:
    name = one.candidate.layout.name
    program.table(
      f'What a unit more saves a year, {name}, before rounding',
      ['of', 'unit', 'saves', 'price'],
      [
        [v.what, v.unit, f'{v.usd_per_year:.3g}',
         '' if v.price_usd_per_year is None else f'{v.price_usd_per_year:.3g}']
        for v in one.values
      ],
    )  # fmt: skip


def _print_sensitivity(table) -> None:
  program.table(
    'USD per million queries before rounding, by queries/s and recall',
    ['queries/s', *(f'{r:g}' for r in table['recall'])],
    [
      [f'{rate:,.0f}', *('-' if c is None else f'{c:.3g}' for c in row)]
      for rate, row in zip(
        table['queries_per_s'], table['usd_per_million'], strict=True
      )
    ],
  )
  price = table['break_even_usd_per_GB']
  if price is None:
    print(
      'no price of DRAM from 0.01 to 1000 USD/GB makes graphs on SSD and '
      'in DRAM cost the same'
    )
  else:
    print(
      f'graphs on SSD and in DRAM cost the same, before rounding, at '
      f'{price:.3g} USD per GB of DRAM'
    )


if __name__ == '__main__':
  program.run(main)
