"""Which tensor of a program is which of a plan: rules on paths, as data.

A rule names the tensor group of a leaf and the logical axis of each of its
dimensions; a plan then says which ranks share that axis. Paths are joined by
'/', such as 'layers/attention/query/kernel'. The names are those of flax
(`nnx.MultiHeadAttention`), MaxText, Llama and Hugging Face; a program's own
rules come before them.

Layers are either stacked (a scan: the path has 'layers' without a number, and
the first dimension counts layers) or apart ('layers/3/...', 'layers_3/...').
"""

import re
from typing import NamedTuple

import jax

from diffmem import errors
from diffmem.workloads import caches as caches_lib
from diffmem.workloads import stage as stage_lib

# Logical axes. `embed` is the width of the model, which fully-sharded data
# parallelism prefers to share; `None` is never shared by the tensor ranks.
EMBED, HEADS, KV_HEADS, MLP = 'embed', 'heads', 'kv_heads', 'mlp'
VOCAB, EXPERT, BATCH, CONTEXT = 'vocab', 'expert', 'batch', 'context'
LOGICAL = (EMBED, HEADS, KV_HEADS, MLP, VOCAB, EXPERT, BATCH, CONTEXT)


class Rule(NamedTuple):
  """What a leaf is; it applies where the pattern and the rank agree.

  Attributes:
    pattern: regular expression, searched in the joined path.
    axes: logical axis (or None) of each dimension but the layers'.
    group: tensor group of the plan; None for one that stays near.
  """

  pattern: str
  axes: tuple[str | None, ...]
  group: str | None


_MATRIX = r'(/(kernel|weight|weights|w|embedding|table))?$'
_BIAS = r'/(bias|b)$'
_MOE = r'(^|/)(moe|moe_block|block_sparse_moe|(routed_?)?experts)/(.*/)?'
_UP_NAMES = '(gate|up|gate_proj|up_proj|wi|wi_0|wi_1|w1|w3|fc1|c_fc)'
_DOWN_NAMES = '(down|down_proj|w2|fc2)'
_Q = r'(^|/)(q|query|q_proj|wq|query_proj)'
_KV = r'(^|/)(k|v|kv|key|value|k_proj|v_proj|wk|wv|key_proj|value_proj)'
_OUT = r'(^|/)(o|out|output|o_proj|wo|out_proj|c_proj)'
_UP, _DOWN = rf'(^|/){_UP_NAMES}', rf'(^|/){_DOWN_NAMES}'
_MLP_OUT = r'(^|/)(mlp|ffn|feed_forward|shared_experts?)/(wo|out|c_proj)'
_SHARED = r'(^|/)shared_experts?/(.*/)?'
_NORM = r'(^|/)\w*(norm|ln|ln_\w+|layernorm)\w*(/(scale|weight|bias|gain))?$'
_ATTENTION, _MLP = stage_lib.ATTENTION, stage_lib.MLP
_EXPERTS, _TABLES = stage_lib.EXPERTS, stage_lib.EMBEDDINGS

DEFAULT_RULES: tuple[Rule, ...] = (
  Rule(r'(^|/)(q_norm|k_norm)(/\w+)?$', (None,), _ATTENTION),
  Rule(_NORM, (EMBED,), _ATTENTION),
  # Experts have their count as first dimension; with two dimensions it is the
  # router, which is whole on every tensor rank, as in `workloads.stage`.
  Rule(r'(^|/)router' + _MATRIX, (EMBED, None), _ATTENTION),
  Rule(_SHARED + _UP_NAMES + _MATRIX, (EMBED, MLP), _MLP),
  Rule(_SHARED + f'({_DOWN_NAMES}|wo|out)' + _MATRIX, (MLP, EMBED), _MLP),
  Rule(_MOE + 'gate' + _MATRIX, (EMBED, None), _ATTENTION),
  Rule(_MOE + _UP_NAMES + _MATRIX, (EXPERT, EMBED, MLP), _EXPERTS),
  Rule(
    _MOE + f'({_DOWN_NAMES}|wo|out)' + _MATRIX, (EXPERT, MLP, EMBED), _EXPERTS
  ),
  Rule(_MLP_OUT + _MATRIX, (MLP, EMBED), _MLP),
  Rule(_MLP_OUT + _BIAS, (EMBED,), _MLP),
  Rule(_UP + _MATRIX, (EMBED, MLP), _MLP),
  Rule(_UP + _BIAS, (MLP,), _MLP),
  Rule(_DOWN + _MATRIX, (MLP, EMBED), _MLP),
  Rule(_DOWN + _BIAS, (EMBED,), _MLP),
  Rule(_Q + _BIAS, (HEADS, None), _ATTENTION),
  Rule(_Q + _BIAS, (HEADS,), _ATTENTION),
  Rule(_Q + _MATRIX, (EMBED, HEADS), _ATTENTION),
  Rule(_Q + _MATRIX, (EMBED, HEADS, None), _ATTENTION),
  Rule(_KV + _BIAS, (KV_HEADS, None), _ATTENTION),
  Rule(_KV + _BIAS, (KV_HEADS,), _ATTENTION),
  Rule(_KV + _MATRIX, (EMBED, KV_HEADS), _ATTENTION),
  Rule(_KV + _MATRIX, (EMBED, KV_HEADS, None), _ATTENTION),
  Rule(_OUT + _MATRIX, (HEADS, EMBED), _ATTENTION),
  Rule(_OUT + _MATRIX, (HEADS, None, EMBED), _ATTENTION),
  Rule(_OUT + _BIAS, (EMBED,), _ATTENTION),
  Rule(
    r'(^|/)(embed|embedding|embedder|embed_tokens|tok_embeddings|'
    r'token_embedder|wte)' + _MATRIX,
    (VOCAB, EMBED), _TABLES,
  ),
  Rule(
    r'(^|/)(wpe|positions?|pos_embed\w*|position_embed\w*)' + _MATRIX,
    (None, EMBED), _TABLES,
  ),
  Rule(
    r'(^|/)(lm_head|head|logits|logits_dense|output_layer)' + _MATRIX,
    (EMBED, VOCAB), _TABLES,
  ),
  Rule(
    r'(^|/)(lm_head|head|logits|output_layer)' + _BIAS, (VOCAB,), _TABLES
  ),
)  # fmt: skip

