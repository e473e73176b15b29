"""A list of measurements in a file: exactly what a collection shall run.

    platform = 'cpu'              # or 'gpu'

    [[probe]]
    kind = 'chase'
    bytes_per_thread = 65536
    threads = 1

    [[probe]]
    kind = 'sweep'
    op = 'stream'
    array_bytes = 1048576
    threads = 2

Kinds of a CPU: `chase`, `sweep`, `loaded`, `file_read`, `program`; of a GPU:
`sweep`, `chase`, `gemm`, `attention`, `cast`, `multiply_add`, `host_copy`, and
`window`, the board's power under a `load` that is one of these or absent. The
fields are those of the probe classes beside this module. `diffmem.codesign`
writes such lists; `experiments.collect --list=FILE` runs them.
"""

import dataclasses
import os
import pathlib
import tomllib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import pydantic

from diffmem import errors
from diffmem.traces.collect import (
  disk,
  gpu_attention,
  gpu_host,
  gpu_kernels,
  gpu_memory,
  gpu_power,
  machine,
  memory,
  programs,
)

Platform = Literal['cpu', 'gpu']
_Count = Annotated[int, pydantic.Field(gt=0)]
# The C kernels take arrays in steps of eight vectors, chains in lines.
_Array = Annotated[int, pydantic.Field(gt=0, multiple_of=512)]
_Lines = Annotated[int, pydantic.Field(gt=0, multiple_of=64)]
# Elements of an array are int32, and XLA wants even tiles of them.
_Words = Annotated[int, pydantic.Field(gt=0, multiple_of=4096)]
_Format = Literal['bfloat16', 'float16', 'float32', 'float8']


class _Entry(pydantic.BaseModel):
  """One probe as it stands in a file; `of` is the class that measures it."""

  model_config = pydantic.ConfigDict(frozen=True, extra='forbid')
  of: ClassVar[type]

  def probe(self) -> Any:
    """The probe."""
    fields = {n: v for n, v in self if n != 'kind'}
    return type(self).of(**fields)


class _CpuChase(_Entry):
  of = memory.Chase
  kind: Literal['chase']
  bytes_per_thread: _Lines
  threads: _Count = 1


class _CpuSweep(_Entry):
  of = memory.Sweep
  kind: Literal['sweep']
  op: Literal['stream', 'copy', 'triad']
  array_bytes: _Array
  threads: _Count = 1


class _Loaded(_Entry):
  of = memory.Loaded
  kind: Literal['loaded']
  op: Literal['stream', 'triad']
  delay: Annotated[int, pydantic.Field(ge=0)]
  threads: Annotated[int, pydantic.Field(ge=2)]


class _FileRead(_Entry):
  of = disk.FileRead
  kind: Literal['file_read']
  op: Literal['random_read', 'sequential_read']
  block_bytes: _Array
  depth: _Count = 1


class _Program(_Entry):
  of = programs.Program
  kind: Literal['program']
  op: Literal['gemm', 'gemm_chain', 'reduce', 'stream_reduce']
  shape: tuple[_Count, ...]

  @pydantic.model_validator(mode='after')
  def _fits(self):
    wanted = {'gemm': 3, 'gemm_chain': 2}.get(self.op, 1)
    if len(self.shape) != wanted:
      raise ValueError(f'expected a shape of {wanted} numbers for {self.op!r}')
    return self


class _GpuSweep(_Entry):
  of = gpu_memory.Sweep
  kind: Literal['sweep']
  mix: Literal[tuple(gpu_memory.MIXES)]
  array_bytes: _Words


class _GpuChase(_Entry):
  of = gpu_memory.Chase
  kind: Literal['chase']
  working_set_bytes: _Lines
  chains: _Count = 1
  granule_bytes: Annotated[int, pydantic.Field(gt=0, multiple_of=4)] = 128
  sequential: bool = False

  @pydantic.model_validator(mode='after')
  def _fits(self):
    nodes, rest = divmod(self.working_set_bytes, self.granule_bytes)
    if rest or nodes < self.chains:
      raise ValueError('expected whole granules, one for each chain at least')
    return self


class _Gemm(_Entry):
  of = gpu_kernels.Gemm
  kind: Literal['gemm']
  m: _Count
  n: _Count
  k: _Count
  dtype: _Format = 'bfloat16'


class _Attention(_Entry):
  of = gpu_attention.Attention
  kind: Literal['attention']
  op: Literal['prefill_attention', 'decode_attention']
  batch_size: _Count
  length: _Count
  num_heads: _Count
  num_kv_heads: _Count
  head_dim: _Count
  dtype: Literal['bfloat16', 'float16'] = 'bfloat16'


class _Cast(_Entry):
  of = gpu_kernels.Cast
  kind: Literal['cast']
  m: _Count
  k: _Count


class _MultiplyAdd(_Entry):
  of = gpu_kernels.MultiplyAdd
  kind: Literal['multiply_add']
  array_bytes: _Words
  fmas: _Count


class _HostCopy(_Entry):
  of = gpu_host.HostCopy
  kind: Literal['host_copy']
  size_bytes: _Count
  to_device: bool
  pinned: bool


_Load = Annotated[
  _GpuSweep | _GpuChase | _Gemm | _Attention | _MultiplyAdd,
  pydantic.Field(discriminator='kind'),
]


class _Window(_Entry):
  of = gpu_power.Window
  kind: Literal['window']
  load: _Load | None = None

  def probe(self) -> gpu_power.Window:
    """The probe, with that of its load."""
    return gpu_power.Window(self.load and self.load.probe())


