"""A fitted system on disk: saved whole or not at all, verified on load."""

from diffmem.checkpoint.card import SCHEMA_VERSION as SCHEMA_VERSION
from diffmem.checkpoint.card import Card as Card
from diffmem.checkpoint.card import TraceFile as TraceFile
from diffmem.checkpoint.checkpoint import Checkpoint as Checkpoint
from diffmem.checkpoint.checkpoint import load_checkpoint as load_checkpoint
from diffmem.checkpoint.checkpoint import load_system as load_system
from diffmem.checkpoint.checkpoint import save_checkpoint as save_checkpoint
