"""Time of prompts on one machine, kernel by kernel.

The laws of a `System` give a prompt's time from bytes and FLOPs alone, 20 %
below what vLLM takes on an H100; with the shapes of its kernels, and what was
learned from kernel timings, it is 2 % (benchmarks/kv_reload_truth.py).
"""

import numpy as np

from diffmem.runs.pricing import Prices, near_memory
from diffmem.runs.serving_kernels import Namer
from diffmem.system import FittedSystem
from diffmem.workloads.kernels import Sequences, Shard, forward
from diffmem.workloads.transformer import Transformer


class PromptPass:
  """Times of passes over one prompt; remembers kernels by shape.

  Attributes:
    model: the transformer; `model.formats` says what products run in.
    tensor: accelerators that share each layer.
  """

  def __init__(
    self,
    fitted: FittedSystem,
    model: Transformer,
    *,
    tensor: int = 1,
    backend: str = 'vllm',
  ):
    """Sets the machine and the model.

    Args:
      fitted: the machine, with what was learned from kernel timings.
      model: the transformer.
      tensor: accelerators that share each layer; experts whole, on all.
      backend: serving stack, whose kernels are chosen.
    """
    self.model, self.tensor = model, tensor
    self._prices = Prices(fitted)
    self._namer = Namer(fitted, backend)
    near = fitted.system.tier(self._prices.memory)
    self._read_Bps = float(near.read_Bps)
    self._shard = Shard(tensor=tensor, expert=tensor)

  def __call__(
    self, tokens: np.ndarray | float, before: np.ndarray | float = 0.0
  ) -> np.ndarray:
    """Accelerator time of a pass [s]: the time times the accelerators.

    Args:
      tokens: new ones of one sequence, of any shape.
      before: tokens whose keys and values are there, of the same shape.

    Raises:
      FitError: the machine lacks a number format of the model.
    """
    tokens, before = np.broadcast_arrays(
      np.asarray(tokens, float), np.asarray(before, float)
    )
    passes = [
      forward(
        self.model,
        self._shard,
        [Sequences(1.0, max(round(new), 1.0), float(round(cached)))],
        head_rows=1.0,
      )
      for new, cached in zip(tokens.flat, before.flat, strict=True)
    ]
    choices = [[self._namer(k) for k in one.kernels] for one in passes]
    self._prices.learn(k for one in choices for ks in one for k in ks)
    time_s = [
      one.streamed_B / self._read_Bps
      + sum(ks[0].count * min(self._prices(k) for k in ks) for ks in kernels)
      for one, kernels in zip(passes, choices, strict=True)
    ]
    return self.tensor * np.reshape(time_s, tokens.shape)


def least_tensor(
  fitted: FittedSystem,
  model: Transformer,
  room: float = 1.5,
  most: int = 8,
) -> int:
  """The least power of two of accelerators that hold a model.

  Args:
    fitted: the machine.
    model: the transformer.
    room: memory over weights.
    most: accelerators of a node. A larger model has other layers on other
      nodes (a pipeline), which does not change accelerator time.
  """
  memory_B = float(fitted.system.tier(near_memory(fitted.system)).capacity_B)
  count = model.parameters()
  stored_B = count.experts * model.formats.part_B('experts') + (
    count.total - count.experts
  ) * model.formats.part_B('weights')
  tensor = 1
  while tensor < most and room * stored_B > tensor * memory_B:
    tensor *= 2
  return tensor
