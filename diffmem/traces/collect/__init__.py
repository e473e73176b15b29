"""Measures this machine: caches, main memory, disk, small JAX programs; GPUs.

    options = collect.Options(scratch_dir=folder)
    result = collect.run_probes(collect.cpu_probes(options), options)
    print(collect.noise_report(result.rows).help)

Rows are dicts with the columns of the trace schema, SI units. `gpu` measures a
GPU.
"""

from diffmem.traces.collect import gpu as gpu
from diffmem.traces.collect.machine import Machine as Machine
from diffmem.traces.collect.machine import describe as describe
from diffmem.traces.collect.programs import (
  is_demonstration as is_demonstration,
)
from diffmem.traces.collect.programs import (
  jax_program_probes as jax_program_probes,
)
from diffmem.traces.collect.runner import Failure as Failure
from diffmem.traces.collect.runner import Probe as Probe
from diffmem.traces.collect.runner import Progress as Progress
from diffmem.traces.collect.runner import Result as Result
from diffmem.traces.collect.runner import cpu_probes as cpu_probes
from diffmem.traces.collect.runner import run_probes as run_probes
from diffmem.traces.collect.samples import NoiseReport as NoiseReport
from diffmem.traces.collect.samples import noise_report as noise_report
from diffmem.traces.collect.session import Options as Options
from diffmem.traces.collect.session import SkipProbe as SkipProbe
