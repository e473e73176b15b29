"""A decode step that carries pieces of prompts, lowered (chunked prefill).

Agrawal et al., "Sarathi-Serve", OSDI 2024: the weights are read once for both.
Without prompts it is the decode step of `decode.py`, without sequences to
decode the pass of `prefill.py`.
"""

from jaxtyping import ArrayLike, Float

from diffmem.workloads import decode, prefill, serving_step
from diffmem.workloads.choices import Choices, Machine
from diffmem.workloads.decode import Decoding
from diffmem.workloads.lowered import Lowered
from diffmem.workloads.prefill import Prompt
from diffmem.workloads.transformer import Transformer


def lower_mixed(
  model: Transformer,
  decoding: Decoding,
  prompt: Prompt,
  prompts: Float[ArrayLike, '*plan'],
  choices: Choices,
  machine: Machine,
) -> Lowered:
  """Lowers many plans of a step that decodes and prefills.

  Args:
    model: the transformer.
    decoding: sequences that decode; `batch` may be an array [plan], 0 for
      none.
    prompt: each prompt, or piece of one (`prefill.chunk_of`).
    prompts: how many, all devices together; 0 for none.
    choices: discrete choices [plan].
    machine: from `machine_of` for this number of chips.
  """
  parts = [
    decode.decode_part(model, decoding, choices),
    prefill.prompt_part(model, prompt, prompts, choices, machine),
  ]
  pieces = decode.pieces_of(model, decoding)
  return serving_step.lower_step(model, parts, pieces, choices, machine)
