"""A transformer's forward pass on one device, kernel by kernel.

Where `lowered` sums a step into few operations that a planner can sweep, this
says which kernels run, in the shape columns of the trace schema, so that a
system fitted to kernel timings can price them. Element-wise kernels (norms,
rotation, activation, residual sums) are given as the bytes that they stream.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from diffmem.workloads.transformer import Transformer

# Names of number formats in kernel tables: (dtype, quantization) of products.
_PRODUCT_FORMATS = {
  'bfloat16': ('bfloat16', ''),
  'float16': ('bfloat16', ''),
  'float32': ('float32', ''),
  'float8': ('float8', ''),
  'fp8_block': ('float8', 'fp8_block'),
  'int8': ('int8', ''),
  'int4_wo': ('bfloat16', 'int4_wo'),
  'mxfp4': ('bfloat16', 'w4a16_mxfp4'),
  'mxfp8': ('float8', ''),
  'nvfp4': ('float4', 'nvfp4'),
  'float4': ('float4', 'nvfp4'),
}
_VALUE_B = 2.0  # bfloat16 activations
# Tokens of a sequence that a decode kernel takes at once.
MOST_VERIFIED = 16


class Kernel(NamedTuple):
  """Equal kernels of one pass.

  Attributes:
    op: operation of the trace schema.
    part: what it belongs to: 'attention', 'mlp', 'experts', 'head' or 'link'.
    count: how many of them run, one after the other.
    shape: its other columns of the trace schema.
  """

  op: str
  part: str
  count: float
  shape: Mapping[str, float | str]


class Pass(NamedTuple):
  """Kernels of one pass on one device.

  Attributes:
    kernels: products, attention, experts and collectives.
    streamed_B: bytes that element-wise kernels read and write [B].
    small: how many element-wise kernels run.
  """

  kernels: tuple[Kernel, ...] = ()
  streamed_B: float = 0.0
  small: float = 0.0

  def __add__(self, other: 'Pass') -> 'Pass':
    return Pass(
      self.kernels + other.kernels,
      self.streamed_B + other.streamed_B,
      self.small + other.small,
    )

  def times(self, count: float) -> 'Pass':
    """The same pass `count` times over."""
    kernels = tuple(k._replace(count=k.count * count) for k in self.kernels)
    return Pass(kernels, self.streamed_B * count, self.small * count)

  def of(self, *ops: str) -> tuple[Kernel, ...]:
    """Its kernels of some operations."""
    return tuple(k for k in self.kernels if k.op in ops)


class Shard(NamedTuple):
  """How one layer is spread over devices.

  Attributes:
    tensor: devices that share attention and dense matrices.
    expert: groups that share the experts.
    expert_tensor: devices that share each expert's matrices.
    data: groups with tokens of their own that share the experts.
    ranks_per_node: devices of one node.
    sequence: whether norms and residuals are split over `tensor` too.
    routes_shares: whether each tensor rank routes its own share of the tokens
      to the experts, as ranks of Megatron-Core do; else all ranks have all.
    collective: library and mode of the collectives ('nccl eager').
    skew: exponent of the load of experts; 0 for even loads.
  """

  tensor: int = 1
  expert: int = 1
  expert_tensor: int = 1
  data: int = 1
  ranks_per_node: int = 8
  sequence: bool = False
  routes_shares: bool = False
  collective: str = 'nccl eager'
  skew: float = 1.01


class Sequences(NamedTuple):
  """Sequences of equal length that attend within one pass, on one device.

  Attributes:
    count: sequences.
    new: query tokens of each: the prompt, or 1.
    cached: tokens of each that are in the cache already.
  """

  count: float
  new: float
  cached: float = 0.0

  @property
  def tokens(self) -> float:
    """Query tokens of all of them."""
    return self.count * self.new

  @property
  def is_decode(self) -> bool:
    """Whether they make new tokens, or verify a few drafted ones."""
    return self.new <= 1 or (self.cached > 0 and self.new <= MOST_VERIFIED)


def forward(
  model: Transformer,
  shard: Shard,
  sequences: Iterable[Sequences],
  *,
  layers: float | None = None,
  head_rows: float | None = None,
) -> Pass:
  """The kernels of one forward pass on one device.

  Args:
    model: the transformer; `model.formats` says how its parts are stored.
    shard: how its layers are spread.
    sequences: what the device works on at once.
    layers: decoder layers of the device; all of them by default. Layer kinds
      are taken as spread evenly.
    head_rows: rows of the output product; every token by default, 0 for a
      device without the output layer.
  """
  sequences = tuple(sequences)
  rows = sum(s.tokens for s in sequences)
  share = 1.0 if layers is None else layers / model.layers
  total = Pass()
  if share > 0.0:
    total = _layers(model, shard, sequences, rows).times(share)
  rows_out = rows if head_rows is None else head_rows
  if rows_out:
    width = model.vocab / shard.tensor
    total += Pass(
      (product('head', model.formats.embeddings, rows_out, width,
                model.d_model),),
      _VALUE_B * rows_out * width,
      2.0,
    )  # fmt: skip
  return total


def _layers(model, shard, sequences, rows) -> Pass:
  """All decoder layers of a model."""
  total = Pass()
  for group in model.attention_groups():
    one = attention(model, group.attention, group.window, shard, sequences)
    total += one.times(group.layers)
  if model.linear:
    linear = linear_attention(model, shard, sequences)
    total += linear.times(model.linear.layers)
  if model.dense_layers:
    dense = mlp(model, shard, rows, model.d_ff)
    total += dense.times(model.dense_layers)
  if model.expert_layers:
    total += experts(model, shard, rows).times(model.expert_layers)
  return total


def attention(model, a, window: int, shard, sequences) -> Pass:
  """One attention layer: projections, core, output product, its reduction.

  Args:
    model: the transformer.
    a: the attention of the layer (`Transformer.attention_groups`).
    window: keys that a token sees at most; 0 for all.
    shard: how the layer is spread.
    sequences: what the device works on at once.
  """
  rows = sum(s.tokens for s in sequences)
  of_kind = _latent if a.kind == 'mla' else _grouped
  kernels, wide = of_kind(model, a, window, shard, sequences, rows)
  own = rows / (shard.tensor if shard.sequence else 1)
  streamed_B = _VALUE_B * (own * 5.0 * model.d_model + rows * 2.0 * wide)
  kernels += reduction(model, shard, rows)
  return Pass(tuple(kernels), streamed_B, 4.0)


def _grouped(model, a, window, shard, sequences, rows):
  tensor, name = shard.tensor, _attention_format(model)
  heads = max(a.heads / tensor, 1.0)
  kv_heads = max(a.kv_heads / tensor, 1.0)
  # Keys and values that not all tensor ranks can share are made repeatedly.
  keys = a.kv_dim if getattr(a, 'shared_kv', True) else a.cache_values
  queries = a.parameters(model.d_model) / model.d_model - a.out_dim - keys
  width = queries / tensor + keys * kv_heads / a.kv_heads
  kernels = [
    product('attention', name, rows, width, model.d_model),
    product('attention', name, rows, model.d_model, a.out_dim / tensor),
  ]
  cached = _dtype(model.formats.kv_cache)
  for s in sequences:
    kernels += _core(s, a, heads, kv_heads, window, cached)
  return kernels, width


def _core(s, a, heads, kv_heads, window, kv_dtype) -> list[Kernel]:
  """The attention core of some sequences."""
  shape = {
    'dtype': 'bfloat16', 'kv_dtype': kv_dtype,
    'num_heads': heads, 'num_kv_heads': min(kv_heads, heads),
    'head_dim': a.head_dim, 'window_size': window, 'batch_size': s.count,
  }  # fmt: skip
  length, share = s.new + s.cached, 1.0
  if a.kind == 'csa':
    # A window and compressed keys cost what as many plain keys do.
    shape['window_size'] = 0
    share = min(a.mean_keys(length, window) / (length / 2.0), 1.0)
  if s.is_decode:
    seen = a.keys(length, window) if a.kind == 'csa' else length
    # Tokens that are verified together share one read of the cache, as the
    # heads of a group do.
    many = {'kv_len': float(seen), 'num_heads': heads * s.new}
    return [Kernel('decode_attention', 'attention', 1.0, shape | many)]
  new = shape | {'seq_len': length}
  found = [Kernel('prefill_attention', 'attention', share, new)]
  if s.cached:
    # Queries of a later piece see the cache too: two prompts' difference.
    old = shape | {'seq_len': s.cached}
    found.append(Kernel('prefill_attention', 'attention', -share, old))
  return found


def _latent(model, a, window, shard, sequences, rows):
  del window  # latent attention sees all keys, or those of its index
  name = _attention_format(model)
  heads = max(a.heads / shard.tensor, 1.0)
  key = a.nope_dim + a.rope_dim
  d, rank = model.d_model, a.q_rank
  down = a.kv_rank + a.rope_dim + rank
  kernels = [product('attention', name, rows, down, d)]
  kernels.append(product('attention', name, rows, heads * key, rank or d))
  kernels.append(product('attention', name, rows, d, heads * a.v_dim))
  seen_most = a.index_top_k or float('inf')
  cached = _dtype(model.formats.kv_cache)
  for s in sequences:
    shape = {
      'dtype': 'bfloat16', 'kv_dtype': cached, 'num_heads': heads,
      'batch_size': s.count,
    }  # fmt: skip
    if s.is_decode:
      kv_len = min(s.cached + s.new, seen_most)
      many = {'kv_len': kv_len, 'num_heads': heads * s.new}
      kernels.append(Kernel('mla_decode', 'attention', 1.0, shape | many))
      for n, k in ((a.kv_rank, a.nope_dim), (a.v_dim, a.kv_rank)):
        projection = {
          'm': s.tokens, 'n': n, 'k': k, 'num_heads': heads,
          'dtype': 'bfloat16',
        }  # fmt: skip
        kernels.append(Kernel('mla_bmm', 'attention', 1.0, projection))
      continue
    width = heads * (a.nope_dim + a.v_dim)
    kernels.append(
      product('attention', name, s.tokens + s.count * s.cached, width,
               a.kv_rank)
    )  # fmt: skip
    whole = s.new + s.cached
    kernels.append(
      Kernel('mla_prefill', 'attention', 1.0, shape | {'seq_len': whole})
    )
    if s.cached:
      kernels.append(
        Kernel('mla_prefill', 'attention', -1.0, shape | {'seq_len': s.cached})
      )
  if a.index_heads:
    width = a.index_heads * a.index_dim
    kernels.append(product('attention', name, rows, width, rank or d))
    for s in sequences:
      keys = s.cached + (s.new + 1.0) / 2.0
      kernels.append(
        product('attention', 'float8', s.tokens * a.index_heads, keys,
                 a.index_dim)
      )  # fmt: skip
  return kernels, down + heads * key


def linear_attention(model, shard, sequences) -> Pass:
  """One gated delta-rule layer (Yang et al., arXiv:2412.06464).

  Its state is read and written once for a new token, or once for every chunk
  of 64 tokens of a prompt.
  """
  a, tensor = model.linear, shard.tensor
  sequences = tuple(sequences)
  rows = sum(s.tokens for s in sequences)
  keys = a.key_heads * a.key_dim / tensor
  values = a.value_heads * a.value_dim / tensor
  name = _attention_format(model)
  width = 2.0 * keys + 2.0 * values + 2.0 * a.value_heads / tensor
  kernels = [
    product('attention', name, rows, width, model.d_model),
    product('attention', name, rows, model.d_model, values),
  ]
  kernels += reduction(model, shard, rows)
  state_B = 4.0 * a.value_heads * a.key_dim * a.value_dim / tensor
  chunks = sum(s.count * -(-s.new // 64) for s in sequences)
  streamed_B = _VALUE_B * rows * (5.0 * model.d_model + 4.0 * width)
  return Pass(tuple(kernels), streamed_B + 2.0 * state_B * chunks, 8.0)


def mlp(model, shard, rows: float, d_ff: float, part: str = 'mlp') -> Pass:
  """One dense MLP of that hidden width, and its reduction."""
  width = d_ff / shard.tensor
  up = 2.0 if model.gated else 1.0
  name = model.formats.weights
  kernels = (
    product(part, name, rows, up * width, model.d_model),
    product(part, name, rows, model.d_model, width),
    *reduction(model, shard, rows),
  )
  own = rows / (shard.tensor if shard.sequence else 1)
  streamed_B = _VALUE_B * (own * 5.0 * model.d_model + rows * (up + 1) * width)
  return Pass(kernels, streamed_B, 3.0)


def experts(model, shard, rows: float) -> Pass:
  """One layer of routed and shared experts, with its dispatch."""
  e = model.experts
  routed_rows = rows / (shard.tensor if shard.routes_shares else 1)
  dtype, quantization = _PRODUCT_FORMATS[
    model.formats.experts or model.formats.weights
  ]
  routed = Kernel('moe', 'experts', 1.0, {
    'dtype': dtype, 'quantization': quantization,
    'num_tokens': routed_rows * shard.data, 'hidden_size': model.expert_width,
    'inter_size': e.d_ff, 'num_experts': e.count, 'topk': e.top_k,
    'tensor_shards': shard.expert_tensor, 'expert_shards': shard.expert,
    'routing_skew': shard.skew, 'gated': float(model.gated),
  })  # fmt: skip
  router = product('experts', 'bfloat16', routed_rows, e.count, model.d_model)
  kernels = [router, routed]
  if e.latent_dim:
    for n, k in ((e.latent_dim, model.d_model), (model.d_model, e.latent_dim)):
      kernels.append(
        product('experts', model.formats.weights, routed_rows, n, k)
      )
  streamed_B = _VALUE_B * routed_rows * 5.0 * model.d_model
  total = Pass(tuple(kernels), streamed_B, 4.0)
  if model.shared_ff:
    plain = mlp(model, shard, rows, model.shared_ff, 'experts')
    kernels = tuple(k for k in plain.kernels if k.part != 'link')
    total += plain._replace(kernels=kernels)
  return total + Pass(_exchange(model, shard, rows))


def _exchange(model, shard, rows) -> tuple[Kernel, ...]:
  """What the experts' tokens send: to other ranks and back, or one sum."""
  if shard.data <= 1:
    ranks = max(shard.tensor, shard.expert * shard.expert_tensor)
    return reduction(model, shard, rows, ranks)
  shape = {
    'dtype': 'bfloat16', 'participants': shard.expert * shard.expert_tensor,
    'ranks_per_node': min(
      shard.ranks_per_node, shard.expert * shard.expert_tensor
    ),
    'num_tokens': rows / shard.tensor, 'hidden_size': model.expert_width,
    'topk': model.experts.top_k, 'num_experts': model.experts.count,
    'variant': 'deepep normal' if rows > 256 else 'deepep low_latency',
  }  # fmt: skip
  return tuple(
    Kernel(op, 'link', 1.0, shape)
    for op in ('expert_dispatch', 'expert_combine')
  )


