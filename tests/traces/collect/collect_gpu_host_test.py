import types

import pytest

from diffmem.traces.collect import gpu_host
from diffmem.traces.collect import session as cpu_session

KIB = 1024


@pytest.mark.parametrize('to_device', [True, False])
@pytest.mark.parametrize('pinned', [True, False])
def test_host_copies(gpu_row, to_device, pinned):
  row = gpu_row(gpu_host.HostCopy(64 * KIB, to_device, pinned))
  assert row['op'] == 'copy' and row['tier'] == 'DRAM'
  assert row['bytes_read'] == 64 * KIB * to_device
  assert row['bytes_written'] == 64 * KIB * (not to_device)
  assert row['variant'].endswith(
    ('h2d_' if to_device else 'd2h_') + ('pinned' if pinned else 'pageable')
  )


def test_a_device_without_pinned_memory_is_a_remark(session):
  session.device = types.SimpleNamespace(addressable_memories=lambda: [])
  with pytest.raises(cpu_session.SkipProbe, match='pinned_host'):
    gpu_host.HostCopy(1024, True, True).measure(session, 1)
