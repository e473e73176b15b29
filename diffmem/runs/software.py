"""What is known of software: one JSON file with the stacks of every kind.

The file lies beside the checkpoints, because it was fitted with them: its
factors are over the times that these checkpoints give.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from diffmem import errors
from diffmem.runs import (
  energy,
  offload,
  offload_stack,
  serving,
  serving_stack,
  training,
)
from diffmem.runs.answer import Answer
from diffmem.runs.machines import Machines
from diffmem.runs.table import Kind
from diffmem.workloads import find_workload
from diffmem.workloads.transformer import Transformer

FILE = 'software.json'
_SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Software:
  """Fitted stacks of every kind of run.

  Attributes:
    training: of training frameworks.
    serving: of inference servers.
    offload: of offloading runtimes.
    energy: of boards that serve.
  """

  training: training.TrainingStacks
  serving: serving_stack.Stacks
  offload: offload_stack.OffloadStacks
  energy: energy.EnergyStacks

  @classmethod
  def prior(cls) -> 'Software':
    """What is believed before any run is seen."""
    return cls(
      training.TrainingStacks.prior(),
      serving_stack.prior_stacks(),
      offload_stack.prior_stacks(),
      energy.prior_stacks(),
    )

  def predict(
    self,
    kind: Kind,
    rows: Sequence[dict[str, Any]],
    machines: Machines,
    find: Callable[[str], Transformer] = find_workload,
  ) -> list[Answer]:
    """One answer per row and observable, in the order of the rows.

    Args:
      kind: what the rows measure.
      rows: of a table of runs.
      machines: fitted systems.
      find: the model that a serving row names.
    """
    if kind is Kind.TRAINING:
      return training.predict_training(rows, machines, self.training)
    if kind is Kind.SERVING:
      return serving.predict_serving(rows, machines, self.serving, find)
    if kind is Kind.ENERGY:
      return energy.predict_energy(rows, None, self.energy)
    return offload.predict_offload(rows, None, self.offload)

  def fitted(
    self, kind: Kind, rows: Sequence[dict[str, Any]], machines: Machines
  ) -> 'Software':
    """With the stacks of one kind fitted anew."""
    if kind is Kind.TRAINING:
      found = training.fit_training(rows, machines)
      return dataclasses.replace(self, training=found)
    if kind is Kind.SERVING:
      found = serving.fit_serving(rows, machines)
      return dataclasses.replace(self, serving=found)
    if kind is Kind.ENERGY:
      return dataclasses.replace(self, energy=energy.fit_energy(rows))
    return dataclasses.replace(self, offload=offload.fit_offload(rows))

  def save(self, path: str | pathlib.Path) -> None:
    """Writes the JSON file."""
    document = {
      'schema_version': _SCHEMA_VERSION,
      'training': self.training.document(),
      'serving': self.serving.document(),
      'offload': self.offload.document(),
      'energy': self.energy.document(),
    }
    text = json.dumps(document, indent=1)
    pathlib.Path(path).write_text(text + '\n', encoding='utf-8')


def of_folder(folder: str | pathlib.Path) -> Software:
  """The software beside a folder's checkpoints; priors where there is none.

  Raises:
    SpecError: a file of that name that holds something else.
  """
  path = pathlib.Path(folder) / FILE
  return load(path) if path.is_file() else Software.prior()


def load(path: str | pathlib.Path) -> Software:
  """Reads the file that `Software.save` wrote.

  Raises:
    SpecError: a file that is missing or holds something else.
  """
  path = pathlib.Path(path)
  try:
    document = json.loads(path.read_text(encoding='utf-8'))
    if document.get('schema_version') != _SCHEMA_VERSION:
      raise KeyError('schema_version')
    return Software(
      training.TrainingStacks.from_document(document['training']),
      serving_stack.Stacks.from_document(document['serving']),
      offload_stack.OffloadStacks.from_document(document['offload']),
      energy.EnergyStacks.from_document(document['energy']),
    )
  except OSError as error:
    raise errors.SpecError(f'{path}: {error.strerror or error}') from None
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.SpecError(
      f'{path}: no file of fitted software: {error!r}; make one with '
      'experiments.evaluate_runs --calibrate_on=FILE --software_out=PATH'
    ) from None
