"""Plans that no search has made."""

from diffmem.planning import Plan

GROUPS = (
  'attention_weights', 'mlp_weights', 'expert_weights', 'embeddings',
  'gradients', 'optimizer', 'activations', 'kv_cache',
)  # fmt: skip
AXES = ('tensor', 'context', 'expert', 'fsdp', 'data', 'pipeline', 'interleave')
NEAR = {'HBM': 1.0, 'DRAM': 0.0, 'SSD': 0.0}


def plan_of(
  placement=None,
  sharding=None,
  recompute='none',
  micro_batch=2,
  predicted=None,
  **mesh,
):
  """A plan that says nothing of time; groups that are not given are near."""
  return Plan(
    mesh={a: mesh.get(a, 1) for a in AXES}, sharding=sharding or {},
    number_format='bfloat16', micro_batch=micro_batch, recompute=recompute,
    placement={g: NEAR for g in GROUPS} | {
      g: dict.fromkeys(NEAR, 0.0) | row for g, row in (placement or {}).items()
    },
    predicted=predicted or {}, interval90=None, certified_gap=0.0,
    rounding_loss=0.0, breakdown=None,
  )  # fmt: skip
