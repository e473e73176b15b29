"""The physics: one law per file, and `predict`, which joins them."""

from diffmem.cost import service as service
from diffmem.cost.demand import STREAM_B as STREAM_B
from diffmem.cost.demand import UNCACHED_B as UNCACHED_B
from diffmem.cost.demand import Cost as Cost
from diffmem.cost.demand import Demand as Demand
from diffmem.cost.predict import predict as predict
from diffmem.cost.predict import predict_jit as predict_jit
