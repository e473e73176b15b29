"""`system.json`: a system's structure and what is known of its parameters.

The arrays hold the numbers that count; this file is the one that people read.
Parameters stand in the order of the arrays' last axis.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pydantic

from diffmem import errors
from diffmem.checkpoint import residuals as residuals_lib
from diffmem.checkpoint.card import SCHEMA_VERSION, Strict
from diffmem.system import (
  Engine,
  FittedSystem,
  Knowledge,
  Status,
  System,
  Tier,
  from_leaves,
  leaves_by_name,
)


class Parameter(Strict):
  """One parameter as people read it.

  Attributes:
    value: best estimate, in `unit`.
    unit: SI unit; '1' for a pure number.
    stderr: standard error after the fit, of the logarithm where the parameter
      is a logarithm (0.02 reads as 2 %).
    prior: the prior's median, in `unit`.
    prior_sd: the prior's standard deviation, as `stderr`.
    status: how it came by its value.
    source: where the prior comes from.
    measure: what to measure to learn it.
  """

  value: float
  unit: str
  stderr: float
  prior: float
  prior_sd: float
  status: Status
  source: str
  measure: str


class SystemDocument(Strict):
  """The whole of `system.json`.

  Attributes:
    schema_version: of the checkpoint's files.
    name: of the system.
    compute_units: units that share the tiles of a kernel.
    tiers: what of each tier is structure, in order.
    engines: the same of each engine.
    draws: size of the ensemble, 0 for none.
    scatter: relative deviation of single observations, by op.
    parameters: by full name, in the order of the arrays.
    residuals: learned corrections, without their weights.
  """

  schema_version: int = SCHEMA_VERSION
  name: str
  compute_units: int = pydantic.Field(1, ge=1)
  tiers: tuple[dict[str, bool | int | str], ...]
  engines: tuple[dict[str, bool | int | str], ...]
  draws: int = pydantic.Field(ge=0)
  scatter: dict[str, float]
  parameters: dict[str, Parameter]
  residuals: tuple[residuals_lib.ResidualDocument, ...] = ()


def describe(fitted: FittedSystem) -> SystemDocument:
  """Writes a fitted system down, without its arrays."""
  system = fitted.system
  values = system.values()
  found = {}
  for name, info in system.infos().items():
    known = fitted.knowledge[name]
    found[name] = Parameter(
      value=float(values[name]),
      unit=info.unit,
      stderr=float(known.stderr),
      prior=float(known.prior),
      prior_sd=float(known.prior_sd),
      status=known.status,
      source=known.source,
      measure=known.measure,
    )
  return SystemDocument(
    name=system.name,
    compute_units=system.compute_units,
    tiers=tuple(_static(tier) for tier in system.tiers),
    engines=tuple(_static(engine) for engine in system.engines),
    draws=fitted.draws,
    scatter={name: float(v) for name, v in fitted.scatter.items()},
    parameters=found,
    residuals=tuple(map(residuals_lib.describe, fitted.residuals.values())),
  )


def pack(fitted: FittedSystem) -> dict[str, np.ndarray]:
  """Leaves as float64: `best` [name], `ensemble` [draw, name]; residuals.

  Raises:
    CheckpointError: a leaf is not one number (or one per draw).
  """
  packed = {'best': _stack(fitted.system, ())}
  if fitted.ensemble is not None:
    packed['ensemble'] = _stack(fitted.ensemble, (fitted.draws,))
  for residual in fitted.residuals.values():
    packed[residuals_lib.describe(residual).array] = residuals_lib.pack(
      residual
    )
  return packed


def _stack(system: System, shape: tuple[int, ...]) -> np.ndarray:
  columns = []
  for name, leaf in leaves_by_name(system).items():
    column = np.asarray(leaf, np.float64)
    if column.shape != shape:
      raise errors.CheckpointError(
        f'{system.name}: the leaf of {name} has shape {column.shape}; '
        f'expected {shape}: one fitted system in each checkpoint'
      )
    columns.append(column)
  return np.stack(columns, -1)


def array_types(
  document: SystemDocument,
) -> dict[str, tuple[tuple[int, ...], str]]:
  """Shape and dtype of each array that belongs to a document."""
  n = len(document.parameters)
  found = {'best': ((n,), 'float64')}
  if document.draws:
    found['ensemble'] = ((document.draws, n), 'float64')
  for residual in document.residuals:
    found[residual.array] = ((residual.size,), 'float32')
  return found


def rebuild(
  document: SystemDocument, arrays: Mapping[str, np.ndarray]
) -> FittedSystem:
  """The fitted system of a document and its arrays.

  Raises:
    ValueError: its structure or parameters are not those of this code.
  """
  template = _template(document)
  names = list(document.parameters)
  system = from_leaves(template, dict(zip(names, arrays['best'], strict=True)))
  ensemble = None
  if document.draws:
    columns = np.moveaxis(arrays['ensemble'], -1, 0).copy()
    ensemble = from_leaves(template, dict(zip(names, columns, strict=True)))
  knowledge = {
    name: Knowledge(
      status=p.status, prior=p.prior, prior_sd=p.prior_sd, stderr=p.stderr,
      source=p.source, measure=p.measure,
    )
    for name, p in document.parameters.items()
  }  # fmt: skip
  corrections = [residuals_lib.rebuild(r, arrays) for r in document.residuals]
  return FittedSystem(
    system,
    knowledge,
    ensemble,
    dict(document.scatter),
    {residual.key: residual for residual in corrections},
  )


def _template(document: SystemDocument) -> System:
  """A system of that structure, with the parameters of the document."""
  try:
    system = System.of(
      document.name,
      [Tier.of(**tier) for tier in document.tiers],
      [Engine.of(**engine) for engine in document.engines],
      compute_units=document.compute_units,
    )
  except (TypeError, ValueError, errors.SpecError) as error:
    raise ValueError(
      f'a structure that this code cannot build ({error})'
    ) from None
  here = {(name, info.unit) for name, info in system.infos().items()}
  there = {(name, p.unit) for name, p in document.parameters.items()}
  for odd, what in ((here - there, 'it lacks'), (there - here, 'it alone has')):
    if odd:
      name, unit = min(odd)
      raise ValueError(f'{what} the parameter {name!r} [{unit}]')
  return system


def _static(part: Any) -> dict[str, bool | int | str]:
  """Fields that are structure, as plain values."""
  found = {}
  for field in dataclasses.fields(part):
    if field.metadata.get('static'):
      value = getattr(part, field.name)
      found[field.name] = str(value) if isinstance(value, str) else value
  return found
