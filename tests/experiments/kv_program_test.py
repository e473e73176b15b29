"""experiments.kv_capacity refuses traces that do not fit."""

from .running import assert_refused, run

LINE = (
  '{"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": %s}\n'
)


def test_a_trace_that_does_not_fit_is_refused_with_row_and_column(tmp_path):
  path = tmp_path / 'requests.jsonl'
  path.write_text(LINE % '[1, 2]' + LINE.replace(': 0,', ': 5,') % '[1]')
  done = run(
    'experiments.kv_capacity', '--checkpoint=h100-sxm',
    '--workload=llama-3.1-8b', f'--requests={path}',
  )  # fmt: skip
  assert_refused(done, 'row 2', "column 'hash_ids'", '2: 600 tokens')
