"""Which mesh, and what lives in which memory: search with a certificate."""

from diffmem.planning.constraints import Constraints as Constraints
from diffmem.planning.fronts.trade_off import trade_off as trade_off
from diffmem.planning.objective import Objective as Objective
from diffmem.planning.plan import make_plan as make_plan
from diffmem.planning.result import Breakdown as Breakdown
from diffmem.planning.result import Plan as Plan
from diffmem.planning.result import PlanOutcome as PlanOutcome
from diffmem.planning.result import PlanResult as PlanResult
from diffmem.planning.result import Search as Search
from diffmem.planning.serving import ServingResult as ServingResult
from diffmem.planning.serving import plan_serving as plan_serving
from diffmem.planning.serving import serving_table as serving_table
