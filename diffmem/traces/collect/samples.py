"""From repeated timings to one observation and its noise."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

PREEMPTED_RATIO = 1.15  # wall time over CPU time
NOISY_REL_STD = 0.10
_LEAST_CLEAN = 3  # repeats
_LEAST_VISITS = 3
_QUANTILE = 0.1
_NOISY_SHARE = 1 / 3
_NOISY_MEDIAN = 0.08
_MAD_TO_STD = 1.4826  # for a normal distribution


@dataclasses.dataclass(frozen=True)
class Timing:
  """One repeat of a fixed amount of work.

  Attributes:
    wall_s: From the first thread's start to the last one's end.
    cpu_s: CPU time, mean over the threads; None where it means nothing.
    waited_s: Time that threads waited for a CPU, where `cpu_s` is unknown.
  """

  wall_s: float
  cpu_s: float | None = None
  waited_s: float = 0.0

  @property
  def preempted(self) -> bool:
    """Whether the threads waited for a CPU while they should have worked."""
    if self.cpu_s is None:
      return self.waited_s > (PREEMPTED_RATIO - 1) * self.wall_s
    return self.wall_s > PREEMPTED_RATIO * self.cpu_s


@dataclasses.dataclass(frozen=True)
class Reads:
  """One repeat of reading a file.

  Attributes:
    busy_s: Time from first to last read, summed over the threads.
    cpu_s: CPU time, summed over the threads.
    count: Reads done, over all threads.
  """

  busy_s: float
  cpu_s: float
  count: int


@dataclasses.dataclass(frozen=True)
class Summary:
  """What a row says about its repeats; times in seconds."""

  time_s: float
  cpu_time_s: float | None
  repeats: int
  rel_std: float
  note: str | None

  def columns(self) -> dict[str, Any]:
    """The trace columns of this summary; unknown ones are absent."""
    columns = {
      'time_s': self.time_s,
      'cpu_time_s': self.cpu_time_s,
      'repeats': self.repeats,
      'rel_std': self.rel_std,
      'note': self.note,
    }
    return {key: value for key, value in columns.items() if value is not None}


def rel_std(values: Sequence[float]) -> float:
  """Robust relative deviation: 1.4826 * MAD / median; 0 for one value."""
  middle = statistics.median(values)
  if middle == 0:
    return 0.0
  spread = statistics.median(abs(value - middle) for value in values)
  return _MAD_TO_STD * spread / abs(middle)


def undisturbed(times_s: Sequence[float], quantile: float = _QUANTILE) -> float:
  """Lower decile (or another quantile) of repeated times.

  What shares the machine (other guests, the other hardware thread of a core,
  interrupts) only ever adds time, for seconds on end. Over four runs on a
  busy virtual machine the lower decile of 48 repeats agreed within 4.5 %
  (median over 87 rows; 90th percentile 12 %), the median within 7.7 (34) %.
  """
  ordered = sorted(times_s)
  place = quantile * (len(ordered) - 1)
  low = int(place)
  high = min(low + 1, len(ordered) - 1)
  return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def summarise(
  visits: Sequence[Sequence[Timing]], quantile: float = _QUANTILE
) -> Summary:
  """One observation from the repeats of several visits.

  The time is the lower decile (or `quantile`) of all repeats that had the CPU
  to themselves; `rel_std` tells how well the visits agree on it. Where too
  few repeats had a CPU, CPU time (where known) stands in for wall time and
  the note says so: waiting for a CPU is no property of the memory.
  """
  timings = [timing for visit in visits for timing in visit]
  clean = [[t for t in visit if not t.preempted] for visit in visits]
  least = min(max(_LEAST_CLEAN, len(timings) // 10), len(timings))
  notes = []
  if sum(map(len, clean)) >= least:
    times = [[timing.wall_s for timing in visit] for visit in clean]
  elif any(timing.cpu_s is None for timing in timings):
    times = [[timing.wall_s for timing in visit] for visit in visits]
    share = statistics.median(t.waited_s / t.wall_s for t in timings)
    notes.append(f'preempted: waited/wall {share:.2f}')
  else:
    times = [[timing.cpu_s for timing in visit] for visit in visits]
    ratio = statistics.median(t.wall_s / t.cpu_s for t in timings)
    notes.append(f'preempted: wall/cpu {ratio:.2f}, CPU time used')
  used = [time for visit in times for time in visit]
  deviation = _deviation(times)
  if deviation > NOISY_REL_STD:
    notes.append(f'noisy: rel_std {deviation:.2f}')
  cpu = [timing.cpu_s for timing in timings if timing.cpu_s is not None]
  return Summary(
    time_s=undisturbed(used, quantile),
    cpu_time_s=undisturbed(cpu, quantile) if cpu else None,
    repeats=len(used),
    rel_std=deviation,
    note='; '.join(notes) or None,
  )


def _deviation(visits: Sequence[Sequence[float]]) -> float:
  """Spread of the visits' observations, or of the repeats of a few visits."""
  visits = [visit for visit in visits if visit]
  if len(visits) >= _LEAST_VISITS:
    return rel_std([undisturbed(visit) for visit in visits])
  return rel_std([time for visit in visits for time in visit])


@dataclasses.dataclass(frozen=True)
class NoiseReport:
  """How far the rows of a run can be trusted.

  Attributes:
    rows: How many rows were judged.
    noisy_share: Share of them with a note about noise or preemption.
    median_rel_std: Median of their relative deviations.
    too_noisy: Whether a fit to these rows would mislead.
    help: One line: what it means and what to do.
  """

  rows: int
  noisy_share: float
  median_rel_std: float
  too_noisy: bool
  help: str


def noise_report(rows: Sequence[Mapping[str, Any]]) -> NoiseReport:
  """Judges measured rows; see `NoiseReport`."""
  deviations = [
    row['rel_std'] for row in rows if row.get('rel_std') is not None
  ]
  if not deviations:
    return NoiseReport(0, 0.0, 0.0, False, 'nothing was measured')
  notes = [row.get('note') or '' for row in rows]
  noisy = sum('noisy:' in note or 'preempted:' in note for note in notes)
  share = noisy / len(rows)
  median = statistics.median(deviations)
  too_noisy = share > _NOISY_SHARE or median > _NOISY_MEDIAN
  text = f'{share:.0%} of the rows are noisy, median deviation {median:.1%}'
  if too_noisy:
    text += (
      ': too noisy for a good fit; close other programs, keep this process '
      'on idle CPUs (taskset -c 0-3 ...), and run again'
    )
  else:
    text += ': good enough for a fit'
  return NoiseReport(len(rows), share, median, too_noisy, text)
