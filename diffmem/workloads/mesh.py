"""Which meshes a model fits: everything that ranks share must divide."""

from collections.abc import Callable

import numpy as np

from diffmem import errors
from diffmem.workloads.choices import AXES
from diffmem.workloads.transformer import Transformer

HEADS = 'attention heads'
WIDTH = 'hidden width'
EXPERTS = 'experts'
LAYERS = 'layers of the model'

# Rule -> the axis that it is about.
_AXIS_OF = {
  HEADS: 'tensor', WIDTH: 'tensor', EXPERTS: 'expert', LAYERS: 'pipeline',
}  # fmt: skip


def rules(
  model: Transformer,
  tensor: np.ndarray,
  expert: np.ndarray,
  pipeline: np.ndarray,
) -> dict[str, np.ndarray]:
  """Rule -> which of many meshes keep it; arrays of one shape.

  Heads of queries, hidden widths and experts divide by the ranks that share
  them, and layers by the stages; heads of keys divide or are repeated.
  """
  heads = np.ones(np.shape(tensor), bool)
  for many, few in _head_counts(model):
    shared = (few % tensor == 0) | (tensor % few == 0)
    heads &= (many % tensor == 0) & shared
  widths = np.ones(np.shape(tensor), bool)
  for width in _widths(model):
    widths &= width % tensor == 0
  experts = model.experts.count if model.experts else 1
  return {
    HEADS: heads,
    EXPERTS: experts % expert == 0,
    WIDTH: widths,
    LAYERS: stages_fit(model.layers, pipeline),
  }


def stages_fit(layers: int, pipeline: np.ndarray) -> np.ndarray:
  """Stages divide the layers, or with embedding and head as a layer each."""
  divides = (layers % pipeline == 0) | ((layers + 2) % pipeline == 0)
  return divides & (pipeline <= layers)


def check_mesh(model: Transformer, chips: int, **axes: int) -> None:
  """Refuses a mesh that does not fit the model or the number of chips.

  Args:
    model: the transformer.
    chips: devices.
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
    if not _keeps(model, rule, axis, mesh[axis]):
      near = _nearest(
        mesh[axis], lambda n, r=rule, a=axis: _keeps(model, r, a, n)
      )
      raise errors.SpecError(
        f'{axis} = {mesh[axis]} does not divide {_shared(model, rule)}; the '
        f'nearest that does is {near}'
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


def _keeps(model: Transformer, rule: str, axis: str, ranks: int) -> bool:
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


def _shared(model: Transformer, rule: str) -> str:
  """What the ranks of a rule share, with its sizes."""
  sizes = {
    HEADS: [n for pair in _head_counts(model) for n in pair],
    WIDTH: _widths(model),
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


def _widths(model: Transformer) -> list[int]:
  """Hidden widths that tensor ranks share."""
  widths = [model.d_ff, model.shared_ff]
  if model.experts:
    widths.append(model.experts.d_ff)
  return [w for w in widths if w]
