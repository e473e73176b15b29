"""Measurements: the schema, its files, and what measures this machine."""

from diffmem.traces.files import check_writable as check_writable
from diffmem.traces.files import read_traces as read_traces
from diffmem.traces.files import sha256 as sha256
from diffmem.traces.files import write_traces as write_traces
from diffmem.traces.table import Traces as Traces
from diffmem.traces.table import concat as concat
from diffmem.traces.table import from_rows as from_rows
