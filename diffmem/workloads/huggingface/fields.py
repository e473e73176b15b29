"""Fields of a config.json: read by any of their names, and none overlooked.

A field that is read is ticked off. What is left and looks like a shape is an
error: a model whose new kind of layer is overlooked would be counted wrong.
"""

import re
from typing import Any

from diffmem import errors
from diffmem.workloads import names

# Words of fields that never change a shape: tokens, positions, training,
# generation, routing scores, other modalities, bookkeeping.
_NO_SHAPE = re.compile(
  r"""token|dropout|drop_|_drop|_eps|epsilon|init|_std|coef|loss|alpha|beta
  |rope|rotary|yarn|theta|scal|factor|multiplier|cap|clip|limit|logit|version
  |dtype|auto_map|architect|model_type|_name|name_|vision|image|video|audio
  |speech|media|visual|label|generation|output_|return_|router|routing|scor
  |topk_method|topk_group|n_group$|aux|temperature|beam|length|penalty|prun
  |is_decoder|cross|problem|task|grad|summary|flash|sample|sampling|top_p
  |^top_k$|bad_words|remove_invalid|typical|early_stop|pdrop|_act$|activation
  |act_fn|position|alibi|causal|mask|parallel|pretraining_tp|ep_size|tp_size
  |fused|fp32|bf16|float|quant|compression|torch|layout|capacity|expert_group|tf_|hash|transformers|license
  |prefix|implementation|backend|kernels|chunk_size|interleave$|indexer_
  |bidirectional|seed|device|offload|softmax|residual|upcast|reorder|_class
  |unified|norm|bias|sink|time_step|logits|tie_|use_cache|gemm|overlap|pad_
  |^mtp_|nextn|_mtp|per_layer_input$|special|prompt|adapter|lora_adapt""",
  re.VERBOSE,
)
_SHAPE = re.compile(
  r"""head|dim|layer|hidden|size|rank|lora|expert|moe|window|width|ff|mlp|kv
  |attn|attention|conv|state|ssm|mamba|block|depth|embd|embed|vocab|index
  |sparse|linear|latent|proj|pattern|hybrid|channels|num_|^n_|gate|expand
  |freq|interval|ratio|qk""",
  re.VERBOSE,
)


class Fields:
  """Fields of one config.json that are ticked off as they are read."""

  def __init__(
    self, values: dict[str, Any], file: str, known: tuple[str, ...] = ()
  ):
    self._values = values
    self.file = file
    self._read = set(known)

  def __contains__(self, name: str) -> bool:
    return self._values.get(name) is not None

  def get(self, *synonyms: str, default: Any = None) -> Any:
    """The first of the fields that is there and not null."""
    self._read |= set(synonyms)
    for name in synonyms:
      if self._values.get(name) is not None:
        return self._values[name]
    return default

  def flag(self, *synonyms: str, default: bool = False) -> bool:
    """A field that is true or false.

    Raises:
      SpecError: it is neither.
    """
    value = self.get(*synonyms, default=default)
    if not isinstance(value, bool):
      raise self._wrong(synonyms, value, 'true or false')
    return value

  def count(self, *synonyms: str, default: int = 0) -> int:
    """A whole number, 0 or more.

    Raises:
      SpecError: it is something else.
    """
    value = self.get(*synonyms, default=default)
    if isinstance(value, float) and value.is_integer():
      value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
      raise self._wrong(synonyms, value, 'a whole number, 0 or more')
    return value

  def need(self, *synonyms: str) -> int:
    """A whole number above 0 that must be there.

    Raises:
      SpecError: it is missing, with the nearest field, or something else.
    """
    if self.get(*synonyms) is None:
      unread = [k for k in self._values if k not in self._read]
      near = names.nearest(synonyms[0], unread)
      other = f' (or {", ".join(synonyms[1:])})' if synonyms[1:] else ''
      raise errors.SpecError(
        f'{self.file}: {synonyms[0]}: missing{other}{near}'
      )
    value = self.count(*synonyms)
    if not value:
      raise self._wrong(synonyms, value, 'a whole number above 0')
    return value

  def words(self, name: str) -> list[str]:
    """A list of words; [] where it is missing.

    Raises:
      SpecError: it is something else.
    """
    value = self.get(name, default=[])
    if not isinstance(value, list) or not all(
      isinstance(w, str) for w in value
    ):
      raise self._wrong((name,), value, 'a list of words')
    return value

  def numbers(self, name: str, length: int = 0) -> list[int] | None:
    """A list of whole numbers (true and false count); None if missing.

    Args:
      name: of the field.
      length: how many there must be at least.

    Raises:
      SpecError: it is something else.
    """
    value = self.get(name)
    if value is None:
      return None
    if not isinstance(value, list) or not all(
      isinstance(v, int) for v in value
    ):
      raise self._wrong((name,), value, 'a list of whole numbers')
    if len(value) < length:
      raise self._wrong((name,), value, f'a list of {length} numbers')
    return value[:length] if length else value

  def of(self, name: str) -> 'Fields':
    """The fields of a nested object; none where it is missing."""
    value = self.get(name, default={})
    if not isinstance(value, dict):
      raise self._wrong((name,), value, 'an object')
    return Fields(value, f'{self.file}: {name}')

  def nothing_left(self) -> None:
    """Refuses fields that look like a shape and were not read.

    Raises:
      SpecError: the first of them, its value and the nearest known field.
    """
    for name, value in self._values.items():
      if name not in self._read and _looks_like_a_shape(name, value):
        near = names.nearest(name, self._read)
        raise errors.SpecError(
          f'{self.file}: {name}: unknown field of the architecture (found '
          f'{value!r:.60}){near or "; describe the model in a TOML file"}'
        )

  def wrong(self, name: str, expected: str) -> errors.SpecError:
    """The error of a field that does not fit."""
    return self._wrong((name,), self._values.get(name), expected)

  def _wrong(self, synonyms, value, expected: str) -> errors.SpecError:
    there = [s for s in synonyms if self._values.get(s) is not None]
    name = (there or list(synonyms))[0]
    return errors.SpecError(
      f'{self.file}: {name}: expected {expected} (found {value!r:.60})'
    )


def _looks_like_a_shape(name: str, value: Any) -> bool:
  """Whether a field may say how large a layer is, or of which kind."""
  if not value or isinstance(value, float):
    return False
  if name.startswith('_') or _NO_SHAPE.search(name.lower()):
    return False
  if isinstance(value, str) and not re.search('type|pattern', name):
    return False
  return bool(_SHAPE.search(name.lower()))
