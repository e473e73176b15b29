"""What sequences keep for their next tokens: keys and values, states.

Layers with the whole sequence in reach, layers with a window and states of
linear attention are groups of their own, so that each can be placed by how
much of it a step reads. Keys and values are paged: a piece of theirs is a page
of 16 tokens of every sequence (Kwon et al., SOSP 2023), in all layers of the
group; a piece of the states is a layer.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from diffmem.workloads import stage as stage_lib
from diffmem.workloads.choices import SHARDING, Choices
from diffmem.workloads.transformer import AttentionGroup, Transformer

KV_WINDOWED = 'kv_cache_windowed'
STATES = 'states'
PAGE_TOKENS = 16

_INDEX_B = 1.0  # float8, as DeepSeek-V3.2 keeps the keys of its index
_STATE_B = 4.0  # float32, as vLLM keeps the states of linear attention
BY_SEQUENCE = float(SHARDING['attention_by'].index('sequence'))


class Cache(NamedTuple):
  """Bytes of one sequence's caches; of all devices or of one.

  Attributes:
    kept_B: all that is kept.
    read_B: what one step reads of it.
    written_B: what one step writes.
  """

  kept_B: Array | float
  read_B: Array | float
  written_B: Array | float

  def __add__(self, other: 'Cache') -> 'Cache':
    return Cache(*(a + b for a, b in zip(self, other, strict=True)))

  def times(self, factor: Array | float) -> 'Cache':
    """The same of several sequences, or of a part."""
    return Cache(*(factor * part for part in self))


def decode_caches(
  model: Transformer, context: float, kv_B: float | None = None
) -> dict[str, Cache]:
  """Caches of one sequence for one new token, by group, unsplit.

  Windowed layers keep their window; a sparse index reads its own keys and
  those of the tokens that it chooses; states are read and written whole.

  Args:
    model: the transformer.
    context: tokens of the sequence.
    kv_B: bytes of a cached value; None for the model's own format.
  """
  kv_B = kv_B or model.formats.part_B('kv_cache')
  caches = {}
  for name, group in _groups(model):
    layers, attention, window = group
    own = group.caching_layers
    kept_B = own * kv_B * attention.kept_values(context, window)
    token_B = layers * kv_B * attention.cache_values
    key_B = layers * _INDEX_B * attention.index_values
    index_B = key_B * attention.index_keys(context)
    caches[name] = Cache(
      kept_B + index_B,
      token_B * attention.keys(context, window) + index_B,
      own / layers * token_B + key_B,
    )
  return caches | _states(model, 1.0)


def prompt_caches(
  model: Transformer, new: float, cached: float, kv_B: float | None = None
) -> dict[str, Cache]:
  """Caches of one sequence for `new` tokens after `cached` ones, unsplit.

  What was there is read once. New keys and values are written; the program
  attends to them while they are in the near memory (`lower_prefill`).

  Args:
    model: the transformer.
    new: tokens that are computed.
    cached: tokens before them.
    kv_B: bytes of a cached value; None for the model's own format.
  """
  kv_B = kv_B or model.formats.part_B('kv_cache')
  caches = {}
  for name, group in _groups(model):
    layers, attention, window = group
    own = group.caching_layers
    key_B = layers * _INDEX_B * attention.index_values
    index_B = key_B * attention.index_keys(cached + new)

    def values(tokens, a=attention, w=window):
      return kv_B * a.kept_values(tokens, w)

    before_B = key_B * attention.index_keys(cached)
    caches[name] = Cache(
      own * values(cached + new) + index_B,
      layers * values(cached) + before_B,
      own * values(new) + index_B - before_B,
    )
  return caches | _states(model, 1.0 if cached else 0.0)


def shares(model: Transformer, c: Choices) -> dict[str, Array]:
  """Devices of a tensor group that a group's bytes are spread over.

  Heads that do not reach all tensor ranks are kept more than once, unless
  each rank has sequences of its own.
  """
  heads = {name: g.attention.cache_heads for name, g in _groups(model)}
  if model.linear:
    heads[STATES] = model.linear.value_heads
  by_sequence = jnp.asarray(c.attention_by) == BY_SEQUENCE
  return {
    name: jnp.where(by_sequence, c.tensor, jnp.minimum(c.tensor, float(most)))
    for name, most in heads.items()
  }


def units_of(model: Transformer, context: float) -> dict[str, float]:
  """Pieces that each group consists of: pages, or layers of states."""
  units = {
    name: max(group.keys(context) / PAGE_TOKENS, 1.0)
    if group.window
    else max(context / PAGE_TOKENS, 1.0)
    for name, group in _groups(model)
  }
  if model.linear:
    units[STATES] = float(model.linear.layers)
  return {name: float(-(-n // 1)) for name, n in units.items()}


def layers_of(model: Transformer) -> dict[str, float]:
  """Layers of each group."""
  layers = {name: float(group.layers) for name, group in _groups(model)}
  if model.linear:
    layers[STATES] = float(model.linear.layers)
  return layers


def _groups(model: Transformer) -> list[tuple[str, AttentionGroup]]:
  """Attention groups with the names of their caches."""
  return [
    (KV_WINDOWED if group.window else stage_lib.KV_CACHE, group)
    for group in model.attention_groups()
  ]


def _states(model: Transformer, read: float) -> dict[str, Cache]:
  if not model.linear:
    return {}
  state_B = _STATE_B * model.linear.layers * model.linear.state_values
  return {STATES: Cache(state_B, read * state_B, state_B)}