class _CpuFile(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(frozen=True, extra='forbid')
  platform: Literal['cpu']
  probe: tuple[
    Annotated[
      _CpuChase | _CpuSweep | _Loaded | _FileRead | _Program,
      pydantic.Field(discriminator='kind'),
    ],
    ...,
  ] = pydantic.Field(min_length=1)


class _GpuFile(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(frozen=True, extra='forbid')
  platform: Literal['gpu']
  probe: tuple[
    Annotated[
      _GpuSweep | _GpuChase | _Gemm | _Attention | _Cast | _MultiplyAdd
      | _HostCopy | _Window,
      pydantic.Field(discriminator='kind'),
    ],
    ...,
  ] = pydantic.Field(min_length=1)  # fmt: skip


_File = Annotated[_CpuFile | _GpuFile, pydantic.Field(discriminator='platform')]
_ENTRIES = {
  entry.of: entry
  for entry in (
    _CpuChase, _CpuSweep, _Loaded, _FileRead, _Program, _GpuSweep, _GpuChase,
    _Gemm, _Attention, _Cast, _MultiplyAdd, _HostCopy, _Window,
  )
}  # fmt: skip


class ProbeList(NamedTuple):
  """What a collection shall run.

  Attributes:
    platform: 'cpu' or 'gpu'.
    probes: in the file's order, each once.
  """

  platform: Platform
  probes: tuple[Any, ...]


def load_list(
  path: str | os.PathLike, here: machine.Machine | None = None
) -> ProbeList:
  """Reads a list of probes.

  Args:
    path: TOML as above.
    here: the machine that shall run a CPU's list; by default this one.

  Raises:
    SpecError: unreadable, or a field that does not fit or is more than the
      machine has: file, path of the field, value and what was expected.
  """
  path = pathlib.Path(path)
  try:
    data = tomllib.loads(path.read_text(encoding='utf-8'))
    read = pydantic.TypeAdapter(_File).validate_python(data)
  except OSError as error:
    raise errors.SpecError(
      f'{path}: expected a list of probes ({error.strerror})'
    ) from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: expected TOML in UTF-8: {error}') from None
  except pydantic.ValidationError as error:
    faults = [
      f'{path}: {_place(fault["loc"])}: found {fault["input"]!r}; '
      f'{fault["msg"]}'
      for fault in error.errors()
    ]
    raise errors.SpecError('\n'.join(faults)) from None
  probes = tuple(entry.probe() for entry in read.probe)
  if read.platform == 'cpu':
    _check_fits(path, probes, here or machine.describe())
  return ProbeList(read.platform, tuple(dict.fromkeys(probes)))


def list_text(chosen: ProbeList, comments: Sequence[str] = ()) -> str:
  """The text of a list of probes.

  Args:
    chosen: platform and probes.
    comments: one line for each probe, or none.

  Raises:
    SpecError: a probe that a list cannot hold.
  """
  blocks = [f"platform = '{chosen.platform}'\n"]
  for i, probe in enumerate(chosen.probes):
    lines = [f'# {comments[i]}'] if comments else []
    lines += ['[[probe]]', *_lines(probe)]
    blocks.append('\n'.join(lines) + '\n')
  return '\n'.join(blocks)


def _lines(probe: Any) -> list[str]:
  """Fields of a probe as TOML, those at their default left out."""
  found = []
  for name, value in _fields(probe).items():
    if isinstance(value, dict):
      inside = ', '.join(f'{n} = {_value(v)}' for n, v in value.items())
      found.append(f'{name} = {{ {inside} }}')
    else:
      found.append(f'{name} = {_value(value)}')
  return found


def _fields(probe: Any) -> dict[str, Any]:
  entry = _ENTRIES.get(type(probe))
  if entry is None:
    raise errors.SpecError(
      f'{type(probe).__name__} is no probe that a list of probes can hold'
    )
  found = {'kind': entry.model_fields['kind'].annotation.__args__[0]}
  for field in dataclasses.fields(probe):
    value = getattr(probe, field.name)
    if field.name not in entry.model_fields or value == field.default:
      continue
    if dataclasses.is_dataclass(value):
      value = _fields(value)
    if value is not None:
      found[field.name] = value
  return found


def _value(value: Any) -> str:
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, tuple):
    return f'[{", ".join(map(str, value))}]'
  return f"'{value}'" if isinstance(value, str) else str(value)


def _place(loc: tuple) -> str:
  """'probe.2.threads' of pydantic's place, without the names of unions."""
  kept = [str(part) for part in loc if part not in ('cpu', 'gpu')]
  return '.'.join(kept) or 'the file'


def _check_fits(path, probes, here: machine.Machine) -> None:
  """Refuses what would take more than this machine has."""
  for i, probe in enumerate(probes):
    threads = getattr(probe, 'threads', 1)
    if threads > len(here.cpus):
      raise errors.SpecError(
        f'{path}: probe.{i}.threads: found {threads}; expected at most '
        f'{len(here.cpus)}, the CPUs that this process may use'
      )
    size = getattr(probe, 'working_set_bytes', 0) or (
      getattr(probe, 'bytes_per_thread', 0) * threads
    )
    if size > here.available_bytes // 2:
      raise errors.SpecError(
        f'{path}: probe.{i}: found {size} bytes in all; expected at most '
        f'{here.available_bytes // 2}, half of the memory that is free'
      )
