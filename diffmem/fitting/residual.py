"""Learned corrections: trained after the laws, on what these leave over.

Each family of operations and observable has a few small networks. Every one
of them is trained without a share of the cells (whole shapes), so that its
error on these says how far to trust the mean of all: the interval comes from
rows that a network had not seen (split conformal, Lei et al., JASA 113, 2018),
with the spread that the networks themselves predict.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from diffmem.fitting import resume
from diffmem.system import Residual

# 90 % of a normal distribution lies within so many standard deviations.
Z90 = 1.645
MIN_ROWS = 120  # below, a correction would only repeat the rows
_LIMIT = 3.0  # largest correction, of the logarithm
_WIDEST = 10.0  # an interval so wide says nothing at all
# The loss of an error e is e^2 near zero, |e| from about 8 % on, and grows only
# as log |e| beyond 10 %: runs that are slow for a reason that no shape tells
# (a tuner's stale choice makes a tenth of the MoE tables 3-5 times slower) must
# not pull on their neighbours.
_BEND, _CAP = 0.075, 0.1
_CHUNK = 16384


@dataclasses.dataclass(frozen=True)
class ResidualOptions:
  """How to train.

  Attributes:
    members: networks per residual; 0 for no residuals.
    hidden: width of their two layers.
    visits: how often training comes back to a row of a large table.
    batch: rows of one step.
    steps: fewest and most steps.
    learning_rate: highest, on a one-cycle schedule.
    weight_decay: pull towards no correction.
  """

  members: int = 4
  hidden: int = 64
  visits: float = 120.0
  batch: int = 256
  steps: tuple[int, int] = (6000, 13000)
  learning_rate: float = 4e-3
  weight_decay: float = 1e-3

  def brief(self) -> 'ResidualOptions':
    """A third of the fewest steps: power is too noisy to learn more from."""
    return dataclasses.replace(self, steps=(self.steps[0] // 3,) * 2)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What the networks see of the rows of one family.

  Attributes:
    names: of the numbers.
    numbers: their values [row input].
    labels: 'column=value' texts of every row [row column].
  """

  names: tuple[str, ...]
  numbers: Float[np.ndarray, 'row input']
  labels: np.ndarray

  def select(self, index: np.ndarray) -> 'Inputs':
    """Some of the rows."""
    return Inputs(self.names, self.numbers[index], self.labels[index])


class Correction(nnx.Module):
  """Two layers; returns a bounded correction and the log of its spread."""

  def __init__(self, inputs: int, hidden: int, rngs: nnx.Rngs):
    zeros = nnx.initializers.zeros
    self.first = nnx.Linear(inputs, hidden, rngs=rngs)
    self.second = nnx.Linear(hidden, hidden, rngs=rngs)
    self.correction = nnx.Linear(hidden, 1, kernel_init=zeros, rngs=rngs)
    self.log_spread = nnx.Linear(hidden, 1, kernel_init=zeros, rngs=rngs)

  def __call__(self, x: Float[Array, 'row input']) -> tuple[Array, Array]:
    """Correction and log spread [row]."""
    hidden = nnx.silu(self.second(nnx.silu(self.first(x))))
    correction = _LIMIT * jnp.tanh(self.correction(hidden) / _LIMIT)
    # The spread is learned from the same layers and does not bend them.
    log_spread = self.log_spread(jax.lax.stop_gradient(hidden))
    return correction[..., 0], log_spread[..., 0] - 3.0


