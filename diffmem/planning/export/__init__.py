"""A plan out to real programs: JAX shardings, launch flags, files."""

from diffmem.planning.export.engines import to_sglang as to_sglang
from diffmem.planning.export.engines import to_vllm as to_vllm
from diffmem.planning.export.fleets import fleet_launches as fleet_launches
from diffmem.planning.export.jsonfile import load_plan as load_plan
from diffmem.planning.export.jsonfile import plan_from_json as plan_from_json
from diffmem.planning.export.jsonfile import plan_to_json as plan_to_json
from diffmem.planning.export.jsonfile import (
  result_from_json as result_from_json,
)
from diffmem.planning.export.launch import Launch as Launch
from diffmem.planning.export.maxtext import to_maxtext as to_maxtext
from diffmem.planning.export.meshes import abstract_mesh as abstract_mesh
from diffmem.planning.export.rules import DEFAULT_RULES as DEFAULT_RULES
from diffmem.planning.export.rules import Rule as Rule
from diffmem.planning.export.to_jax import JaxPlan as JaxPlan
from diffmem.planning.export.to_jax import to_jax as to_jax
