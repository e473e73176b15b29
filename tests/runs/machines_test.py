"""Accelerators by the names that people write, and where their systems come
from."""

import pytest

from diffmem.runs import pricing
from diffmem.runs.machines import Machines, unknown
from diffmem.workloads.kernels import Kernel, Pass, collective, product


@pytest.fixture(scope='module')
def machines(root):
  return Machines(root / 'checkpoints')


@pytest.mark.parametrize(
  ('written', 'name'),
  [
    ('a100_40gb', 'a100-sxm'),
    ('A100-80GB-SXM', 'a100-sxm'),
    ('NVIDIA H100-SXM5-80GB', 'h100-sxm'),
    ('h100_sxm', 'h100-sxm'),
    ('H100 PCIe', 'h100-pcie'),
    ('DGX-GB300', 'gb300'),
    ('NVIDIA Blackwell GPU (GB200)', 'gb200'),
    ('NVIDIA Blackwell GPU (B200-SXM-180GB)', 'b200-sxm'),
    ('TPU-v5p', 'tpu-v5p'),
    ('TPU-trillium', 'tpu-v6e'),
    ('T4-16GB', 't4'),
    ('V100-32GB-SXM3(DGX-2)', 'v100-sxm'),
    ('Habana Gaudi2', ''),
    (None, ''),
  ],
)
def test_names_of_accelerators(machines, written, name):
  assert machines.name_of(written) == name


def test_why_there_is_no_answer():
  assert unknown(None).startswith('incomplete configuration')
  assert 'Gaudi2' in unknown('Gaudi2')


def test_an_unmeasured_part_borrows_from_its_relative(machines):
  borrowed = machines['gb200']
  assert borrowed.system.name == 'gb200' and borrowed.residuals
  assert machines['gb200'] is borrowed
  assert machines['tpu-v5p'].residuals == {}
  assert machines.node_devices('gb200') == 72
  assert machines.node_devices('h100-sxm') == 8


@pytest.mark.parametrize('name', ['h100-sxm', 'tpu-v5p'])
def test_kernels_have_plausible_prices(machines, name):
  prices = pricing.Prices(machines[name])
  big = product('mlp', 'bfloat16', 8192, 8192, 8192)
  small = product('mlp', 'bfloat16', 1, 8192, 8192)
  link = collective('all_reduce', 1e9, 8, 8)
  prices.learn([big, small, link, big])
  rate = 2.0 * 8192**3 / prices(big)
  engine = machines[name].system.engine('matrix:bfloat16')
  assert 0.3 < rate / float(engine.rate_FLOPps) < 1.05
  memory = machines[name].system.tier(prices.memory)
  bandwidth = 2.0 * 8192**2 / prices(small)
  assert 0.2 < bandwidth / float(memory.read_Bps) < 1.05
  assert 1e-3 < prices(link) < 3e-2
  both = Pass((big._replace(count=3.0), small))
  assert prices.total(both, 'gemm') == pytest.approx(
    3.0 * prices(big) + prices(small)
  )
  assert prices.total(both, 'moe') == 0.0


def test_a_kernel_keeps_its_text_columns():
  kernel = Kernel('gemm', 'mlp', 1.0, {'m': 1.0, 'n': 2.0, 'k': 3.0})
  rows = pricing.as_traces([kernel, collective('all_reduce', 8.0, 2, 2)])
  assert list(rows['op']) == ['gemm', 'all_reduce']
  assert list(rows['variant']) == ['', 'nccl eager']
