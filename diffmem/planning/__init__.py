"""Which mesh, and what lives in which memory: search with a certificate."""

from diffmem.planning.objective import Objective as Objective
from diffmem.planning.plan import make_plan as make_plan
from diffmem.planning.result import Breakdown as Breakdown
from diffmem.planning.result import Plan as Plan
from diffmem.planning.result import PlanOutcome as PlanOutcome
from diffmem.planning.result import PlanResult as PlanResult
from diffmem.planning.result import Search as Search
