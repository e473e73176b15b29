"""What one primitive of a jaxpr computes, and how it may fuse.

FLOPs are counted as XLA's cost analysis does (openxla/xla,
`hlo_cost_analysis.cc`): two for a multiply and add of a contraction, one for
each element of an elementwise operation, none for data that only moves;
transcendental functions are counted apart.
"""

import math
from typing import NamedTuple

import numpy as np

# Only the shape or the order of the dimensions changes: the same bytes.
VIEWS = frozenset({
  'reshape', 'squeeze', 'expand_dims', 'transpose', 'broadcast_in_dim',
  'sharding_constraint', 'optimization_barrier', 'name', 'stop_gradient',
  'copy', 'copy_p', 'device_put', 'pvary', 'pcast', 'mesh_cast', 'reshard',
  'layout_constraint', 'random_wrap', 'random_unwrap',
})  # fmt: skip
# A part of a value, which its readers read where it is.
WINDOWS = frozenset({'slice', 'dynamic_slice'})
# Made from nothing, inside whatever reads them.
FREE = frozenset({
  'iota', 'create_token', 'axis_index', 'full', 'empty', 'random_seed',
})  # fmt: skip
# One FLOP per element of the result.
ELEMENTWISE = frozenset({
  'add', 'sub', 'mul', 'div', 'rem', 'neg', 'max', 'min', 'abs', 'sign',
  'floor', 'ceil', 'round', 'add_any', 'select_n', 'clamp', 'eq', 'ne', 'lt',
  'le', 'gt', 'ge', 'and', 'or', 'xor', 'not', 'shift_left', 'square',
  'shift_right_logical', 'shift_right_arithmetic', 'convert_element_type',
  'is_finite', 'nextafter', 'real', 'imag', 'complex', 'conj', 'mulhi',
  'population_count', 'clz', 'reduce_precision', 'integer_pow', 'lt_to',
  'le_to', 'eq_to', 'bitcast_convert_type',
})  # fmt: skip
TRANSCENDENTAL = frozenset({
  'exp', 'exp2', 'log', 'log1p', 'expm1', 'tanh', 'logistic', 'sin', 'cos',
  'tan', 'asin', 'acos', 'atan', 'atan2', 'sinh', 'cosh', 'asinh', 'acosh',
  'atanh', 'sqrt', 'rsqrt', 'cbrt', 'pow', 'erf', 'erfc', 'erf_inv', 'lgamma',
  'digamma', 'igamma', 'igammac', 'bessel_i0e', 'bessel_i1e',
  'regularized_incomplete_beta', 'polygamma', 'zeta',
})  # fmt: skip
# Elements that are read somewhere and written elsewhere; they fuse.
MOVES = frozenset({
  'split', 'concatenate', 'pad', 'rev', 'tile',
  'random_bits', 'random_fold_in', 'random_split', 'threefry2x32',
  'rng_bit_generator',
})  # fmt: skip
# They read a chain and write something smaller.
REDUCTIONS = frozenset({
  'reduce_sum', 'reduce_max', 'reduce_min', 'reduce_prod', 'reduce_and',
  'reduce_or', 'reduce_xor', 'argmax', 'argmin', 'reduce',
})  # fmt: skip
CONTRACTIONS = frozenset({
  'dot_general', 'conv_general_dilated', 'ragged_dot', 'ragged_dot_general',
})  # fmt: skip
# A kernel of their own without contraction.
KERNELS = frozenset({
  'sort', 'top_k', 'approx_top_k', 'cumsum', 'cumprod', 'cummax', 'cummin',
  'cumlogsumexp', 'reduce_window', 'reduce_window_sum', 'reduce_window_max',
  'reduce_window_min', 'select_and_scatter_add', 'select_and_gather_add',
  'fft', 'cholesky', 'triangular_solve', 'lu', 'qr', 'eigh', 'svd',
  'householder_product',
})  # fmt: skip
# A few rows of a table are read, or changed in place.
GATHERS = frozenset({'gather'})
UPDATES = frozenset({
  'dynamic_update_slice', 'scatter', 'scatter-add', 'scatter_add',
  'scatter-mul', 'scatter_mul', 'scatter-min', 'scatter_min', 'scatter-max',
  'scatter_max', 'scatter_sub', 'scatter-sub',
})  # fmt: skip
COLLECTIVES = frozenset({
  'psum', 'psum2', 'psum_invariant', 'pmax', 'pmin', 'all_gather',
  'all_gather_invariant', 'all_gather_reduced', 'reduce_scatter',
  'psum_scatter', 'all_to_all', 'ppermute', 'pbroadcast',
  'ragged_all_to_all', 'unreduced_psum', 'unreduced_reduce_scatter',
})  # fmt: skip
_KINDS = (
  (VIEWS, 'view'), (WINDOWS, 'window'), (FREE, 'free'),
  (ELEMENTWISE, 'fusible'), (TRANSCENDENTAL, 'fusible'),
  (MOVES, 'fusible'),
  (REDUCTIONS, 'reduction'), (CONTRACTIONS, 'kernel'),
  (KERNELS, 'kernel'), (GATHERS, 'gather'), (UPDATES, 'update'),
  (COLLECTIVES, 'collective'),
)  # fmt: skip
KIND = {name: kind for names, kind in _KINDS for name in names}


