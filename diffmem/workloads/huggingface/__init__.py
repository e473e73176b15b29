"""Reads Hugging Face config.json files: one module per part of a model."""

from diffmem.workloads.huggingface.config import model_types as model_types
from diffmem.workloads.huggingface.config import read_config as read_config
from diffmem.workloads.huggingface.config import (
  transformer_of as transformer_of,
)
