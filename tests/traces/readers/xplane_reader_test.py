import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import errors
from diffmem.traces import readers

OPTIONS = readers.Options(system='box')

# A device plane as TPUs write it: whole instructions as names, times in ps.
DEVICE = """
planes {
  name: "/device:TPU:0"
  event_metadata { key: 1 value { id: 1 name: "%fusion.1 = f32[8] fusion()" } }
  event_metadata { key: 2 value { id: 2 name: "all-reduce.3" } }
  event_metadata { key: 3 value { id: 3 name: "all-gather-start.4" } }
  stat_metadata { key: 1 value { id: 1 name: "flops" } }
  stat_metadata { key: 2 value { id: 2 name: "bytes_accessed" } }
  lines {
    name: "XLA Ops"
    events { metadata_id: 1 offset_ps: 0 duration_ps: 1000000
      stats { metadata_id: 1 uint64_value: 500 }
      stats { metadata_id: 2 uint64_value: 64 } }
    events { metadata_id: 1 offset_ps: 2000000 duration_ps: 3000000 }
    events { metadata_id: 1 offset_ps: 6000000 duration_ps: 2000000 }
    events { metadata_id: 2 offset_ps: 9000000 duration_ps: 5000000 }
    events { metadata_id: 3 offset_ps: 15000000 duration_ps: 5000000 }
  }
  lines {
    name: "Steps"
    events { metadata_id: 1 offset_ps: 0 duration_ps: 20000000 }
  }
}
"""


def test_device_plane(tmp_path):
  path = tmp_path / 'a.xplane.pb'
  path.write_bytes(
    jax.profiler.ProfileData.text_proto_to_serialized_xspace(DEVICE)
  )
  found = readers.read(path, 'xplane')
  t = found.traces
  assert list(t['op']) == ['kernel', 'all_reduce']
  assert list(t['variant']) == ['fusion.1', 'all-reduce.3']
  np.testing.assert_allclose(t['time_s'], [2e-6, 5e-6])
  np.testing.assert_allclose(t['repeats'], [3, 1])
  np.testing.assert_allclose(t['rel_std'], [1.4826 * 0.5, np.nan])
  np.testing.assert_allclose(t['flops'], [500, np.nan])
  np.testing.assert_allclose(t['bytes_read'], [64, np.nan])
  assert set(t['system']) == {'TPU:0'}
  assert 'half of an asynchronous operation' in found.summary()
  assert '1 events are no operations' in found.summary()


def test_real_profile(tmp_path):
  step = jax.jit(lambda a, b: jnp.tanh(a @ b).sum())
  a = jnp.ones((64, 64))
  step(a, a).block_until_ready()
  with jax.profiler.trace(str(tmp_path)):
    for _ in range(3):
      step(a, a).block_until_ready()
  t = readers.read(tmp_path, 'xplane', OPTIONS).traces
  assert set(t['system']) == {'box'}
  assert (t['time_s'] < 1).all() and (t['repeats'] == 3).all()
  assert all(name.startswith('jit_') for name in t['variant'])


def test_bad_profiles(tmp_path):
  bad = tmp_path / 'x' / 'bad.xplane.pb'
  bad.parent.mkdir()
  bad.write_bytes(b'\x07 no profile \xff')
  with pytest.raises(errors.TraceError, match='a profile of jax.profiler'):
    readers.read(bad, 'xplane', OPTIONS)
  (bad.parent / 'other.xplane.pb').write_bytes(b'x')
  with pytest.raises(errors.TraceError, match='one .*xplane.pb'):
    readers.read(tmp_path, 'xplane', OPTIONS)
  with pytest.raises(errors.TraceError, match=r'none.*one .*xplane.pb'):
    (tmp_path / 'empty').mkdir()
    readers.read(tmp_path / 'empty', 'xplane', OPTIONS)
