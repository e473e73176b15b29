"""What to measure to learn a parameter: the `measure` text of `Knowledge`."""

from diffmem.system.system import System

# Slower memories are reached by reads of files, not by loads.
_DISK_LATENCY_S = 5e-6

_SHARED = {
  'launch_s': "op 'step': many tiny launches",
  'overlap_p': "op 'gemm' whose operands stream from memory, several sizes",
  'link_overlap_p': "op 'step': the same work with and without its collective",
  'private_loss': "ops 'stream' and 'copy' in private caches, 1 thread to all",
  'tlb_reach_B': "op 'pointer_chase' from 64 KiB to 2 MiB",
  'tlb_miss_s': "op 'pointer_chase' from 64 KiB to 2 MiB",
  'page_reach_B': "op 'pointer_chase' over growing working sets",
  'page_walk_s': "op 'pointer_chase' over working sets beyond the page reach",
  'static_W': 'power_W at full clocks with little work',
  'power_cap_W': "power_W of the largest op 'gemm'",
  'throttle_share': "op 'roofline' at the power cap, over all intensities",
}
_LINK = {
  'latency_s': "op 'send_recv' of small messages over {part}",
  'read_Bps': "op 'send_recv' of large messages over {part}",
  'write_Bps': "op 'send_recv' of large messages over {part}, the other way",
  'mixed_Bps': "op 'send_recv' over {part} in both directions at once",
  'queue_p': "op 'send_recv' over {part}, sizes from small to large",
}
_MEMORY = {
  'latency_s': "op 'pointer_chase' on {part}",
  'read_Bps': "op 'stream' on {part} with more participants, until it no "
  'longer rises',
  'write_Bps': "ops 'copy' and 'triad' on {part} with more participants",
  'mixed_Bps': "ops 'stream', 'copy' and 'triad' on {part}, all participants",
  'bend_read': "ops 'stream', 'triad' and 'copy' on {part}",
  'bend_write': "ops 'triad' and 'copy' on {part}, up to all writes",
  'queue_p': "op 'loaded_latency' on {part}, up to its capacity",
  'bend_queue': "op 'loaded_latency' on {part} at several shares of writes",
  'read_contention': "op 'loaded_latency' on {part}, all reads, idle to full",
  'write_contention': "op 'loaded_latency' on {part} at several shares of "
  'writes',
  'bend_contention': "op 'loaded_latency' on {part}, many loads up to a half",
}
_ANY_TIER = {
  'granule_B': "op 'random_read' on {part}, several granules",
  'read_in_flight_B': "op 'stream' on {part}, 1 to all participants",
  'write_in_flight_B': "op 'copy' on {part}, 1 to all participants",
  'wait_p': "ops 'stream' and 'copy' on {part}, few participants",
  'capacity_B': 'nothing: what the driver reports as the size of {part}',
  'cliff_k': "op 'stream' over working sets around the size of {part}",
  'churn_Bps': "ops 'pointer_chase' and 'stream' around the size of {part}",
  'device_J_per_B': 'the memory maker: a board shows device and path together',
  'path_J_per_B': "power_W of op 'stream' on {part}, several rates",
}
_DISK = {
  'latency_s': "op 'random_read' on {part}, one read at a time",
  'read_Bps': "op 'sequential_read' on {part}, deep queues",
  'queue_p': "op 'random_read' on {part}, queue depth 1 to 256",
  'read_in_flight_B': "op 'random_read' on {part}, deep queues",
}
# For a parameter that this table does not know yet.
_ANYTHING = "ops 'stream', 'copy' and 'random_read' on {part}"
_CACHE = {'capacity_B': _ANY_TIER['cliff_k']}


def what_to_measure(system: System, name: str) -> str:
  """What to measure to learn a parameter, in ops of the trace schema.

  Args:
    system: the machine.
    name: full name of the parameter, such as 'HBM.latency_s'.
  """
  part, _, parameter = name.rpartition('.')
  if part == 'system':
    return _SHARED.get(parameter, "op 'step'")
  if part in system.engine_names:
    return _of_engine(part, parameter)
  tier = system.tier(part)
  table = _ANY_TIER | (_LINK if tier.link else _MEMORY)
  if tier.is_cache:
    table = table | _CACHE
  elif float(tier.latency_s) > _DISK_LATENCY_S and not tier.link:
    table = table | _DISK
  return table.get(parameter, _ANYTHING).format(part=part)


def _of_engine(part: str, parameter: str) -> str:
  unit, _, dtype = part.partition(':')
  op = (
    f"op 'gemm' in {dtype}" if unit == 'matrix' else f"op 'reduce' in {dtype}"
  )
  if parameter == 'rate_FLOPps':
    return f'{op}, large and square'
  if parameter == 'start_s':
    return f'{op}, as small as it gets'
  if parameter == 'fill_rows':
    return f"op 'gemm' with few rows in {dtype}"
  return f'power_W of {op}, at several rates'
