"""Every payment of a plan, computed from its quantities and not from the LP.

Parts and pools are paid by the quarter of service; the workloads share a
quarter's payment by the accelerators, or GB, that they keep busy, and 'idle'
bears the rest.
"""

import numpy as np

from diffmem.codesign.fleet.inputs import QUARTER_S, Inputs
from diffmem.codesign.fleet.lp import Solution
from diffmem.codesign.fleet.result import IDLE, SHARED, Account, Line
from diffmem.codesign.fleet.supply import service


def account_of(inputs: Inputs, solution: Solution) -> Account:
  """The account of a plan; `balance` compares it with the objective."""
  book = _Book(inputs)
  _part_lines(book, inputs, solution)
  _pool_lines(book, inputs, solution)
  _reservation_lines(book, inputs, solution)
  _energy_lines(book, inputs, solution)
  _unmet_lines(book, inputs, solution)
  total = sum(line.present_usd for line in book.lines)
  scale = max(abs(solution.value_usd), 1e-9)
  return Account(
    lines=tuple(book.lines),
    balance=abs(total - solution.value_usd) / scale,
    owed_usd=_owed(inputs, solution),
  )


def in_service(inputs: Inputs, solution: Solution) -> np.ndarray:
  """Parts that serve [p, q]."""
  new = _serving(solution.o, inputs.part_life)
  return inputs.installed + new


def pools_in_service(inputs: Inputs, solution: Solution) -> np.ndarray:
  """GB of pools that serve [t, q]."""
  return inputs.pool_installed + _serving(solution.m, inputs.pool_life)


def _serving(delivered: np.ndarray, life: np.ndarray) -> np.ndarray:
  """What of deliveries [i, d] serves [i, q]."""
  n = delivered.shape[1]
  rows = [
    row @ service(int(one), n) for row, one in zip(delivered, life, strict=True)
  ]
  return np.array(rows).reshape(delivered.shape)


class _Book:
  """Lines as they come; amounts of zero leave none."""

  def __init__(self, inputs: Inputs):
    self.lines: list[Line] = []
    self._inputs = inputs

  def add(self, kind, item, workload, part, variant, q, usd) -> None:
    if usd == 0.0:
      return
    self.lines.append(
      Line(
        kind, item, workload, part, variant, self._inputs.labels[q],
        float(usd), float(usd * self._inputs.discount[q]),
      )
    )  # fmt: skip

  def share(self, kind, item, q, usd, users, amounts, whole, part='') -> None:
    """Shares a payment among rates by what they use of the whole."""
    if usd == 0.0:
      return
    inputs, left = self._inputs, usd
    for r, amount in zip(users, amounts, strict=True):
      if amount > 0 and whole > 0:
        mine = usd * amount / whole
        w, p = inputs.rates[r]
        self.add(
          kind, item, inputs.workloads[w], inputs.parts[p], inputs.variants[r],
          q, mine,
        )  # fmt: skip
        left -= mine
    self.add(kind, item, IDLE, part, '', q, left)


def _part_lines(book: _Book, inputs: Inputs, solution: Solution) -> None:
  n = len(inputs.labels)
  whole = in_service(inputs, solution)
  for p, part in enumerate(inputs.parts):
    serves = service(int(inputs.part_life[p]), n)
    users = np.flatnonzero(inputs.rates[:, 1] == p)
    items = [('part', part, inputs.part_payment[p])] + [
      ('memory', name, inputs.solder_payment[p, s])
      for s, name in enumerate(inputs.soldered)
    ]
    for kind, item, payment in items:
      due = solution.o[p] * payment + inputs.contracted[p] * payment[0]
      for q, usd in enumerate(due @ serves):
        amounts = solution.x[users, q]
        book.share(kind, item, q, usd, users, amounts, whole[p, q], part)


def _pool_lines(book: _Book, inputs: Inputs, solution: Solution) -> None:
  n = len(inputs.labels)
  whole = pools_in_service(inputs, solution)
  users = np.arange(len(inputs.rates))
  for t, name in enumerate(inputs.pools):
    due = solution.m[t] * inputs.pool_payment[t]
    for q, usd in enumerate(due @ service(int(inputs.pool_life[t]), n)):
      amounts = solution.x[:, q] * inputs.pool_GB[:, t]
      book.share('memory', name, q, usd, users, amounts, whole[t, q])


def _reservation_lines(book: _Book, inputs: Inputs, solution: Solution) -> None:
  for s, name in enumerate(inputs.soldered):
    for d, size_GB in enumerate(solution.n[s]):
      ordered = max(d - int(inputs.solder_lead[s]), 0)
      usd = size_GB * inputs.reservation_usd[s, d]
      book.add('reservation', name, SHARED, '', '', ordered, usd)


def _energy_lines(book: _Book, inputs: Inputs, solution: Solution) -> None:
  for r, (w, p) in enumerate(inputs.rates):
    joules = inputs.site_W[r] * solution.x[r] * inputs.busy_share * QUARTER_S
    for q, usd in enumerate(joules * inputs.energy_usd_per_J):
      book.add(
        'energy', inputs.parts[p], inputs.workloads[w], inputs.parts[p],
        inputs.variants[r], q, usd,
      )  # fmt: skip


def _unmet_lines(book: _Book, inputs: Inputs, solution: Solution) -> None:
  for w, name in enumerate(inputs.workloads):
    if np.isfinite(inputs.unmet_usd[w]):
      for q, usd in enumerate(solution.u[w] * inputs.unmet_usd[w]):
        book.add('unmet', 'unmet', name, 'unmet', '', q, usd)


def _owed(inputs: Inputs, solution: Solution) -> float:
  """Payments after the last quarter, undiscounted [USD]."""
  n = len(inputs.labels)
  paid = n - np.arange(n)
  payment = inputs.part_payment + inputs.solder_payment.sum(1)
  left = np.maximum(inputs.part_life[:, None] - paid, 0)
  due = (solution.o * payment + inputs.contracted * payment[:, :1]) * left
  pool_left = np.maximum(inputs.pool_life[:, None] - paid, 0)
  pools = solution.m * inputs.pool_payment * pool_left
  return float(due.sum() + pools.sum())