def reduction(
  model, shard: Shard, rows: float, ranks: float | None = None
) -> tuple[Kernel, ...]:
  """The sum of a layer's partial results over the tensor ranks.

  Sequence parallelism splits it into two collectives of the same bytes.
  """
  ranks = shard.tensor if ranks is None else ranks
  if ranks <= 1:
    return ()
  payload_B = _VALUE_B * rows * model.d_model
  ops = ('reduce_scatter', 'all_gather') if shard.sequence else ('all_reduce',)
  return tuple(
    collective(op, payload_B, ranks, shard.ranks_per_node, shard.collective)
    for op in ops
  )


def collective(
  op: str,
  payload_B: float,
  ranks: float,
  ranks_per_node: float,
  variant: str = 'nccl eager',
) -> Kernel:
  """One collective."""
  return Kernel(op, 'link', 1.0, {
    'dtype': 'bfloat16', 'message_bytes': payload_B, 'participants': ranks,
    'ranks_per_node': min(ranks, ranks_per_node), 'variant': variant,
  })  # fmt: skip


def product(
  part: str, number_format: str, m: float, n: float, k: float
) -> Kernel:
  """One matrix product [m k] x [k n] in a number format of `Formats`."""
  dtype, quantization = _PRODUCT_FORMATS[number_format]
  return Kernel('gemm', part, 1.0, {
    'dtype': dtype, 'quantization': quantization, 'm': m, 'n': n, 'k': k,
  })  # fmt: skip


def _attention_format(model: Transformer) -> str:
  return model.formats.attention or model.formats.weights


def _dtype(number_format: str) -> str:
  """The dtype column of a number format."""
  return _PRODUCT_FORMATS[number_format][0]
