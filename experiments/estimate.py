"""What a job takes on a machine: time, memory, energy and money.

  python -m experiments.estimate --model=llama-3.1-70b --machine=h100-sxm \
    --phase=train --devices=64 --tensor=8 --seq_len=8192 --batch=128
  python -m experiments.estimate --model=path/to/config.json \
    --machine=b200-sxm --phase=serve --tensor=8 --input_len=4096 \
    --output_len=512 --concurrency=32 --weights=nvfp4

Takes about ten seconds. The model is a preset, a Hugging Face config.json or
a TOML file; the machine a checkpoint of the folder or a catalog name.
"""

import pathlib

from absl import flags

from experiments import program

_MODEL = flags.DEFINE_string(
  'model', None, 'Preset, config.json or TOML file.', required=True
)
_MACHINE = flags.DEFINE_string('machine', None, 'Accelerator.', required=True)
_PHASE = flags.DEFINE_enum('phase', 'train', ['train', 'serve'], 'What runs.')
_CHECKPOINTS = flags.DEFINE_string(
  'checkpoints', 'checkpoints', 'Folder of fitted systems.'
)
_STACK = flags.DEFINE_string(
  'stack', '', "Software: 'nemo', 'llm-foundry', ... or 'vllm', 'sglang', ..."
)
_WEIGHTS = flags.DEFINE_string(
  'weights', '', "Number format of the weights, such as 'float8', 'nvfp4'."
)
_DEVICES = flags.DEFINE_integer('devices', 8, 'Of a training job.', 1)
_TENSOR = flags.DEFINE_integer('tensor', 1, 'Ranks that share matrices.', 1)
_PIPELINE = flags.DEFINE_integer('pipeline', 1, 'Stages.', 1)
_INTERLEAVE = flags.DEFINE_integer('interleave', 1, 'Chunks of a stage.', 1)
_CONTEXT = flags.DEFINE_integer('context', 1, 'Ranks of one sequence.', 1)
_EXPERT = flags.DEFINE_integer(
  'expert', 1, 'Ranks that share experts, tensor ranks among them.', 1
)
_FSDP = flags.DEFINE_integer('fsdp', 1, 'Ranks that share all weights.', 1)
_SEQ_LEN = flags.DEFINE_integer('seq_len', 4096, 'Training sequence.', 1)
_BATCH = flags.DEFINE_integer('batch', 128, 'Sequences of a step.', 1)
_MICRO = flags.DEFINE_integer('micro_batch', 1, 'Sequences at once.', 1)
_RECOMPUTE = flags.DEFINE_enum(
  'recompute', 'none', ['none', 'selective', 'full'], 'What is done again.'
)
_INPUT = flags.DEFINE_integer('input_len', 1024, 'Tokens of a prompt.', 1)
_OUTPUT = flags.DEFINE_integer('output_len', 1024, 'Tokens of an answer.', 2)
_CONCURRENCY = flags.DEFINE_integer('concurrency', 16, 'Open requests.', 1)
_DRAFTED = flags.DEFINE_integer('drafted', 0, 'Tokens guessed ahead.', 0)
_ACCEPTED = flags.DEFINE_float('accepted', 0.7, 'Share that is right.', 0, 1)
_JSON = flags.DEFINE_string('json', None, "File to write, '-' for stdout.")


def main() -> None:
  from diffmem import workloads
  from diffmem.runs import estimate, machines, software
  from diffmem.workloads.train_kernels import Mesh

  model = workloads.load_workload(_MODEL.value)
  if _WEIGHTS.value:
    model = model.with_weights(_WEIGHTS.value)
  folder = pathlib.Path(_CHECKPOINTS.value)
  common = {
    'machines': machines.Machines(folder),
    'software': software.of_folder(folder),
  }
  if _PHASE.value == 'serve':
    found = estimate.estimate_serving(
      model, _MACHINE.value, input_len=_INPUT.value, output_len=_OUTPUT.value,
      concurrency=_CONCURRENCY.value, tensor=_TENSOR.value,
      expert=_EXPERT.value, backend=_STACK.value, drafted=_DRAFTED.value,
      accepted=_ACCEPTED.value, **common,
    )  # fmt: skip
  else:
    mesh = Mesh(
      devices=_DEVICES.value, tensor=_TENSOR.value, pipeline=_PIPELINE.value,
      interleave=_INTERLEAVE.value, context=_CONTEXT.value,
      expert=_EXPERT.value, sharded=_FSDP.value,
      per_node=common['machines'].node_devices_of(_MACHINE.value),
      optimizer_sharded=_FSDP.value == 1, sequence=_TENSOR.value > 1,
    )  # fmt: skip
    found = estimate.estimate_training(
      model, _MACHINE.value, mesh, seq_len=_SEQ_LEN.value,
      sequences=_BATCH.value, micro_batch=_MICRO.value,
      recompute=_RECOMPUTE.value, stack=_STACK.value, **common,
    )  # fmt: skip
  if _JSON.value != '-':
    program.print_estimate(f'{model.name} on {_MACHINE.value}', found)
  program.write_json(_JSON.value, found.document())


if __name__ == '__main__':
  program.run(main)
