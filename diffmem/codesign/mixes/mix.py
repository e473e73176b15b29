"""A mix of workloads and its traffic: what a memory system is judged by.

    name = 'assistant'

    [[workload]]
    name = 'chat'                  # of the line in tables
    model = 'llama-3.1-70b'        # preset, or config.json
    phase = 'decode'               # 'train', 'prefill' or 'decode'
    chips = 8                      # of one replica
    tokens_per_s = 2.0e6           # traffic, all replicas together
    context = 8192                 # tokens of each sequence in the cache
    batch = [32, 64, 128, 256]     # of one replica: the planner chooses
    tpot_s = 0.05                  # optional limit of the step

    [[retrieval]]
    name = 'search'
    queries_per_s = 2.0e4
    chips = 8                      # devices with their host that hold the index
    vectors = 1.0e9
    vector_B = 128
    code_B = 32
    reads = 60                     # vertices read per query (DiskANN)

Every other field has a default that `Transformed` and `Retrieved` state. What
retrieval costs is carried by the tokens of the mix, as a share of its total.
"""

import difflib
import os
import pathlib
import tomllib
from typing import Annotated, Literal, NamedTuple

import pydantic

from diffmem import errors
from diffmem.workloads import (
  AnyBatchDecoding,
  Prefilling,
  Training,
  Transformer,
  load_workload,
)

_CONFIG = pydantic.ConfigDict(frozen=True, extra='forbid')
_Count = Annotated[int, pydantic.Field(ge=1)]
_Positive = Annotated[float, pydantic.Field(gt=0)]
# Fields of each phase beside those of all.
_FIELDS = {
  'train': ('seq_len', 'global_batch_tokens'),
  'prefill': ('seq_len', 'batch', 'cached', 'kv_B'),
  'decode': ('context', 'batch', 'kv_B', 'tpot_s'),
}


class Transformed(pydantic.BaseModel):
  """One workload of a transformer, as a file has it.

  Attributes:
    name: of its line in tables.
    model: preset, TOML file or config.json.
    phase: what runs.
    chips: devices of one replica.
    tokens_per_s: traffic of all replicas: trained, prefilled or decoded [1/s].
    dtype: number format of the matrix products.
    usable: share of each memory that tensors may fill.
    seq_len: train, prefill: tokens of a sequence.
    global_batch_tokens: train: tokens of a step.
    batch: decode, prefill: sequences at once in a replica; for decode also
      several numbers to choose from.
    context: decode: tokens of each sequence in the cache.
    cached: prefill: tokens of each that are in the cache before.
    kv_B: bytes of a cached value; the model's own where it is not given.
    tpot_s: decode: longest step [s].
  """

  model_config = _CONFIG

  name: Annotated[str, pydantic.Field(min_length=1)]
  model: str
  phase: Literal['train', 'prefill', 'decode']
  chips: _Count
  tokens_per_s: _Positive
  dtype: str = 'bfloat16'
  usable: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.9
  seq_len: _Count = 8192
  global_batch_tokens: _Count = 4 * 2**20
  batch: _Count | tuple[_Count, ...] = 64
  context: _Count = 8192
  cached: Annotated[int, pydantic.Field(ge=0)] = 0
  kv_B: _Positive | None = None
  tpot_s: _Positive | None = None

  @pydantic.model_validator(mode='after')
  def _of_its_phase(self):
    own = {*_FIELDS[self.phase]}
    for name in {f for fields in _FIELDS.values() for f in fields} - own:
      if name in self.model_fields_set:
        raise ValueError(
          f'{name} says nothing of phase {self.phase!r}, which has '
          f'{", ".join(_FIELDS[self.phase])}'
        )
    if self.phase == 'prefill' and isinstance(self.batch, tuple):
      raise ValueError('batch of a prefill: expected one number')
    if self.phase == 'train' and self.global_batch_tokens % self.seq_len:
      near = max(round(self.global_batch_tokens / self.seq_len), 1)
      raise ValueError(
        f'global_batch_tokens = {self.global_batch_tokens} is not a multiple '
        f'of seq_len; the nearest is {near * self.seq_len}'
      )
    return self


class Retrieved(pydantic.BaseModel):
  """Searches of a vector index, spread over the devices of one replica.

  Every device holds its share of the vectors, with a graph of its own over
  them, and every query visits all (Milvus, Vespa and Lucene shard so).

  Attributes:
    name: of its line in tables.
    queries_per_s: traffic of all replicas [1/s].
    chips: devices, each with its share of the host, that hold the index.
    vectors: in the index.
    vector_B: bytes of a vector.
    code_B: bytes of its code, which the search compares.
    degree: neighbours of a vertex (DiskANN, NeurIPS 2019, section 5).
    reads: vertices read per query and device; recall grows with it.
    beam: of them, in flight at once.
    queries_in_flight: of one device.
    usable: share of each memory that may be filled.
  """

  model_config = _CONFIG

  name: Annotated[str, pydantic.Field(min_length=1)]
  queries_per_s: _Positive
  chips: _Count
  vectors: _Positive
  vector_B: _Positive
  code_B: _Positive = 32.0
  degree: _Positive = 64.0
  reads: _Positive = 60.0
  beam: _Positive = 4.0
  queries_in_flight: _Positive = 64.0
  usable: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.9


