"""Workloads from code: what any function that JAX can trace asks for."""

from diffmem.workloads.from_jax.result import JaxWorkload as JaxWorkload
from diffmem.workloads.from_jax.workload import (
  workload_from_jax as workload_from_jax,
)
