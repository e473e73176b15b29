"""The mesh of a plan, and what shardings cannot tell a program."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from diffmem import errors
from diffmem.planning.result import Plan
from diffmem.workloads import AXES
from diffmem.workloads import stage as stage_lib


def abstract_mesh(plan: Plan) -> AbstractMesh:
  """The mesh of a plan without devices."""
  names = tuple(reversed(AXES))
  return AbstractMesh(tuple(plan.mesh.get(name, 1) for name in names), names)


def mesh_of(plan: Plan, devices) -> Mesh | AbstractMesh:
  """The mesh of a plan on devices; see `to_jax`."""
  abstract = abstract_mesh(plan)
  names, shape = abstract.axis_names, abstract.axis_sizes
  if isinstance(devices, AbstractMesh):
    return devices
  given = jax.devices() if devices is None else devices
  chips, found = int(np.prod(shape)), int(np.size(given))
  if found != chips:
    shown = ' x '.join(
      f'{n} {r}' for n, r in zip(names, shape, strict=True) if r > 1
    )
    raise errors.PlanError(
      f'the plan is for {chips} devices ({shown or "one rank"}), and there are '
      f'{found}; plan again with chips={found}, or give {chips} of them'
    )
  if devices is None and jax.default_backend() == 'tpu':
    from jax.experimental import mesh_utils

    given = mesh_utils.create_device_mesh(
      shape, given, allow_split_physical_axes=True
    )
  return Mesh(np.asarray(given, object).reshape(shape), names)


def help_of(plan: Plan) -> Iterator[str]:
  """What the program has to do itself, line by line."""
  stages = plan.mesh.get('pipeline', 1)
  if stages > 1:
    yield (
      f'pipeline = {stages}: the stacked layers are placed by stage; the '
      'program runs the schedule (one forward, one backward) over its '
      'micro-batches itself'
    )
  if plan.mesh.get('interleave', 1) > 1:
    yield 'interleave: hold stacked layers in the order of `layer_order`'
  if plan.mesh.get('context', 1) > 1:
    yield (
      'context: attention needs the keys of all context ranks; gather them, or '
      'pass them round (ring attention)'
    )
  away = {
    group: {m: s for m, s in list(row.items())[1:] if s > 0}
    for group, row in plan.placement.items()
  }
  if away.get(stage_lib.ACTIVATIONS):
    share = sum(away[stage_lib.ACTIVATIONS].values())
    yield (
      f'activations: offload what {100 * share:.0f} % of the layers keep, with '
      'jax.checkpoint_policies.save_and_offload_only_these_names'
    )
  for group in (stage_lib.ATTENTION, stage_lib.MLP, stage_lib.EXPERTS):
    if away.get(group):
      yield (
        f'{group}: part of it lives with the host; fetch a layer before it is '
        'used, by `fetch`'
      )
