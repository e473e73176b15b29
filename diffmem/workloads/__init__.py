"""What runs: transformers, and how a plan lowers them to a demand."""

from diffmem.workloads.choices import AXES as AXES
from diffmem.workloads.choices import RECOMPUTE as RECOMPUTE
from diffmem.workloads.choices import SHARDING as SHARDING
from diffmem.workloads.choices import Choices as Choices
from diffmem.workloads.choices import Machine as Machine
from diffmem.workloads.choices import machine_of as machine_of
from diffmem.workloads.decode import Decoding as Decoding
from diffmem.workloads.decode import lower_decode as lower_decode
from diffmem.workloads.formats import Formats as Formats
from diffmem.workloads.formats import value_B as value_B
from diffmem.workloads.from_jax import workload_from_jax as workload_from_jax
from diffmem.workloads.lowered import Lowered as Lowered
from diffmem.workloads.lowered import demand as demand
from diffmem.workloads.memory import Memory as Memory
from diffmem.workloads.memory import memory_of as memory_of
from diffmem.workloads.memory import tier_memory_B as tier_memory_B
from diffmem.workloads.mesh import check_mesh as check_mesh
from diffmem.workloads.prefill import Prefilling as Prefilling
from diffmem.workloads.prefill import lower_prefill as lower_prefill
from diffmem.workloads.presets import find_workload as find_workload
from diffmem.workloads.presets import load_workload as load_workload
from diffmem.workloads.presets import workload_names as workload_names
from diffmem.workloads.train import lower_train as lower_train
from diffmem.workloads.train_step import Training as Training
from diffmem.workloads.transformer import Transformer as Transformer
