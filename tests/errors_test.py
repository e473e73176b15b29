from diffmem import errors


def test_trace_error_names_everything():
  error = errors.TraceError(
    'a.csv', row=3, column='latency_s', value=-1.0, expected='a positive time'
  )
  assert str(error) == (
    "a.csv, row 3, column 'latency_s': found -1.0; expected a positive time"
  )


def test_trace_error_of_a_whole_file():
  assert str(errors.TraceError('a.csv', expected='a file; there is none')) == (
    'a.csv: expected a file; there is none'
  )
