"""A plan as mesh, partition specs and memory kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hand_made_plans import plan_of
from jax.sharding import PartitionSpec as P

from diffmem import errors
from diffmem.planning.export import Rule, abstract_mesh, to_jax
from diffmem.planning.export.rules import DEFAULT_RULES, find_rule, layer_of


def away(share, memory='DRAM'):
  return {'HBM': 1.0 - share, memory: share}


def abstract(plan, **options):
  return to_jax(plan, abstract_mesh(plan), **options)


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


STACKED = {
  'embed': {'embedding': shape(64, 32)},
  'layers': {
    'attention': {
      'query': {'kernel': shape(8, 32, 4, 16), 'bias': shape(8, 4, 16)},
      'key': {'kernel': shape(8, 32, 2, 16)},
      'out': {'kernel': shape(8, 4, 16, 32), 'bias': shape(8, 32)},
    },
    'mlp': {'wi_0': shape(8, 32, 128), 'wo': shape(8, 128, 32)},
    'moe': {
      'gate': {'kernel': shape(8, 32, 16)},
      'wi_1': shape(8, 16, 32, 64),
      'wo': shape(8, 16, 64, 32),
    },
    'pre_norm': {'scale': shape(8, 32)},
  },
  'final_norm': {'scale': shape(32)},
  'lm_head': {'kernel': shape(32, 64)},
}


def specs(jax_plan, tree, state='parameters'):
  found = jax_plan.shardings(tree, state)
  paths, _ = jax.tree_util.tree_flatten_with_path(found)
  return {
    jax.tree_util.keystr(k, simple=True, separator='/'): s.spec
    for k, s in paths
  }


def test_every_leaf_of_a_stacked_model():
  plan = plan_of(tensor=2, expert=4, fsdp=2, data=3, pipeline=2)
  found = specs(abstract(plan), STACKED)
  at = 'pipeline'
  assert found == {
    'embed/embedding': P('tensor', 'fsdp'),
    'layers/attention/query/kernel': P(at, 'fsdp', 'tensor'),
    'layers/attention/query/bias': P(at, 'tensor', 'fsdp'),
    'layers/attention/key/kernel': P(at, 'fsdp', 'tensor'),
    'layers/attention/out/kernel': P(at, 'tensor', None, 'fsdp'),
    'layers/attention/out/bias': P(at, 'fsdp'),
    'layers/mlp/wi_0': P(at, 'fsdp', 'tensor'),
    'layers/mlp/wo': P(at, 'tensor', 'fsdp'),
    'layers/moe/gate/kernel': P(at, 'fsdp'),
    'layers/moe/wi_1': P(at, 'expert', 'fsdp', 'tensor'),
    'layers/moe/wo': P(at, 'expert', 'tensor', 'fsdp'),
    'layers/pre_norm/scale': P(at, 'fsdp'),
    'final_norm/scale': P('fsdp'),
    'lm_head/kernel': P('fsdp', 'tensor'),
  }


def test_optimizer_is_shared_by_all_ranks_with_the_same_weights():
  plan = plan_of(tensor=2, expert=2, fsdp=2, data=4)
  tree = {'0': {'count': shape(), 'mu': STACKED}}
  found = specs(abstract(plan), tree, 'optimizer')
  assert found['0/count'] == P()
  # Experts differ between the expert ranks; all else is the same there.
  assert found['0/mu/layers/mlp/wo'] == P(
    None, 'tensor', ('fsdp', 'expert', 'data')
  )
  assert found['0/mu/layers/moe/wo'] == P(
    None, 'expert', 'tensor', ('fsdp', 'data')
  )
  for state, share in (('parameters', 4), ('optimizer', 32)):
    sharding = abstract(plan).shardings(STACKED, state)
    local = sharding['embed']['embedding'].shard_shape((64, 32))
    assert np.prod(local) == 64 * 32 / share


def test_strategies_of_the_kinds_of_layers():
  sharding = {'attention': 'sequence', 'mlp': 'tensor', 'experts': 'expert'}
  jax_plan = abstract(plan_of(tensor=2, expert=4, fsdp=2, sharding=sharding))
  found = specs(jax_plan, STACKED)
  assert found['layers/attention/query/kernel'] == P(None, 'fsdp')
  assert found['layers/mlp/wi_0'] == P(None, 'fsdp', 'tensor')
  assert found['layers/moe/wi_1'] == P(None, ('expert', 'tensor'), 'fsdp')
  cache = {'keys': shape(16, 64, 2, 16)}
  batch = ('data', 'fsdp', 'expert', 'tensor')
  assert specs(jax_plan, cache, 'kv_cache')['keys'] == P(batch[1:])


def test_batch_and_cache():
  jax_plan = abstract(plan_of(tensor=2, context=2, fsdp=4))
  assert jax_plan.batch_spec() == P(('data', 'fsdp', 'expert'), 'context')
  assert jax_plan.batch_sharding().shard_shape((8, 64)) == (2, 32)
  assert jax_plan.stream_sharding().shard_shape((8, 64, 16)) == (2, 16, 16)
  cache = {'layers': {'keys': shape(8, 16, 64, 2, 16)}}
  found = specs(jax_plan, cache, 'kv_cache')['layers/keys']
  assert found == P(None, 'fsdp', 'context', 'tensor')
  # Heads that do not reach all ranks are repeated, as the planner counts them.
  wide = abstract(plan_of(tensor=4))
  assert specs(wide, cache, 'kv_cache')['layers/keys'] == P()
  key = {'layers': {'key': {'kernel': shape(8, 32, 2, 16)}}}
  assert specs(wide, key)['layers/key/kernel'] == P()


def test_groups_live_where_the_plan_places_them():
  plan = plan_of({'optimizer': away(1.0), 'gradients': away(0.0)}, fsdp=2)
  jax_plan = abstract(plan)
  kinds = {
    state: {
      s.memory_kind for s in jax.tree.leaves(jax_plan.shardings(STACKED, state))
    }
    for state in ('parameters', 'optimizer', 'gradients')
  }
  assert kinds == {
    'parameters': {'device'}, 'optimizer': {'pinned_host'},
    'gradients': {'device'},
  }  # fmt: skip
  fetched = jax_plan.shardings(STACKED, 'optimizer', near=True)
  assert {s.memory_kind for s in jax.tree.leaves(fetched)} == {'device'}
  assert jax.tree.map(lambda s: s.spec, fetched) == jax.tree.map(
    lambda s: s.spec, jax_plan.shardings(STACKED, 'optimizer')
  )


def test_unstacked_layers_go_by_their_number():
  plan = plan_of({'mlp_weights': away(0.4), 'attention_weights': away(0.0)})
  tree = {
    f'layers_{i}': {'up': shape(8, 32), 'query': shape(8, 8)} for i in range(5)
  }
  found = abstract(plan).shardings(tree)
  kinds = [found[f'layers_{i}']['up'].memory_kind for i in range(5)]
  assert kinds == ['device'] * 3 + ['pinned_host'] * 2
  kinds = {found[f'layers_{i}']['query'].memory_kind for i in range(5)}
  assert kinds == {'device'}


@pytest.mark.parametrize('stages', [1, 2])
def test_stacked_layers_are_split_and_joined(stages):
  plan = plan_of({'mlp_weights': away(0.5)}, pipeline=stages)
  jax_plan = abstract(plan)
  values = jnp.arange(8.0)[:, None, None] * jnp.ones((1, 4, 8))
  tree = {'layers': {'up': values, 'query': values}}
  with pytest.raises(errors.PlanError, match='call `split` first'):
    jax_plan.shardings(tree)
  split = jax_plan.split(tree)
  near = split['layers']['up']['device'][:, 0, 0].tolist()
  # Every stage keeps its own first layers near.
  assert near == ([0, 1, 2, 3] if stages == 1 else [0, 1, 4, 5])
  found = jax_plan.shardings(split)['layers']['up']
  assert {k: s.memory_kind for k, s in found.items()} == {
    'device': 'device', 'pinned_host': 'pinned_host'
  }  # fmt: skip
  assert found['device'].spec == (P('pipeline') if stages > 1 else P())
  joined = jax_plan.join(split)
  assert jax.tree.all(jax.tree.map(jnp.array_equal, joined, tree))
  structs = jax.eval_shape(lambda: tree)
  assert jax.tree.map(lambda x: x.shape, jax_plan.split(structs)) == (
    jax.tree.map(lambda x: x.shape, split)
  )


def test_caches_are_split_between_pages():
  plan = plan_of({'kv_cache': away(0.7)}, tensor=2)
  jax_plan = abstract(plan)
  tokens = jnp.arange(100.0)[None, :, None, None] * jnp.ones((2, 1, 2, 4))
  tree = {'layers_0': {'keys': tokens}, 'layers_1': {'keys': tokens}}
  split = jax_plan.split(tree, 'kv_cache')
  # Six pages of 16 tokens and four tokens: the newest are near.
  parts = split['layers_1']['keys']
  assert parts['pinned_host'][0, :, 0, 0].tolist() == list(range(80))
  assert parts['device'][0, :, 0, 0].tolist() == list(range(80, 100))
  found = jax_plan.shardings(split, 'kv_cache')['layers_0']['keys']
  assert {k: s.memory_kind for k, s in found.items()} == {
    k: k for k in ('device', 'pinned_host')
  }
  # Pytrees sort their keys, in another order than the parts are.
  joined = jax_plan.join(jax.tree.map(jnp.copy, split), 'kv_cache')
  assert jax.tree.all(jax.tree.map(jnp.array_equal, joined, tree))


def test_every_context_rank_has_pages_of_its_own():
  plan = plan_of({'kv_cache': away(0.5)}, context=2)
  values = jnp.arange(64.0)[None, None, :, None] * jnp.ones((3, 2, 1, 4))
  tree = {'caches': {'latent': values}}
  split = abstract(plan).split(tree, 'kv_cache')
  far = split['caches']['latent']['pinned_host'][0, 0, :, 0].tolist()
  assert far == [*range(16), *range(32, 48)]
  joined = abstract(plan).join(split, 'kv_cache')
  assert jnp.array_equal(joined['caches']['latent'], values)


def test_no_memory_gets_more_layers_than_its_share():
  plan = plan_of({'optimizer': {'HBM': 0.35, 'DRAM': 0.65}})
  split = abstract(plan).split({'layers': {'up': shape(8, 4, 4)}}, 'optimizer')
  sizes = {k: v.shape[0] for k, v in split['layers']['up'].items()}
  assert sizes == {'device': 2, 'pinned_host': 6}


def test_interleaved_stages_hold_their_chunks_side_by_side():
  jax_plan = abstract(plan_of(pipeline=2, interleave=2))
  assert jax_plan.layer_order(8) == [0, 1, 4, 5, 2, 3, 6, 7]
  assert any('schedule' in line for line in jax_plan.help)
  with pytest.raises(errors.PlanError, match='8 would'):
    jax_plan.layer_order(7)


def test_micro_batches():
  jax_plan = abstract(plan_of(tensor=2, fsdp=2, data=3))
  assert jax_plan.micro_batches(48) == 4
  with pytest.raises(errors.PlanError, match='the nearest is 48'):
    jax_plan.micro_batches(50)


@pytest.mark.parametrize(
  ('recompute', 'products'), [('none', 3), ('selective', 3), ('full', 4)]
)
def test_recompute(recompute, products):
  # A product of the forward pass, two of the backward; full does one again.
  jax_plan = abstract(plan_of(recompute=recompute))
  layer = jax_plan.checkpoint(lambda x, w: jnp.tanh(x @ w))
  ones = jnp.ones((4, 4))
  traced = jax.make_jaxpr(
    jax.grad(lambda x, w: layer(jnp.sin(x), w).sum(), (0, 1))
  )
  assert str(traced(ones, ones)).count('dot_general') == products


def test_flax_paths():
  from flax import nnx

  class Block(nnx.Module):
    def __init__(self, rngs):
      self.attn = nnx.MultiHeadAttention(
        num_heads=2, in_features=8, decode=False, rngs=rngs
      )
      self.norm = nnx.LayerNorm(8, rngs=rngs)
      self.up = nnx.Linear(8, 16, rngs=rngs)

  class Model(nnx.Module):
    def __init__(self, rngs):
      self.embed = nnx.Embed(16, 8, rngs=rngs)
      self.layers = nnx.List([Block(rngs) for _ in range(2)])

  state = nnx.eval_shape(lambda: nnx.state(Model(nnx.Rngs(0))))
  plan = plan_of({'mlp_weights': away(0.5)}, tensor=2, fsdp=2)
  found = abstract(plan).shardings(state)
  block = found['layers'][1]
  query = jax.tree.leaves(block['attn']['query']['kernel'])[0]
  assert query.spec == P('fsdp', 'tensor')
  up = [jax.tree.leaves(found['layers'][i]['up']['kernel'])[0] for i in (0, 1)]
  assert [s.memory_kind for s in up] == ['device', 'pinned_host']
  embed = jax.tree.leaves(found['embed'])[0]
  assert embed.spec == P('tensor', 'fsdp')


def test_own_rules_come_first():
  rule = Rule('wi_0$', ('mlp', 'embed'), 'mlp_weights')
  jax_plan = abstract(plan_of(tensor=2, fsdp=2), rules=[rule])
  assert specs(jax_plan, STACKED)['layers/mlp/wi_0'] == P(
    None, 'tensor', 'fsdp'
  )
  with pytest.raises(errors.PlanError, match="no logical axis 'width'"):
    abstract(plan_of(), rules=[Rule('x', ('width',), None)])


@pytest.mark.parametrize(
  ('path', 'sizes', 'axes'),
  [
    ('model/layers/3/self_attn/q_proj/weight', (8, 8), ('embed', 'heads')),
    ('layers/self_attn/v_proj/kernel', (4, 8, 8), ('embed', 'kv_heads')),
    ('blocks_1/mlp/c_proj/kernel', (32, 8), ('mlp', 'embed')),
    ('blocks_1/attn/c_proj/kernel', (8, 8), ('heads', 'embed')),
    ('decoder/layers/mlp/wo/kernel', (4, 32, 8), ('mlp', 'embed')),
    ('layers/moe/shared_experts/up/kernel', (4, 8, 16), ('embed', 'mlp')),
    ('layers/moe/experts/w2', (4, 16, 32, 8), ('expert', 'mlp', 'embed')),
    ('layers/router/kernel', (4, 8, 16), ('embed', None)),
    ('token_embedder/embedding', (64, 8), ('vocab', 'embed')),
    ('h_2/ln_1/scale', (8,), ('embed',)),
    ('layers/self_attn/q_norm/scale', (4, 8), (None,)),
  ],
)
def test_common_names(path, sizes, axes):
  assert find_rule(DEFAULT_RULES, path, sizes).axes == axes


def test_layers_are_found():
  assert layer_of('0/mu/model/layers/3/up') == ('0/mu/model/layers', 3)
  assert layer_of('blocks_12/up') == ('blocks', 12)
  assert layer_of('0/nu/layers/up').stacked
  assert not layer_of('0/nu/embed/embedding').stacked


@pytest.mark.parametrize(
  ('mesh', 'tree', 'said'),
  [
    ({}, {'blurb': shape(4, 4)}, ['blurb (4, 4)', 'no rule', 'Rule(']),
    (
      {'tensor': 4}, {'layers': {'up': shape(2, 8, 6)}},
      ['layers/up (2, 8, 6)', 'mlp, 6', 'tensor = 4', 'is 3'],
    ),
    (
      {'fsdp': 4}, {'up': shape(6, 10)},
      ['up (6, 10)', 'fsdp = 4', 'number of ranks that divides one is 3'],
    ),
    (
      {'pipeline': 3}, {'layers': {'up': shape(4, 6, 6)}},
      ['layers, 4', 'is 2'],
    ),
    ({'pipeline': 2}, {'layers_0': {'up': shape(6, 6)}}, ['stack them']),
    ({}, {'up': shape(2, 2, 2)}, ['for 2 dimensions', 'this leaf has 3']),
    ({}, {'moe': {'experts': [{'up': shape(2, 2)}]}}, ['one by one']),
  ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(mesh, tree, said):
  with pytest.raises(errors.PlanError) as raised:
    abstract(plan_of(**mesh)).shardings(tree)
  for text in said:
    assert text in str(raised.value)


def test_memories_without_a_kind_are_refused():
  plan = plan_of({'optimizer': away(0.5, 'SSD')})
  with pytest.raises(errors.PlanError, match='optimizer of this plan live in'):
    abstract(plan)
  staged = abstract(plan, memory_kinds={'SSD': 'unpinned_host'})
  assert staged.kinds['SSD'] == 'unpinned_host'
  with pytest.raises(errors.PlanError, match="'drive' of SSD is not one of"):
    abstract(plan, memory_kinds={'SSD': 'drive'})
  with pytest.raises(errors.PlanError, match="no memory 'NVMe'"):
    abstract(plan, memory_kinds={'NVMe': 'pinned_host'})


def test_other_numbers_of_devices_are_refused():
  with pytest.raises(errors.PlanError, match=r'for 6 devices \(fsdp 6\)'):
    to_jax(plan_of(fsdp=6), jax.devices()[:1])
  assert to_jax(plan_of(), jax.devices()[:1]).mesh.size == 1


def test_a_state_or_group_that_is_unknown_is_refused():
  plan = plan_of()
  with pytest.raises(errors.PlanError, match="no state 'weights'"):
    abstract(plan).shardings({}, 'weights')
  del plan.placement['mlp_weights']
  with pytest.raises(errors.PlanError, match='made for another model'):
    abstract(plan).shardings({'up': shape(4, 4)})