class Work(NamedTuple):
  """Arithmetic of one operation.

  Attributes:
    matrix: FLOPs of contractions.
    vector: FLOPs of everything else.
    transcendental: evaluations of exp and the like; not in `vector`.
  """

  matrix: float = 0.0
  vector: float = 0.0
  transcendental: float = 0.0

  def times(self, count: float) -> 'Work':
    """The same `count` times over."""
    return Work(*(count * value for value in self))

  def __add__(self, other: tuple) -> 'Work':
    return Work(*(a + b for a, b in zip(self, other, strict=True)))


NO_WORK = Work()


def elements(aval) -> float:
  """Elements of an abstract value; 1 for what has no shape."""
  return float(math.prod(getattr(aval, 'shape', ())))


def size_B(aval) -> float:
  """Bytes of an abstract value; 0 for tokens and the like."""
  dtype = getattr(aval, 'dtype', None)
  if dtype is None:
    return 0.0
  if not isinstance(dtype, np.dtype):  # keys of random numbers
    return 8.0 * elements(aval)
  bits = {'int4': 4, 'uint4': 4, 'int2': 2, 'uint2': 2, 'float4_e2m1fn': 4}
  return elements(aval) * bits.get(dtype.name, 8 * dtype.itemsize) / 8


def work_of(eqn) -> Work:
  """Arithmetic of a primitive equation without an inner jaxpr."""
  name = eqn.primitive.name
  out = elements(eqn.outvars[0].aval) if eqn.outvars else 0.0
  if name in CONTRACTIONS:
    return Work(matrix=_contraction_flops(eqn, out))
  if name in TRANSCENDENTAL:
    return Work(transcendental=out)
  if name == 'integer_pow':
    return Work(vector=out * _products(abs(eqn.params['y'])))
  if name in ELEMENTWISE:
    return Work(vector=out)
  into = elements(eqn.invars[0].aval) if eqn.invars else 0.0
  if name in REDUCTIONS:
    return Work(vector=max(into - out, 0.0))
  if name.startswith(('cum', 'reduce_window')):
    return Work(vector=into)
  if name.startswith('scatter') and name != 'scatter':
    return Work(vector=elements(eqn.invars[2].aval))
  if name == 'fft':
    points = math.prod(eqn.params['fft_lengths'])
    return Work(vector=5.0 * into * math.log2(max(points, 2)))
  estimate = eqn.params.get('cost_estimate')
  if estimate is not None:  # a Pallas kernel whose author says
    return Work(estimate.flops, 0.0, estimate.transcendentals)
  if name in _FACTORISATIONS:
    rows = eqn.invars[0].aval.shape[-1]
    return Work(matrix=_FACTORISATIONS[name] * into * rows)
  return Work()


# FLOPs over (elements x rows) of a square matrix; Golub and Van Loan, Matrix
# Computations (4th ed., 2013), sections 3.1, 4.2, 5.2.
_FACTORISATIONS = {
  'cholesky': 1 / 3, 'triangular_solve': 1.0, 'lu': 2 / 3, 'qr': 4 / 3,
}  # fmt: skip


def _products(power: int) -> int:
  """Multiplications of an integer power by repeated squaring."""
  return max(power.bit_length() - 1 + power.bit_count() - 1, 0)


def _contraction_flops(eqn, out: float) -> float:
  left, right = (v.aval for v in eqn.invars[:2])
  name = eqn.primitive.name
  if name == 'dot_general':
    (contracted, _), _ = eqn.params['dimension_numbers']
    return 2.0 * out * math.prod(left.shape[i] for i in contracted)
  if name == 'conv_general_dilated':
    return _convolution_flops(eqn, out)
  # Ragged products: every row meets one group's matrix. The result has a
  # group axis where the ragged one is contracted.
  numbers = eqn.params.get('ragged_dot_dimension_numbers')
  if numbers is None:
    return 2.0 * math.prod(left.shape) * right.shape[-1]
  (contracted, _), _ = numbers.dot_dimension_numbers
  depth = math.prod(left.shape[i] for i in contracted)
  if set(numbers.lhs_ragged_dimensions) & set(contracted):
    groups = eqn.invars[2].aval.shape[-1]
    return 2.0 * out * depth / groups
  return 2.0 * out * depth


def _convolution_flops(eqn, out: float) -> float:
  """Only the taps that meet an element, as XLA counts."""
  left, right = (v.aval for v in eqn.invars[:2])
  p, numbers = eqn.params, eqn.params['dimension_numbers']
  features = right.shape[numbers.rhs_spec[1]]
  taps, places = 1.0, 1.0
  for i, (low, _) in enumerate(p['padding']):
    size = left.shape[numbers.lhs_spec[2 + i]]
    kernel = right.shape[numbers.rhs_spec[2 + i]]
    result = eqn.outvars[0].aval.shape[numbers.out_spec[2 + i]]
    at = np.arange(result)[:, None] * p['window_strides'][i] - low
    at = at + np.arange(kernel) * p['rhs_dilation'][i]
    step = p['lhs_dilation'][i]
    met = (at >= 0) & (at <= (size - 1) * step) & (at % step == 0)
    taps, places = taps * met.sum(), places * result
  per_batch = p.get('batch_group_count', 1)
  return 2.0 * out / places * taps * features / per_batch * per_batch
