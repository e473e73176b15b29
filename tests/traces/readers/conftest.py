"""Small files in the real formats, made up, and where the public ones are."""

import pathlib

import pytest

_SHARED = pathlib.Path(__file__).parents[4] / 'shared' / 'traces'

MLC = """Intel(R) Memory Latency Checker - v3.9
Measuring idle latencies (in ns)...
\t\tNuma node
Numa node\t     0\t     1\t     2\t
       0\t  80.0\t 140.5\t 260.0\t
       1\t 141.0\t  81.5\t 400.0\t

Measuring Peak Injection Memory Bandwidths for the system
Bandwidths are in MB/sec (1 MB/sec = 1,000,000 Bytes/sec)
Using all the threads from each core if Hyper-threading is enabled
Using traffic with the following read-write ratios
ALL Reads        :\t200000.5\t
3:1 Reads-Writes :\t190000.0\t
2:1 Reads-Writes :\t185000.0\t
1:1 Reads-Writes :\t180000.0\t
Stream-triad like:\t170000.0\t

Measuring Memory Bandwidths between nodes within system
Using Read-only traffic type
\t\tNuma node
Numa node\t     0\t     1\t     2\t
       0\t100000.0\t50000.0\t20000.0\t
       1\t50000.0\t100000.0\t18000.0\t

Measuring Loaded Latencies for the system
Using all the threads from each core if Hyper-threading is enabled
Using Read-only traffic type
Inject\tLatency\tBandwidth
Delay\t(ns)\tMB/sec
==========================
 00000\t250.00\t 200000.0
 00500\t100.00\t  80000.0
 20000\t 80.00\t   2000.0

Measuring cache-to-cache transfer latency (in ns)...
Local Socket L2->L2 HIT  latency\t51.6
"""

NVBANDWIDTH = """nvbandwidth Version: v0.6
Built from Git version: v0.6

Device 0: NVIDIA Example GPU (00000000:17:00)
Device 1: NVIDIA Example GPU (00000000:65:00)

Running host_to_device_memcpy_ce.
memcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)
           0         1
 0     50.00     51.00

SUM host_to_device_memcpy_ce 101.00

Running device_to_device_memcpy_read_ce.
memcpy CE GPU(row) -> GPU(column) bandwidth (GB/s)
           0         1
 0       N/A    300.00
 1    301.00       N/A

SUM device_to_device_memcpy_read_ce 601.00

Running device_to_device_bidirectional_memcpy_write_sm.
memcpy SM CPU(row) <-> GPU(column) Write1 bandwidth (GB/s)
           0         1
 0       N/A    200.00
 1    200.00       N/A

SUM device_to_device_bidirectional_memcpy_write_sm_write1 400.00

memcpy SM CPU(row) <-> GPU(column) Total bandwidth (GB/s)
           0         1
 0       N/A    400.00
 1    400.00       N/A

SUM device_to_device_bidirectional_memcpy_write_sm_total 800.00

Running all_to_host_memcpy_ce.
memcpy CE CPU(row) <- GPU(column) bandwidth (GB/s)
           0         1
 0     30.00     31.00

SUM all_to_host_memcpy_ce 61.00

Running device_local_copy.
memcpy local GPU(column) bandwidth (GB/s)
           0         1
 0   1000.00   1001.00

SUM device_local_copy 2001.00

Running host_device_latency_sm.
memory latency SM CPU(row) <-> GPU(column) (ns)
           0         1
 0    800.00    810.00

SUM host_device_latency_sm 1610.00
"""

STREAM = """-------------------------------------------------------------
STREAM version $Revision: 5.10 $
-------------------------------------------------------------
This system uses 8 bytes per array element.
-------------------------------------------------------------
Array size = 10000000 (elements), Offset = 0 (elements)
Each kernel will be executed 10 times.
Number of Threads requested = 4
Number of Threads counted = 4
-------------------------------------------------------------
Function    Best Rate MB/s  Avg time     Min time     Max time
Copy:           16000.0     0.010100     0.010000     0.010400
Scale:          15000.0     0.010800     0.010667     0.011000
Add:            20000.0     0.012300     0.012000     0.012900
Triad:          19200.0     0.012600     0.012500     0.012900
-------------------------------------------------------------
Solution Validates: avg error less than 1.000000e-13 on all three arrays
"""

BABELSTREAM = """BabelStream
Version: 5.0
Implementation: CUDA
Running kernels 100 times
Precision: double
Array size: 268.4 MB (=0.3 GB)
Total size: 805.3 MB (=0.8 GB)
Init: 0.1 s (=8053.1 MBytes/sec)
Read: 0.1 s (=8053.1 MBytes/sec)
Function    MBytes/sec  Min (sec)   Max         Average
Copy        1000000.000 0.00054     0.00056     0.00055
Dot         1100000.000 0.00049     0.00056     0.00055
"""

ROOFLINE = """8
16
-- Finished Building --
0 1056 blocks     0 its      0.250 Fl/B       3800 GB/s       950 GF/s   1980 Mhz   570 W   57\N{DEGREE SIGN}C

0 1056 blocks     8 its      2.250 Fl/B       3600 GB/s      8099 GF/s   1980 Mhz   610 W   60\N{DEGREE SIGN}C

"""  # noqa: E501

PERF_BW = """
 Performance counter stats for system wide:

S0           8                  20000000      unc_m_cas_count.rd
S0           8                  10000000      unc_m_cas_count.wr

       0.050000000 seconds time elapsed


 Performance counter stats for system wide:

S0           8                  20200000      unc_m_cas_count.rd
S0           8                  10100000      unc_m_cas_count.wr

       0.050000000 seconds time elapsed

"""

PERF_LAT = """
 Performance counter stats for process id '1':

   1000000000      cycles
      3000000      accesses
      2889186      r2012

       0.390000000 seconds time elapsed


 Performance counter stats for process id '1':

   1000000000      cycles
      3000000      accesses

       0.396000000 seconds time elapsed

"""


@pytest.fixture
def samples():
  return {
    'mlc': MLC,
    'nvbandwidth': NVBANDWIDTH,
    'stream': STREAM,
    'babelstream': BABELSTREAM,
    'roofline_power': ROOFLINE,
    'perf_bw': PERF_BW,
    'perf_lat': PERF_LAT,
  }


@pytest.fixture
def shared():
  """The public measurements; tests that need them skip without."""
  if not _SHARED.is_dir():
    pytest.skip('no ../shared/traces')
  return _SHARED


@pytest.fixture
def write(tmp_path):
  """Writes a text file and returns its path."""

  def write_file(name, content):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding='utf-8')
    return path

  return write_file


@pytest.fixture
def write_parquet(tmp_path):
  """Writes columns as a Parquet file and returns its path."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  def write_file(name, columns):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path

  return write_file
