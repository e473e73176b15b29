"""Serves a small model with a KV cache in two memories, as a plan says.

  python -m examples.serve_with_plan

A plan for eight devices (here virtual ones, on the CPU) says which share of the
keys and values stays near, in whole pages: the oldest tokens of every sequence
live with the host (`pinned_host`) and are fetched when a step attends to them,
the newest stay where they are written. The same prompts are then served on one
device with one memory; every token has to be the same. Ends with 1 otherwise.
"""

from absl import flags

from experiments import program

_PLAN = flags.DEFINE_string('plan', None, 'JSON of a plan; None: plan now.')
_SAVE = flags.DEFINE_string('save_plan', None, 'File for the plan, as JSON.')
_NEW = flags.DEFINE_integer('tokens', 16, 'New tokens of a sequence.', 1)
_NEAR_B = flags.DEFINE_float('near_B', 0.5e6, 'Memory of a device [B].', 0)

_DEVICES, _SEQUENCES, _CONTEXT = 8, 16, 256


def main() -> None:
  """Plans, serves twice, compares."""
  import pathlib
  import sys

  import jax

  jax.config.update('jax_num_cpu_devices', _DEVICES)
  import numpy as np

  from diffmem.planning import export
  from examples import tiny

  plan = export.load_plan(_PLAN.value) if _PLAN.value else _planned(tiny)
  if _SAVE.value:
    pathlib.Path(_SAVE.value).write_text(export.plan_to_json(plan) + '\n')
  jax_plan = export.to_jax(plan)
  print(f'mesh: {dict(jax_plan.mesh.shape)}')
  planned, plain = _serve(jax_plan, tiny), _serve(None, tiny)
  print(f'first sequence with the plan: {planned[0].tolist()}')
  print(f'first sequence without:       {plain[0].tolist()}')
  same = int((planned == plain).sum())
  print(f'equal tokens: {same} of {plain.size}')
  if not np.array_equal(planned, plain):
    sys.exit(1)


def _planned(tiny):
  """The best plan for devices that cannot hold the cache."""
  from diffmem import errors, planning

  result = planning.make_plan(
    tiny.device(_NEAR_B.value),
    tiny.SHAPE,
    chips=_DEVICES,
    phase='decode',
    batch=_SEQUENCES,
    context=_CONTEXT,
    top=1,
  )
  if not result.plans:
    raise errors.PlanError(result.help)
  return result.plans[0]


def _serve(jax_plan, tiny):
  """New tokens [sequence, token]; without a plan on one device."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from flax import nnx

  graph, weights = tiny.initialise()
  fetch = join = lambda tree, state: tree
  if jax_plan:
    fetch, join = jax_plan.fetch, jax_plan.join
    weights = jax_plan.place(weights)

  def prefill(weights, prompts):
    model = nnx.merge(graph, fetch(weights, 'parameters'))
    logits, caches = model(prompts)
    room = ((0, 0), (0, _CONTEXT - prompts.shape[1]), (0, 0), (0, 0))
    return logits[:, -1].argmax(-1), jax.tree.map(
      lambda cache: jnp.pad(cache, room), caches
    )

  def decode(weights, caches, tokens, position):
    model = nnx.merge(graph, fetch(weights, 'parameters'))
    logits, new = model.decode(tokens, join(caches, 'kv_cache'), position)
    return logits.argmax(-1), new

  def write(caches, new, position):
    """New keys and values, into the part that has the newest tokens."""
    near, first = newest(caches)
    return jax.tree.map(
      lambda cache, one: jax.lax.dynamic_update_slice_in_dim(
        cache, one, position - first, 1
      ),
      near, new,
    )  # fmt: skip

  def newest(caches):
    """That part of every cache, and the position of its first token."""
    near = {
      layer: {n: c['device'] if isinstance(c, dict) else c
              for n, c in cache.items()}
      for layer, cache in caches.items()
    }  # fmt: skip
    return near, _CONTEXT - jax.tree.leaves(near)[0].shape[1]

  prompt = _CONTEXT - _NEW.value
  prompts = np.random.default_rng(0).integers(0, 256, (_SEQUENCES, prompt))
  tokens, caches = jax.jit(prefill)(weights, prompts.astype(np.int32))
  if jax_plan:
    caches = jax_plan.place(jax_plan.split(caches, 'kv_cache'), 'kv_cache')
    _print_cache(caches)
    if newest(caches)[1] > prompt:
      raise ValueError('new tokens would have to be written to the host')
  decode, write = jax.jit(decode), jax.jit(write)
  made = [tokens]
  for position in range(prompt, _CONTEXT - 1):
    tokens, new = decode(weights, caches, tokens, position)
    written = write(caches, new, position)
    caches = jax.tree.map(
      lambda cache, near: (
        {**cache, 'device': near} if isinstance(cache, dict) else near
      ),
      caches,
      written,
      is_leaf=lambda c: isinstance(c, dict) and 'device' in c,
    )
    made.append(tokens)
  return np.stack([np.asarray(t) for t in made], 1)


def _print_cache(caches) -> None:
  import jax

  bytes_by_kind: dict[str, int] = {}
  for leaf in jax.tree.leaves(caches):
    kind = leaf.sharding.memory_kind
    bytes_by_kind[kind] = bytes_by_kind.get(kind, 0) + leaf.nbytes
  total = sum(bytes_by_kind.values())
  shown = (f'{100 * b / total:.0f} % in {k}' for k, b in bytes_by_kind.items())
  print(f'keys and values: {", ".join(sorted(shown))}')


if __name__ == '__main__':
  program.run(main)
