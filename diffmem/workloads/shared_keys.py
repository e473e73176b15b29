"""Keys and values that ranks with parts of the same sequences gather.

A context rank has a share of each sequence, in two chunks, one early and one
late, so that all ranks do the same share of the causal core; before attention
the keys and values of a layer are gathered over them (Llama 3,
arXiv:2407.21783, section 3.3.2). Where attention is sharded by `sequence` the
tensor ranks share the sequences as well, whole matrices on each.

What else mixes tokens:

* A layer with a window of `w` needs the `w` keys before each of its chunks at
  most, and as few messages as ranks that have them.
* Latent keys are sent as they are cached, and expanded again by every rank
  (`stage.expansion_flops`); those of an index go with them.
* Linear attention gathers the float32 states that the chunks end with, and
  each rank sums those before its own (Sun et al., "LASP-2", arXiv:2502.07563).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from diffmem.cost import collective
from diffmem.workloads.choices import Choices
from diffmem.workloads.train_step import Step

_VALUE_B = 2.0  # bfloat16
_INDEX_B = 1.0  # float8, as DeepSeek-V3.2 keeps the keys of its index
_STATE_B = 4.0  # float32, as linear attention sums them
_CHUNKS = 2.0  # of a rank, one early and one late


class SharedKeys(NamedTuple):
  """One micro-batch's gathered keys of one layer on one device [plan].

  Attributes:
    held_B: mean over layers; 0 where no ranks share a sequence [B].
    largest_B: of the layer that has most [B].
    gather: one gather of them, mean over layers; None without a machine.
  """

  held_B: Array
  largest_B: Array
  gather: collective.Traffic | None


def sharing_ranks(choices: Choices) -> Array:
  """Ranks that have parts of the same sequences in attention."""
  whole = choices.tensor / choices.slices('attention_by')
  return choices.context * whole


def shared_keys(step: Step) -> SharedKeys:
  """Keys that the ranks of a training step gather."""
  model, n = step.model, sharing_ranks(step.choices)
  held_B = largest_B = payload_B = rounds = jnp.zeros_like(n)
  for layers, whole_B, needed in _kinds(step, n):
    share = layers / model.layers
    own_and_others = 1.0 / n + (1.0 - 1.0 / n) * needed
    kind_B = jnp.where(n > 1, own_and_others * whole_B, 0.0)
    held_B += share * kind_B
    largest_B = jnp.maximum(largest_B, kind_B)
    payload_B += share * needed * whole_B
    rounds += share * needed
  if step.machine is None:
    return SharedKeys(held_B, largest_B, None)
  gather = collective.all_gather(payload_B, _ranks(step))
  messages = gather.messages * jnp.asarray(rounds)[..., None]
  return SharedKeys(held_B, largest_B, gather._replace(messages=messages))


def _kinds(step: Step, n: Array) -> list[tuple[float, Array, Array | float]]:
  """Layers, bytes of the whole sequences, share of the others' that is needed.

  Layers that borrow keys of earlier ones (`borrowing_layers`) gather none.
  """
  model, length = step.model, float(step.training.seq_len)
  count, slices = step.choices.micro_batch, step.choices.slices('attention_by')
  found = []
  for group in model.attention_groups():
    a, window, needed = group.attention, group.window, 1.0
    if a.kind == 'gqa' and window:
      others = jnp.maximum(1.0 - 1.0 / n, 0.5) * length
      needed = jnp.minimum(_CHUNKS * window / others, 1.0)
      one_B = _VALUE_B * a.cache_values * length
    else:
      one_B = _VALUE_B * a.kept_values(length)
      one_B += _INDEX_B * a.index_values * a.index_keys(length)
    split = jnp.minimum(slices, float(a.cache_heads))
    found.append((group.caching_layers, count * one_B / split, needed))
  if model.linear:
    state_B = _STATE_B * _CHUNKS * n * model.linear.state_values
    split = jnp.minimum(slices, float(model.linear.value_heads))
    found.append((model.linear.layers, count * state_B / split, 1.0))
  return found


def _ranks(step: Step) -> Array:
  """The ranks that share sequences, within each network level."""
  sliced = step.choices.is_sliced('attention_by')[..., None]
  tensor = jnp.where(sliced > 0, 1.0, step.ranks('tensor'))
  return tensor * step.ranks('context')
