"""Image features on disk: one safetensors file for a few batches of images, named by the hash of all that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from datasets.digests import Digests
from utils.errors import UserError

FORM = "sharpzo features 2"


def default_folder() -> Path:
    """$XDG_CACHE_HOME/sharpzo, by default ~/.cache/sharpzo."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sharpzo"
    except RuntimeError:
        raise UserError(
            "--cache_dir: this account has no home folder for the feature cache; give a folder, or add --no-cache"
        ) from None


def cache_key(about: dict[str, Any], stamps: Sequence[str]) -> str:
    """SHA-256 over what the features depend on besides the images, and over each image's content stamp, in order."""
    digest = hashlib.sha256(json.dumps([FORM, about], sort_keys=True).encode())
    for stamp in stamps:
        digest.update(b"\0" + stamp.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class FeatureCache:
    """Entries in `folder`. `warn` gets a line for each damaged entry and for an unwritable folder; neither fails a run."""

    def __init__(self, folder: Path, warn: Callable[[str], None]):
        self.folder = folder
        self.warn = warn
        self.digests = Digests(folder, warn)

    def read(self, key: str, images: int) -> Tensor | None:
        """Features (images, D) float32 on the CPU, or None if the entry is missing or damaged."""
        path = self._path(key)
        # opening something other than a file, such as a pipe, could block
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                about, features = file.metadata() or {}, file.get_tensor("features")
        except (SafetensorError, OSError, ValueError) as error:
            reason = str(error)
        else:
            whole = features.dtype == torch.float32 and features.ndim == 2 and len(features) == images
            if whole and about.get("key") == key and about.get("sha256") == _checksum(features):
                return features
            reason = "its checksum is wrong"
        self.warn(f"{path}: damaged entry of the feature cache ({reason}); computing its features again")
        return None

    def write(self, key: str, features: Tensor) -> None:
        """Writes an entry atomically, so that concurrent runs never see half a file."""
        path = self._path(key)
        temporary = path.with_name(f"{key}.{uuid.uuid4().hex}.tmp")
        features = features.cpu().contiguous()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"features": features}, temporary, {"key": key, "sha256": _checksum(features)})
            temporary.replace(path)
        except (SafetensorError, OSError) as error:
            self.warn(f"--cache_dir: {self.folder}: the feature cache cannot be written: {error}")
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _checksum(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().data).hexdigest()
