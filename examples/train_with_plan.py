"""Trains a small model as a plan says, and as if there were no plan.

  python -m examples.train_with_plan

A plan for eight devices (here virtual ones, on the CPU) gives the mesh, the
sharding of every parameter and the memory of the optimizer's states: the host
(`pinned_host`). The same model then trains on one device, from the same start;
the losses of all steps have to agree to 2e-5 of their size, which is what
float32 sums in another order differ by. Ends with 1 where they do not.
"""

from absl import flags

from experiments import program

_STEPS = flags.DEFINE_integer('steps', 20, 'Training steps.', 1)
_PLAN = flags.DEFINE_string('plan', None, 'JSON of a plan; None: plan now.')
_SAVE = flags.DEFINE_string('save_plan', None, 'File for the plan, as JSON.')
_NEAR_B = flags.DEFINE_float('near_B', 0.8e6, 'Memory of a device [B].', 0)

_DEVICES, _SEQUENCES, _TOKENS, _TOLERANCE = 8, 32, 32, 2e-5


def main() -> None:
  """Plans, trains twice, compares."""
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
  print(f'mesh: {dict(jax_plan.mesh.shape)}, recompute: {plan.recompute}')
  for line in jax_plan.help:
    print(f'to do by the program: {line}')
  planned = _train(jax_plan)
  plain = _train(None)
  worst = float(np.max(np.abs(planned / plain - 1)))
  print(f'losses with the plan:    {planned[0]:.6f} ... {planned[-1]:.6f}')
  print(f'losses without:          {plain[0]:.6f} ... {plain[-1]:.6f}')
  print(f'largest difference: {worst:.1e} (at most {_TOLERANCE:.0e})')
  if not worst <= _TOLERANCE:
    sys.exit(1)


def _planned(tiny):
  """The best plan for a device on which the optimizer has no room."""
  from diffmem import errors, planning

  result = planning.make_plan(
    tiny.device(_NEAR_B.value),
    tiny.SHAPE,
    chips=_DEVICES,
    seq_len=_TOKENS,
    global_batch_tokens=_SEQUENCES * _TOKENS,
    top=1,
  )
  if not result.plans:
    raise errors.PlanError(result.help)
  return result.plans[0]


def _train(jax_plan):
  """Losses of a training run; without a plan on one device."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax
  from flax import nnx

  from examples import tiny

  optimizer = optax.adam(1e-3)
  graph, weights = tiny.initialise()
  rows, options = 1, {}
  place = fetch = lambda tree, state: tree
  if jax_plan:
    rows = jax_plan.micro_batches(_SEQUENCES)
    place, fetch = jax_plan.place, jax_plan.fetch
    stream = jax_plan.stream_sharding()
    options = {
      'constrain': lambda x: jax.lax.with_sharding_constraint(x, stream),
      'checkpoint': jax_plan.checkpoint,
    }
  weights = place(weights, 'parameters')
  state = place(optimizer.init(weights), 'optimizer')
  if jax_plan:
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state) if x.ndim}
    print(f'optimizer states live in: {", ".join(sorted(kinds))}')

  def step(weights, state, tokens):
    at_hand = fetch(weights, 'parameters')

    def micro_batch(gradients, batch):
      loss, more = jax.value_and_grad(
        lambda w: _loss(nnx.merge(graph, w), batch, options)
      )(at_hand)
      return jax.tree.map(jnp.add, gradients, more), loss

    nothing = jax.tree.map(jnp.zeros_like, at_hand)
    total, losses = jax.lax.scan(micro_batch, nothing, tokens)
    gradients = jax.tree.map(lambda g: g / rows, total)
    updates, state = optimizer.update(
      gradients, fetch(state, 'optimizer'), at_hand
    )
    weights = optax.apply_updates(at_hand, updates)
    weights = fetch(weights, 'parameters')
    return weights, fetch(state, 'optimizer'), losses.mean()

  step = jax.jit(step)
  rng, losses = np.random.default_rng(0), []
  for _ in range(_STEPS.value):
    # Each token follows from the one before: something to learn.
    first = rng.integers(0, 256, (_SEQUENCES, 1))
    tokens = (first + 7 * np.arange(_TOKENS + 1)) % 256
    tokens = tokens.reshape(rows, -1, _TOKENS + 1).astype(np.int32)
    weights, state, loss = step(weights, state, tokens)
    weights, state = place(weights, 'parameters'), place(state, 'optimizer')
    losses.append(float(loss))
  return np.array(losses)


def _loss(model, tokens, options):
  import optax

  logits, _ = model(tokens[:, :-1], **options)
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, tokens[:, 1:]
  ).mean()


if __name__ == '__main__':
  program.run(main)
