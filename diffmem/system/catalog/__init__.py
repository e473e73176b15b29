"""Published specifications of machines, one TOML file each, with sources."""

from diffmem.system.catalog.catalog import catalog_names as catalog_names
from diffmem.system.catalog.catalog import load_catalog as load_catalog
