from diffmem.traces.collect import gpu_attention


def test_attention_rows_have_the_readers_columns(gpu_row):
  shape = (2, 16, 4, 2, 8)
  prefill = gpu_row(gpu_attention.Attention('prefill_attention', *shape))
  assert prefill['seq_len'] == 16 and 'kv_len' not in prefill
  assert prefill['flops'] == 4 * 2 * 4 * 16 * 16 * 8 / 2
  query, cache = 2 * 2 * 16 * 4 * 8, 2 * 2 * 2 * 16 * 2 * 8
  assert prefill['bytes_read'] == query + cache
  assert prefill['bytes_written'] == query
  decode = gpu_row(gpu_attention.Attention('decode_attention', *shape))
  assert decode['kv_len'] == 16 and 'seq_len' not in decode
  assert decode['flops'] == 4 * 2 * 4 * 16 * 8
  assert decode['bytes_read'] == query / 16 + cache
  for row in (prefill, decode):
    assert row['window_size'] == 0 and row['num_kv_heads'] == 2
    assert row['kv_dtype'] == row['dtype'] == 'bfloat16'
    assert row['variant'].endswith(', xla')  # there is no cuDNN here
    assert 'not by cuDNN' in row['note']
