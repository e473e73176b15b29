"""The report: figures and tables of a machine, its fit and its plan.

`write_report(path, ReportData(...))` writes one HTML file that needs neither
network nor script. Figures are specs first (`figure`) and drawn later
(`plot`, `bars`, `heat_map`, `region_map`, `timeline`), so new sections bring
data, not drawing. What the co-design section shows is `codesign_data`.
"""

from diffmem.report import codesign_data as codesign_data
from diffmem.report.answers import machine_part as machine_part
from diffmem.report.answers import plan_part as plan_part
from diffmem.report.answers import provenance as provenance
from diffmem.report.codesign import codesign_sections as codesign_sections
from diffmem.report.codesign_data import CodesignData as CodesignData
from diffmem.report.codesigned import codesign_part as codesign_part
from diffmem.report.data import Curve as Curve
from diffmem.report.data import CurveSet as CurveSet
from diffmem.report.data import Disk as Disk
from diffmem.report.data import Fit as Fit
from diffmem.report.data import Machine as Machine
from diffmem.report.data import Parameter as Parameter
from diffmem.report.data import Plan as Plan
from diffmem.report.data import Program as Program
from diffmem.report.data import Provenance as Provenance
from diffmem.report.data import ReportData as ReportData
from diffmem.report.data import Roofline as Roofline
from diffmem.report.data import RoofPoint as RoofPoint
from diffmem.report.fleet_supply import supply_of as supply_of
from diffmem.report.measured import measured_parts as measured_parts
from diffmem.report.measured import program_rows as program_rows
from diffmem.report.parameters import parameters_of as parameters_of
from diffmem.report.spine import render_report as render_report
from diffmem.report.spine import write_report as write_report
from diffmem.report.tier_parts import kv_part as kv_part
from diffmem.report.tier_parts import retrieval_part as retrieval_part
