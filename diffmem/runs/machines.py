"""Which fitted system stands for the accelerator that a row names."""

import pathlib
import re

from diffmem import checkpoint, fitting
from diffmem.system import FittedSystem

# What people write -> name in the catalog; the first that is found counts.
_NAMES = (
  (r'gb300', 'gb300'),
  (r'gb200', 'gb200'),
  (r'b300', 'b300-sxm'),
  (r'b200', 'b200-sxm'),
  (r'h200', 'h200-sxm'),
  (r'h100.*pcie', 'h100-pcie'),
  (r'h100|h800', 'h100-sxm'),
  (r'a100.*pcie', 'a100-pcie'),
  (r'a100|a800', 'a100-sxm'),
  (r'v100', 'v100-sxm'),
  (r'a6000', 'a6000'),
  (r'l40s', 'l40s'),
  (r'\bl4\b', 'l4'),
  (r'\bt4\b', 't4'),
  (r'mi300x', 'mi300x'),
  (r'ironwood|tpu.?v?7', 'tpu-ironwood'),
  (r'trillium|v6e', 'tpu-v6e'),
  (r'v5p', 'tpu-v5p'),
  (r'v5e|v5lite', 'tpu-v5e'),
)
# A part that was never measured -> its measured relative, with the same
# kernels: what the data sheets change is carried over (`fitting.transfer`).
_RELATIVES = {
  'gb200': 'b200-sxm',
  'gb300': 'b200-sxm',
  'b300-sxm': 'b200-sxm',
  'h200-sxm': 'h100-sxm',
  'h100-pcie': 'h100-sxm',
  'a100-pcie': 'a100-sxm',
}


class Machines:
  """Fitted systems of a folder of checkpoints, by what rows call them."""

  def __init__(self, folder: str | pathlib.Path | None = None):
    self.folder = pathlib.Path(folder) if folder else None
    self._loaded: dict[str, FittedSystem] = {}

  def name_of(self, accelerator: str | None) -> str:
    """The catalog's name of an accelerator; '' where it has none."""
    text = re.sub(r'[_\s]+', '-', str(accelerator or '').lower())
    if self._fitted_folder(text):
      return text
    return next((n for p, n in _NAMES if re.search(p, text)), '')

  def __getitem__(self, name: str) -> FittedSystem:
    """The system of a catalog name.

    Fitted, where the folder has it and it was measured; else carried over from
    its measured relative; else as published.
    """
    if name not in self._loaded:
      self._loaded[name] = self._load(name)
    return self._loaded[name]

  def node_devices(self, name: str) -> int:
    """Devices that the innermost network of a machine links."""
    spans = [t.span for t in self[name].system.tiers if t.link and t.span > 1]
    return min(spans, default=1)

  def node_devices_of(self, accelerator: str) -> int:
    """The same of an accelerator by any of its names; 8 where unknown."""
    name = self.name_of(accelerator)
    return self.node_devices(name) if name else 8

  def _fitted_folder(self, name: str) -> pathlib.Path | None:
    folder = self.folder / name if self.folder else None
    return folder if folder and (folder / 'card.json').is_file() else None

  def _load(self, name: str) -> FittedSystem:
    folder = self._fitted_folder(name)
    own = checkpoint.load_system(str(folder) if folder else name)
    relative = self._fitted_folder(_RELATIVES.get(name, ''))
    if own.residuals or not relative:
      return own
    lender = checkpoint.load_system(str(relative))
    spec = checkpoint.load_system(lender.system.name)
    return fitting.transfer(lender, spec, own).fitted


def unknown(accelerator: str | None) -> str:
  """Why a row of that accelerator has no answer."""
  if not accelerator:
    return 'incomplete configuration: no accelerator'
  return f'unknown accelerator {accelerator!r}'
