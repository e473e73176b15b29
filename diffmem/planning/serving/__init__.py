"""Serving fleets: workers, batches, pools, placement under latency limits."""

from diffmem.planning.serving.plan import plan_serving as plan_serving
from diffmem.planning.serving.result import Pool as Pool
from diffmem.planning.serving.result import ServingOutcome as ServingOutcome
from diffmem.planning.serving.result import ServingPlan as ServingPlan
from diffmem.planning.serving.result import ServingResult as ServingResult
from diffmem.planning.serving.result import serving_table as serving_table
