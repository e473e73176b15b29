"""Which meshes a model fits: everything that ranks share must divide."""

from collections.abc import Callable

import numpy as np

from diffmem import errors
from diffmem.workloads.choices import AXES, SHARDING
from diffmem.workloads.transformer import Transformer

HEADS = 'attention heads'
WIDTH = 'hidden width'
EXPERTS = 'experts'
LAYERS = 'layers of the model'
LENGTH = 'length of the sequences'

# Rule -> the axis that it is about.
_AXIS_OF = {
  HEADS: 'tensor', WIDTH: 'tensor', EXPERTS: 'expert', LAYERS: 'pipeline',
  LENGTH: 'context',
}  # fmt: skip
# Chunks of a sequence on each rank that shares it (`shared_keys`).
_CHUNKS = 2


def rules(
  model: Transformer,
  tensor: np.ndarray,
  expert: np.ndarray,
  pipeline: np.ndarray,
  **shardings: np.ndarray,
) -> dict[str, np.ndarray]:
  """Rule -> which of many meshes keep it; arrays of one shape.

  Heads of queries, hidden widths and experts divide by the ranks that share
  them, and layers by the stages; heads of keys divide or are repeated.

  Args:
    model: the transformer.
    tensor: ranks of that axis.
    expert: the same.
    pipeline: the same.
    **shardings: indices of `SHARDING` by kind; 0 for those that are left out.
  """
  by = {kind: shardings.get(kind, np.array(0)) for kind in SHARDING}
  heads = np.ones(np.shape(tensor), bool)
  for many, few in _head_counts(model):
    shared = (few % tensor == 0) | (tensor % few == 0)
    heads &= (many % tensor == 0) & shared
  widths = np.ones(np.shape(tensor), bool)
  for kind, sizes in _widths(model).items():
    for width in sizes:
      widths &= (width % tensor == 0) | (by[kind] > 0)
  experts = model.experts.count if model.experts else 1
  over = expert * np.where(by['experts_by'] > 0, tensor, 1)
  return {
    HEADS: heads | (by['attention_by'] > 0),
    EXPERTS: experts % over == 0,
    WIDTH: widths,
    LAYERS: stages_fit(model.layers, pipeline),
  }


def lengths_fit(
  seq_len: int,
  tensor: np.ndarray,
  context: np.ndarray,
  **shardings: np.ndarray,
) -> np.ndarray:
  """Sequences divide by the ranks that share them; the rule `LENGTH`.

  Ranks that share sequences in attention have two chunks each, so that the
  causal core is even; others need as many tokens as each other.

  Args:
    seq_len: tokens of a sequence.
    tensor: ranks of that axis.
    context: the same.
    **shardings: indices of `SHARDING` by kind; 0 for those that are left out.
  """
  by = {kind: shardings.get(kind, np.array(0)) for kind in SHARDING}
  share = context * np.where(by['attention_by'] > 0, tensor, 1)
  fits = (share == 1) | (seq_len % (_CHUNKS * share) == 0)
  is_whole = (by['mlp_by'] > 0) | (by['experts_by'] > 0)
  return fits & (~is_whole | (seq_len % (context * tensor) == 0))


def stages_fit(layers: int, pipeline: np.ndarray) -> np.ndarray:
  """Stages divide the layers, or with embedding and head as a layer each."""
  divides = (layers % pipeline == 0) | ((layers + 2) % pipeline == 0)
  return divides & (pipeline <= layers)


def check_mesh(
  model: Transformer, chips: int, *, seq_len: int | None = None, **axes: int
) -> None:
  """Refuses a mesh that does not fit the model or the number of chips.

  Args:
    model: the transformer.
    chips: devices.
    seq_len: tokens of a sequence, which context ranks share; None to leave
      that unchecked.
    **axes: ranks of each axis of `AXES`; 1 for those that are left out.

  Raises:
    SpecError: what does not fit, with the nearest that does: an unknown axis,
      ranks below one, a product other than `chips`, or ranks that do not
      divide what they share.

  Examples:
    >>> from diffmem.workloads import load_workload
    >>> check_mesh(load_workload('llama-3.1-8b'), 16, tensor=8, data=2)
  """
  for name, ranks in axes.items():
    if name not in AXES:
      raise errors.SpecError(f'no axis {name!r}; one of {", ".join(AXES)}')
    if isinstance(ranks, bool) or ranks != int(ranks) or ranks < 1:
      raise errors.SpecError(f'{name} = {ranks!r}: expected 1 rank or more')
  mesh = {name: int(axes.get(name, 1)) for name in AXES}
  for rule, axis in _AXIS_OF.items():

    def keeps(ranks, rule=rule, axis=axis):
      return _keeps(model, rule, axis, ranks, seq_len)

    if not keeps(mesh[axis]):
      shared = _shared(model, rule, seq_len)
      raise errors.SpecError(
        f'{axis} = {mesh[axis]} does not divide {shared}; the nearest that '
        f'does is {_nearest(mesh[axis], keeps)}'
      )
  _check_product(mesh, chips)


def _check_product(mesh: dict[str, int], chips: int) -> None:
  devices = int(np.prod(list(mesh.values())))
  if devices == chips:
    return
  shown = ' x '.join(f'{n} {r}' for n, r in mesh.items() if r > 1) or 'one rank'
  inner = devices // mesh['data']
  copies = max(round(chips / inner), 1)
  raise errors.SpecError(
    f'a mesh of {shown} has {devices} devices, not {chips}; the nearest that '
    f'fits is data {copies} on {copies * inner} chips'
  )


def _keeps(
  model: Transformer, rule: str, axis: str, ranks: int, seq_len: int | None
) -> bool:
  if rule == LENGTH:
    one = np.array(1)
    return seq_len is None or bool(lengths_fit(seq_len, one, np.array(ranks)))
  one = dict.fromkeys(('tensor', 'expert', 'pipeline'), np.array(1))
  return bool(rules(model, **{**one, axis: np.array(ranks)})[rule])


def _nearest(ranks: int, fits: Callable[[int], bool]) -> int:
  """The nearest number of ranks that fits; the lower of two."""
  return next(
    n
    for distance in range(ranks + 1)
    for n in (ranks - distance, ranks + distance)
    if n >= 1 and fits(n)
  )


def _shared(model: Transformer, rule: str, seq_len: int | None) -> str:
  """What the ranks of a rule share, with its sizes."""
  if rule == LENGTH:
    return f'the half of a sequence of {seq_len} tokens'
  sizes = {
    HEADS: [n for pair in _head_counts(model) for n in pair],
    WIDTH: [w for widths in _widths(model).values() for w in widths],
    EXPERTS: [model.experts.count if model.experts else 1],
    LAYERS: [model.layers],
  }[rule]
  shown = ', '.join(str(s) for s in dict.fromkeys(sizes))
  what = rule.removesuffix(' of the model')
  return f'the {what} ({shown}) of {model.name}'


def _head_counts(model: Transformer) -> list[tuple[int, int]]:
  """Heads that tensor ranks share, and heads that they may repeat."""
  counts = [
    (g.attention.heads, g.attention.kv_heads) for g in model.attention_groups()
  ]
  if model.linear:
    counts.append((model.linear.value_heads, model.linear.key_heads))
  return counts


def _widths(model: Transformer) -> dict[str, list[int]]:
  """Hidden widths that tensor ranks share, by kind of layer."""
  found = {'mlp_by': [model.d_ff, model.shared_ff], 'experts_by': []}
  if model.experts:
    found['experts_by'].append(model.experts.d_ff)
  return {kind: [w for w in widths if w] for kind, widths in found.items()}