class _File(pydantic.BaseModel):
  model_config = _CONFIG

  name: str = 'mix'
  workload: tuple[Transformed, ...] = ()
  retrieval: tuple[Retrieved, ...] = ()

  @pydantic.model_validator(mode='after')
  def _named(self):
    names = [w.name for w in (*self.workload, *self.retrieval)]
    if not self.workload:
      raise ValueError('expected at least one [[workload]]')
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
      raise ValueError(f'{twice[0]!r} is there twice')
    return self


class Item(NamedTuple):
  """One transformer workload of the mix; hashable.

  Attributes:
    name: of its line in tables.
    model: the transformer.
    phase: a decode step takes its batch from `batches`.
    chips: devices of one replica.
    tokens_per_s: traffic of all replicas [1/s].
    dtype: number format of the matrix products.
    usable: share of each memory that tensors may fill.
    batches: sequences at once in a replica, to choose from; () for training.
    tpot_s: longest step that is allowed [s]; inf for none.
  """

  name: str
  model: Transformer
  phase: Training | AnyBatchDecoding | Prefilling
  chips: int
  tokens_per_s: float
  dtype: str = 'bfloat16'
  usable: float = 0.9
  batches: tuple[int, ...] = ()
  tpot_s: float = float('inf')

  @property
  def phase_name(self) -> str:
    """'train', 'prefill' or 'decode'."""
    kinds = {Training: 'train', Prefilling: 'prefill'}
    return kinds.get(type(self.phase), 'decode')


class Mix(NamedTuple):
  """Workloads that share one kind of machine.

  Attributes:
    name: such as 'assistant'.
    items: of transformers.
    searches: of vector indexes.
  """

  name: str
  items: tuple[Item, ...]
  searches: tuple[Retrieved, ...] = ()

  @property
  def tokens_per_s(self) -> float:
    """Traffic of all transformer workloads [1/s]."""
    return sum(item.tokens_per_s for item in self.items)

  def only(self, names: tuple[str, ...]) -> 'Mix':
    """The mix with some of its workloads.

    Raises:
      SpecError: a name that is not there.
    """
    known = [w.name for w in (*self.items, *self.searches)]
    for name in names:
      if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.4)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        raise errors.SpecError(
          f'{self.name} has no workload {name!r}{hint} (it has '
          f'{", ".join(known)})'
        )
    return self._replace(
      items=tuple(i for i in self.items if i.name in names),
      searches=tuple(s for s in self.searches if s.name in names),
    )


def load_mix(path: str | os.PathLike) -> Mix:
  """Reads a mix; see the head of this module.

  Raises:
    SpecError: unreadable, or a field that does not fit, with its path; an
      unknown model.
  """
  path = pathlib.Path(path)
  try:
    found = _File.model_validate(
      tomllib.loads(path.read_text(encoding='utf-8'))
    )
  except OSError as error:
    raise errors.SpecError(f'{path}: {error.strerror or error}') from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: not TOML: {error}') from None
  except pydantic.ValidationError as error:
    lines = [
      f'{path}: {".".join(str(p) for p in e["loc"])}: {e["msg"]}'
      for e in error.errors()
    ]
    raise errors.SpecError('\n'.join(lines)) from None
  items = tuple(_item(w) for w in found.workload)
  return Mix(found.name, items, found.retrieval)


def _item(w: Transformed) -> Item:
  model = load_workload(w.model)
  length = w.context if w.phase == 'decode' else w.seq_len + w.cached
  if length > model.max_context:
    raise errors.SpecError(
      f'{w.name}: {length} tokens are beyond the context of {model.name}, '
      f'{model.max_context}'
    )
  batches = w.batch if isinstance(w.batch, tuple) else (w.batch,)
  phase = {
    'train': lambda: Training(w.seq_len, w.global_batch_tokens // w.seq_len),
    'decode': lambda: AnyBatchDecoding(w.context, w.kv_B),
    'prefill': lambda: Prefilling(batches[0], w.seq_len, w.cached, w.kv_B),
  }[w.phase]()
  return Item(
    w.name, model, phase, w.chips, w.tokens_per_s, w.dtype, w.usable,
    batches if w.phase == 'decode' else (),
    w.tpot_s or float('inf'),
  )  # fmt: skip
