"""Fleets over quarters: what to order, what runs where, what limits cost."""

from diffmem.codesign.fleet.load import load_fleet as load_fleet
from diffmem.codesign.fleet.load import parse_fleet as parse_fleet
from diffmem.codesign.fleet.moves import compare as compare
from diffmem.codesign.fleet.plan import plan_fleet as plan_fleet
from diffmem.codesign.fleet.rates import plan_rates as plan_rates
from diffmem.codesign.fleet.result import Comparison as Comparison
from diffmem.codesign.fleet.result import FleetOutcome as FleetOutcome
from diffmem.codesign.fleet.result import FleetResult as FleetResult
from diffmem.codesign.fleet.scenarios import scenarios_of as scenarios_of
from diffmem.codesign.fleet.schema import Fleet as Fleet
