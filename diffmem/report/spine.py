"""The report: from `ReportData` to one self-contained HTML file."""

import os
import pathlib
import statistics
from collections.abc import Sequence

from diffmem.report import curves, model, parameters, planned, scales
from diffmem.report.codesign import codesign_sections
from diffmem.report.data import Machine, Provenance, ReportData
from diffmem.report.markup import Markup, join, tag
from diffmem.report.page import Section, render
from diffmem.report.scales import Kind
from diffmem.report.table import Cell, Column, Table, words


def write_report(path: str | os.PathLike, data: ReportData) -> pathlib.Path:
  """Writes the report; parts that `data` lacks are left out.

  Args:
    path: of the HTML file; missing folders are created.
    data: what to show.

  Returns:
    The path, as it was written.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  draft = path.with_name(f'.{path.name}.{os.getpid()}')
  draft.write_text(render_report(data), encoding='utf-8')
  os.replace(draft, path)
  return path


def render_report(data: ReportData) -> str:
  """The report as text."""
  found = [
    curves.latency_section(data.latency),
    curves.bandwidth_section(data.bandwidth),
    curves.loaded_section(data.loaded_latency),
    curves.disk_section(data.disk),
    model.roofline_section(data.roofline),
    model.held_out_section(data.held_out),
    model.programs_section(data.programs),
    planned.plan_section(data.plan),
    *codesign_sections(data.codesign),
    parameters.parameters_section(data.parameters),
    _provenance(data.provenance),
  ]
  sections = [section for section in found if section is not None]
  return render(data.title, _header(data), sections)


def _header(data: ReportData) -> Markup:
  """Title, facts and the headline in four cards at most."""
  machine = data.machine
  parts = [tag('h1', data.title)]
  if machine:
    said = [machine.name]
    if machine.measured_at:
      said.append(f'measured {machine.measured_at}')
    parts.append(tag('p', ' · '.join(said), class_='sub'))
    if machine.facts:
      parts.append(_facts(machine))
  cards = [
    _measured_card(machine),
    _noise_card(machine),
    _error_card(data),
    _plan_card(data),
  ]
  cards = [card for card in cards if card is not None]
  if cards:
    parts.append(tag('div', *cards, class_='cards-row'))
  return tag('header', *parts)


def _facts(machine: Machine) -> Markup:
  return tag(
    'dl',
    *(tag('div', tag('dt', k), tag('dd', v)) for k, v in machine.facts.items()),
    class_='facts',
  )


def _card(what: str, big: str, more: str, tone: str = '') -> Markup:
  return tag(
    'div',
    tag('div', what, class_='what'),
    tag('div', big, class_=f'big {tone}'.strip()),
    tag('div', more, class_='more') if more else None,
    class_='card',
  )


def _measured_card(machine: Machine | None) -> Markup | None:
  if machine is None or machine.observations is None:
    return None
  more = ''
  if machine.seconds is not None:
    more = f'in {scales.label(machine.seconds, "s", Kind.LINEAR)}'
  return _card('Measured', f'{machine.observations} observations', more)


def _noise_card(machine: Machine | None) -> Markup | None:
  if machine is None or machine.quiet is None:
    return None
  big, tone = ('✓ quiet', 'good') if machine.quiet else ('▲ noisy', 'warn')
  return _card('Noise', big, machine.noise, tone)


def _error_card(data: ReportData) -> Markup | None:
  """The median of the groups' medians, and the worst group."""
  medians = [
    g['median_ape'] for g in data.held_out if g.get('median_ape') is not None
  ]
  if not medians:
    return None
  more = (
    f'median error over {len(medians)} groups of unseen measurements; '
    f'worst group {max(medians):.1f} %'
  )
  return _card('Held-out error', f'{statistics.median(medians):.1f} %', more)


def _plan_card(data: ReportData) -> Markup | None:
  if data.plan is None or not data.plan.document.get('plans'):
    return None
  big, more = planned.headline(data.plan)
  flags = [
    text
    for text, on in (
      ('catalog prior', data.plan.system_is_prior),
      ('hypothetical workload', data.plan.workload_is_hypothetical),
    )
    if on
  ]
  return _card('Best plan', big, ' · '.join([more, *flags]))


def _provenance(provenance: Provenance | None) -> Section | None:
  """Versions, files, command and seed."""
  if provenance is None:
    return None
  rows = _provenance_rows(provenance)
  if not rows:
    return None
  table = Table(
    'provenance-table', 'Provenance', [Column('What'), Column('')],
    rows, cards=True, sortable=False,
  )  # fmt: skip
  return Section(
    'provenance', 'Provenance',
    'What is needed to make this page again and to check its inputs.',
    [table],
  )  # fmt: skip


def _provenance_rows(provenance: Provenance) -> Sequence[Sequence[Cell]]:
  rows = []
  if provenance.command:
    rows.append([words('Command'), Cell(tag('code', provenance.command))])
  if provenance.seed is not None:
    rows.append([words('Seed'), Cell(str(provenance.seed))])
  if provenance.created_at:
    rows.append([words('Written'), words(provenance.created_at)])
  if provenance.versions:
    said = ' · '.join(f'{k} {v}' for k, v in provenance.versions.items())
    rows.append([words('Versions'), words(said)])
  for path, digest in provenance.files.items():
    shown = join(tag('span', 'SHA-256 ', class_='sub'), tag('code', digest))
    rows.append([words(path), Cell(shown)])
  return rows
