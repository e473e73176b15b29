"""The card of a checkpoint: what it was made of, and how good it is."""

import datetime
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic

import diffmem

# Raised with every change of system.json, card.json, checksums.json or of the
# parameters of a system that makes an older checkpoint mean something else.
SCHEMA_VERSION = 2

_Finite = Annotated[float, pydantic.AllowInfNan(False)]


class Strict(pydantic.BaseModel):
  """Base of everything in a checkpoint: frozen, no unknown keys.

  Numbers that are not finite are written as text ('Infinity', 'NaN'), since
  JSON has none.
  """

  model_config = pydantic.ConfigDict(
    frozen=True, extra='forbid', ser_json_inf_nan='strings'
  )


class TraceFile(Strict):
  """A trace that went into a fit.

  Attributes:
    file: its name.
    sha256: its SHA-256, in hexadecimal.
    rows: how many observations it holds.
  """

  file: str
  sha256: str = pydantic.Field(pattern='^[0-9a-f]{64}$')
  rows: int = pydantic.Field(ge=0)


class Card(Strict):
  """What a checkpoint was made of, and how good it is.

  Attributes:
    schema_version: of the checkpoint's files.
    created: when, in UTC.
    code_version: version of diffmem.
    jax_version: version of jax.
    traces: what it was fitted to.
    held_out: errors on data kept aside, one mapping per group with the keys
      of `evaluate --json`; what is not known is None.
    notes: anything a reader should know.
    seed: of the fit, or None.
  """

  schema_version: int = SCHEMA_VERSION
  created: pydantic.AwareDatetime
  code_version: str
  jax_version: str
  traces: tuple[TraceFile, ...] = ()
  held_out: tuple[dict[str, str | int | _Finite | None], ...] = ()
  notes: str = ''
  seed: int | None = None

  @classmethod
  def now(
    cls,
    *,
    traces: Sequence[TraceFile] = (),
    held_out: Sequence[Mapping[str, Any]] = (),
    notes: str = '',
    seed: int | None = None,
  ) -> 'Card':
    """A card of this moment, this code and this jax.

    Examples:
      >>> Card.now(seed=7).schema_version == SCHEMA_VERSION
      True
    """
    return cls(
      created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
      code_version=diffmem.__version__,
      jax_version=importlib.metadata.version('jax'),
      traces=tuple(traces),
      held_out=tuple(dict(group) for group in held_out),
      notes=notes,
      seed=seed,
    )
