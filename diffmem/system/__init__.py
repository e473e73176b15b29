"""What a machine is: tiers, engines, systems and published specifications."""

from diffmem.system.catalog import catalog_names as catalog_names
from diffmem.system.catalog import load_catalog as load_catalog
from diffmem.system.engine import Engine as Engine
from diffmem.system.fitted import FittedSystem as FittedSystem
from diffmem.system.fitted import Knowledge as Knowledge
from diffmem.system.fitted import Status as Status
from diffmem.system.host import cpu_system as cpu_system
from diffmem.system.host import prior as prior
from diffmem.system.measure import what_to_measure as what_to_measure
from diffmem.system.parameters import ParameterInfo as ParameterInfo
from diffmem.system.residual import Residual as Residual
from diffmem.system.system import System as System
from diffmem.system.system import fresh as fresh
from diffmem.system.system import from_leaves as from_leaves
from diffmem.system.system import leaves_by_name as leaves_by_name
from diffmem.system.system import rename as rename
from diffmem.system.system import to_numpy as to_numpy
from diffmem.system.tier import Duplex as Duplex
from diffmem.system.tier import Tier as Tier