# Caches: sequences, tokens, heads, values of a head; a latent cache has no
# heads. States of linear attention have no tokens.
_PAGES = (
  Rule('', (BATCH, CONTEXT, KV_HEADS, None), None),
  Rule('', (BATCH, CONTEXT, None), None),
)
CACHE_RULES: dict[str, tuple[Rule, ...]] = {
  stage_lib.KV_CACHE: _PAGES,
  caches_lib.KV_WINDOWED: _PAGES,
  caches_lib.STATES: (Rule('', (BATCH, KV_HEADS, None, None), None),),
}
# Placed by pages; all else is placed by layers.
PAGED = (stage_lib.KV_CACHE, caches_lib.KV_WINDOWED)

_LAYERS = r'(?P<stack>(^|.*/)\w*(layers|layer|blocks|block|h|caches|cache))'
_APART = re.compile(_LAYERS + r'[/_](?P<index>\d+)(/|$)')
_STACKED = re.compile(_LAYERS + r'(/|$)')
_SINGLE_EXPERT = re.compile(r'(^|/)\w*experts?[/_]\d+(/|$)')


class Layer(NamedTuple):
  """Where a leaf is in the model.

  Attributes:
    stack: path of the stack of layers; None for a leaf outside of them.
    index: its layer, where layers are apart; None for a stacked leaf.
  """

  stack: str | None
  index: int | None

  @property
  def stacked(self) -> bool:
    """Whether the first dimension counts layers."""
    return self.stack is not None and self.index is None


def joined_path(keys: tuple) -> str:
  """A path of `jax.tree_util` joined by '/'; flax's `.value` is left out."""
  names = []
  for key in keys:
    if isinstance(key, jax.tree_util.GetAttrKey) and key.name == 'value':
      continue
    names.append(jax.tree_util.keystr((key,), simple=True))
  return '/'.join(names)


def layer_of(path: str) -> Layer:
  """Which layer a path belongs to."""
  found = _APART.search(path)
  if found:
    return Layer(found['stack'], int(found['index']))
  found = _STACKED.search(path)
  return Layer(found['stack'] if found else None, None)


def find_rule(
  rules: tuple[Rule, ...], path: str, shape: tuple[int, ...]
) -> Rule:
  """The first rule of a leaf.

  Args:
    rules: in the order in which they are tried.
    path: joined path.
    shape: of the leaf, the axis of stacked layers included.

  Raises:
    PlanError: none applies; names the path, the shape and what to add.
  """
  rank = len(shape) - layer_of(path).stacked
  if _SINGLE_EXPERT.search(path):
    raise errors.PlanError(
      f'{path} {shape}: experts one by one cannot be shared by expert ranks; '
      'stack them in one array, experts first'
    )
  named = [r for r in rules if re.search(r.pattern, path)]
  for rule in named:
    if len(rule.axes) == rank:
      return rule
  if named:
    wanted = ' or '.join(sorted({str(len(r.axes)) for r in named}))
    raise errors.PlanError(
      f'{path} {shape}: the rule {named[0].pattern!r} is for {wanted} '
      f'dimensions, without that of stacked layers; this leaf has {rank}'
    )
  raise errors.PlanError(
    f'{path} {shape}: no rule names this leaf; add one, such as '
    f'Rule({path.rsplit("/", 1)[-1] + "$"!r}, '
    f'{("embed",) + (None,) * (rank - 1)}, {_MLP!r})'
  )
