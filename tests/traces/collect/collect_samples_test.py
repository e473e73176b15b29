import numpy as np
import pytest

from diffmem.traces.collect import samples

Timing = samples.Timing


def test_rel_std_is_the_scaled_mad():
  values = np.random.default_rng(0).normal(5.0, 0.5, 10_001)
  assert samples.rel_std(list(values)) == pytest.approx(0.1, rel=0.03)
  assert samples.rel_std([3.0]) == 0


@pytest.mark.parametrize('count', [1, 2, 7, 48])
def test_undisturbed_is_the_lower_decile(count):
  values = list(np.random.default_rng(count).exponential(size=count))
  expected = np.quantile(values, 0.1)
  assert samples.undisturbed(values) == pytest.approx(expected, rel=1e-12)


def test_a_burst_of_noise_leaves_the_time_alone():
  quiet = [Timing(1.0 + 0.001 * i, 1.0) for i in range(6)]
  burst = [Timing(2.1, 2.1)] * 6
  summary = samples.summarise([quiet, burst, quiet, quiet])
  assert summary.time_s == pytest.approx(1.0, abs=0.002)
  assert summary.rel_std < 0.001
  assert summary.note is None
  assert summary.repeats == 24


def test_preempted_repeats_are_left_out():
  visits = [[Timing(1.0, 1.0)] * 3, [Timing(0.9, 0.5)] * 3]
  summary = samples.summarise(visits)
  assert summary.repeats == 3
  assert summary.time_s == 1.0
  assert summary.note is None


def test_cpu_time_stands_in_where_nothing_ran_undisturbed():
  summary = samples.summarise([[Timing(2.0, 1.0)] * 5])
  assert summary.time_s == 1.0
  assert summary.note == 'preempted: wall/cpu 2.00, CPU time used'


def test_times_without_cpu_clock_are_never_preempted():
  summary = samples.summarise([[Timing(2.0), Timing(2.0)]])
  assert summary.time_s == 2.0
  assert 'cpu_time_s' not in summary.columns()
  assert 'note' not in summary.columns()


def test_programs_that_waited_for_a_cpu_are_left_out():
  waited = [Timing(3.0, waited_s=1.5)] * 4
  summary = samples.summarise([waited, [Timing(1.0, waited_s=0.1)] * 4])
  assert summary.time_s == 1.0
  assert summary.repeats == 4
  summary = samples.summarise([waited])
  assert summary.time_s == 3.0
  assert summary.note == 'preempted: waited/wall 0.50'


def test_visits_that_disagree_make_a_noisy_row():
  summary = samples.summarise([[Timing(t, t)] * 4 for t in (1.0, 1.3, 1.6)])
  assert summary.rel_std == pytest.approx(1.4826 * 0.3 / 1.3)
  assert summary.note == 'noisy: rel_std 0.34'


def test_noise_report_tells_quiet_from_noisy():
  quiet = samples.noise_report([{'rel_std': 0.01}] * 9 + [{'rel_std': 0.02}])
  assert not quiet.too_noisy
  assert quiet.median_rel_std == 0.01
  noisy = samples.noise_report(
    [{'rel_std': 0.2, 'note': 'noisy: rel_std 0.20'}] * 5
    + [{'rel_std': 0.01, 'note': 'preempted: wall/cpu 2'}]
    + [{'rel_std': 0.01}] * 6
  )
  assert noisy.too_noisy
  assert noisy.noisy_share == 0.5
  assert 'taskset' in noisy.help and '\n' not in noisy.help
  assert samples.noise_report([]).rows == 0