def train(
  family: str,
  observable: str,
  inputs: Inputs,
  log_ratio: Float[np.ndarray, ' row'],
  cell: np.ndarray,
  options: ResidualOptions,
  seed: int = 0,
  store: resume.Store | None = None,
) -> Residual | None:
  """Trains the residual of one family.

  Args:
    family: of operations.
    observable: what `log_ratio` is about.
    inputs: of the rows.
    log_ratio: log(observed / laws) [row].
    cell: shape that each row belongs to; a cell is never split [row].
    options: how.
    seed: of weights, folds and batches.
    store: keeps the trained weights, for a fit that is cut off.

  Returns:
    The residual; None for fewer than `MIN_ROWS` rows or `members` of cells.
  """
  members, rows = options.members, len(log_ratio)
  codes = np.unique(cell, return_inverse=True)[1]
  if not members or rows < MIN_ROWS or codes.max() < 4 * members:
    return None
  rng = np.random.default_rng([seed, len(family), rows])
  fold = rng.permutation(codes.max() + 1)[codes] % members
  frame = _frame(family, observable, inputs, log_ratio)
  x = encode(frame, inputs)[0]
  seen = [np.flatnonzero(fold != i) for i in range(members)]
  fewest = min(len(index) for index in seen)
  index = np.stack([rng.permutation(i)[:fewest] for i in seen])
  batch = int(min(options.batch, max(64, rows // 8)))
  steps = int(np.clip(options.visits * rows / batch, *options.steps))

  def learn() -> tuple[np.ndarray, ...]:
    with jax.enable_x64(False):
      weights = _trainer(x.shape[1], batch, steps, options)(
        jnp.asarray(x, jnp.float32),
        jnp.asarray(log_ratio, jnp.float32),
        jnp.asarray(index),
        jax.random.key(seed),
      )
    return tuple(np.asarray(weights[name]) for name in sorted(weights))

  store = store or resume.Store(None, '')
  key = resume.fingerprint(repr((family, observable)), (x, log_ratio))
  names = sorted(_split(x.shape[1], options.hidden, 0)[1])
  parts = store.once(f'residual {key}', learn)
  frame = dataclasses.replace(
    frame, weights=dict(zip(names, parts, strict=True))
  )
  mean, spread = _members(frame, x)
  own = np.arange(rows)
  unseen = np.abs(mean[fold, own] - log_ratio)
  stretch = np.quantile(unseen / _spread(mean, spread, fold), 0.9)
  return dataclasses.replace(frame, stretch=float(stretch))


def correct(
  residual: Residual, inputs: Inputs
) -> tuple[Float[np.ndarray, ' row'], Float[np.ndarray, ' row']]:
  """Correction of the logarithm, and half-width of its 90 % interval [row]."""
  x, beyond = encode(residual, inputs)
  mean, spread = _members(residual, x)
  half_width = residual.stretch * _spread(mean, spread) * (1.0 + beyond)
  half_width = np.minimum(half_width, _WIDEST)
  return mean.mean(0), np.hypot(half_width, Z90 * residual.floor)


def encode(
  residual: Residual, inputs: Inputs
) -> tuple[Float[np.ndarray, 'row column'], Float[np.ndarray, ' row']]:
  """Numbers made alike, categories as 0 and 1; how far beyond training."""
  columns = [inputs.names.index(name) for name in residual.inputs]
  numbers = inputs.numbers[:, columns]
  clipped = np.clip(numbers, residual.low, residual.high)
  beyond = np.abs(numbers - clipped) / residual.scale
  hot = [(inputs.labels == category).any(1) for category in residual.categories]
  x = np.concatenate(
    [(clipped - residual.mean) / residual.scale, *(h[:, None] for h in hot)], 1
  )
  return x, beyond.mean(1)


def _frame(family, observable, inputs, log_ratio) -> Residual:
  """A residual without weights: what its inputs look like."""
  numbers = inputs.numbers
  varies = np.ptp(numbers, axis=0) > 1e-6
  numbers = numbers[:, varies]
  labels = sorted(set(inputs.labels.ravel()))
  counts = {label: (inputs.labels == label).any(1).sum() for label in labels}
  return Residual(
    family=family,
    observable=observable,
    inputs=tuple(np.array(inputs.names, object)[varies]),
    categories=tuple(n for n in labels if 0 < counts[n] < len(log_ratio)),
    low=numbers.min(0),
    high=numbers.max(0),
    mean=numbers.mean(0),
    scale=numbers.std(0),
    weights={},
    stretch=1.0,
    rows=len(log_ratio),
  )


@functools.lru_cache(maxsize=32)
def _trainer(width: int, batch: int, steps: int, options: ResidualOptions):
  """Compiled: every member's weights from all rows and each one's own."""
  schedule = optax.cosine_onecycle_schedule(steps, options.learning_rate, 0.1)
  optimiser = optax.adamw(schedule, weight_decay=options.weight_decay)
  graph, _ = _split(width, options.hidden, 0)

  def objective(weights, x, y):
    mean, log_spread = _apply(graph, weights, x)
    error = mean - y
    robust = _BEND * (jnp.sqrt(1.0 + (error / _BEND) ** 2) - 1.0)
    robust = _CAP * jnp.log1p(robust / _CAP)
    size = jnp.abs(jax.lax.stop_gradient(error))
    likelihood = size * jnp.exp(-log_spread) + log_spread
    return robust.mean() + 1e-2 * likelihood.mean()

  def one(x, y, index, key):
    init_key, key = jax.random.split(key)
    weights = _split(width, options.hidden, init_key)[1]

    def step(carry, key):
      weights, state = carry
      rows = index[jax.random.randint(key, (batch,), 0, index.shape[0])]
      slope = jax.grad(objective)(weights, x[rows], y[rows])
      update, state = optimiser.update(slope, state, weights)
      return (optax.apply_updates(weights, update), state), None

    keys = jax.random.split(key, steps)
    carry = (weights, optimiser.init(weights))
    return jax.lax.scan(step, carry, keys)[0][0]

  @jax.jit
  def run(x, y, index, key):
    keys = jax.random.split(key, options.members)
    return jax.lax.map(lambda a: one(x, y, *a), (index, keys))

  return run


def _split(width: int, hidden: int, key):
  """Structure of the networks, and fresh weights by flat name."""
  module = Correction(width, hidden, nnx.Rngs(key))
  graph, state = nnx.split(module)
  pure = nnx.to_pure_dict(state)
  return graph, {
    f'{layer}.{name}': value
    for layer, values in pure.items()
    for name, value in values.items()
  }


def _apply(graph, weights, x):
  pure: dict[str, dict] = {}
  for full, value in weights.items():
    layer, name = full.split('.')
    pure.setdefault(layer, {})[name] = value
  return nnx.merge(graph, nnx.State(pure))(x)


@functools.lru_cache(maxsize=32)
def _applier(width: int, hidden: int):
  graph, _ = _split(width, hidden, 0)
  return jax.jit(jax.vmap(lambda w, x: _apply(graph, w, x), in_axes=(0, None)))


def _members(residual: Residual, x: np.ndarray):
  """Correction and spread of every member [member row]."""
  hidden = residual.weights['first.bias'].shape[-1]
  run = _applier(x.shape[1], hidden)
  parts = []
  with jax.enable_x64(False):
    weights = {k: jnp.asarray(v) for k, v in residual.weights.items()}
    size = min(_CHUNK, 1 << max(len(x) - 1, 0).bit_length())
    for first in range(0, len(x), size):
      part = np.asarray(x[first : first + size], np.float32)
      padded = np.zeros((size, x.shape[1]), np.float32)
      padded[: len(part)] = part
      mean, log_spread = run(weights, padded)
      parts.append(
        (
          np.asarray(mean)[:, : len(part)],
          np.exp(np.asarray(log_spread)[:, : len(part)]),
        )
      )
  return tuple(
    np.concatenate(piece, 1).astype(float) for piece in zip(*parts, strict=True)
  )


def _spread(mean, spread, fold=None) -> Float[np.ndarray, ' row']:
  """What the networks expect and how they differ, added in squares [row]."""
  if fold is None:
    own = np.sqrt((spread**2).mean(0))
  else:
    own = spread[fold, np.arange(spread.shape[1])]
  return np.hypot(np.maximum(own, 1e-4), mean.std(0))
