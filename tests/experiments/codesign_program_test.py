"""`experiments.codesign` refuses what does not fit before it plans anything."""

from .running import assert_refused, run

MIX = """
[[workload]]
name = 'chat'
model = 'llama-3.1-8b'
phase = 'decode'
chips = 8
tokens_per_s = 1e6
"""


def test_a_near_miss_is_told(tmp_path):
  path = tmp_path / 'mix.toml'
  path.write_text(MIX)
  done = run(
    'experiments.codesign', '--checkpoint=h100-sxm', f'--workloads={path}',
    '--what_ifs=hbm5',
  )  # fmt: skip
  assert_refused(done, "did you mean 'hbm4'")


def test_a_missing_mix_is_told():
  done = run(
    'experiments.codesign', '--checkpoint=h100-sxm', '--workloads=none.toml'
  )
  assert_refused(done, 'none.toml')
