"""Reads a weight file into a state dict without running anything it holds, unless it is OpenAI's own or the user trusts it."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch

from utils.errors import UserError
from utils.files import sha256


def official_hashes() -> frozenset[str]:
    """SHA-256 of OpenAI's TorchScript archives, as their published addresses spell them."""
    from open_clip import pretrained

    urls = (pretrained.get_pretrained_url(name, "openai") for name in pretrained.list_pretrained_models_by_tag("openai"))
    return frozenset(url.split("/")[-2] for url in urls if "openaipublic" in url)


def is_torchscript(path: Path) -> bool:
    """A TorchScript archive is a zip that carries code; a plain torch file is a zip that does not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())


def read_state_dict(path: Path, trust: bool = False) -> dict[str, torch.Tensor]:
    """Tensors by name from safetensors, a torch file (weights only) or a TorchScript archive, on the CPU.

    Raises UserError where the file is missing, damaged, holds anything but tensors, or is a TorchScript archive that is
    neither an official one (by its SHA-256) nor trusted.
    """
    if not path.is_file():
        raise UserError(f"--checkpoint: {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return _unwrap(load_file(path), path)
        if is_torchscript(path):
            return _read_torchscript(path, trust)
        with warnings.catch_warnings():
            # of a pickle that torch did not write; what comes of it is told here
            warnings.simplefilter("ignore", UserWarning)
            return _unwrap(torch.load(path, map_location="cpu", weights_only=True), path)
    except UserError:
        raise
    # the loaders raise half a dozen types for a damaged or foreign file; all mean the same to the user
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--checkpoint: {path}: not a weight file that loads without running code: {reason}") from error


def _read_torchscript(path: Path, trust: bool) -> dict[str, torch.Tensor]:
    digest = sha256(path)
    if digest not in official_hashes() and not trust:
        raise UserError(
            f"--checkpoint: {path}: a TorchScript archive runs code when it is loaded, and this is none of OpenAI's files "
            f"(SHA-256 {digest[:16]}…); if you trust it, add --trust_checkpoint"
        )
    state = torch.jit.load(path, map_location="cpu").state_dict()
    return {name: t for name, t in state.items() if name not in ("input_resolution", "context_length", "vocab_size")}


def _unwrap(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    """open_clip's training checkpoints keep the weights below 'state_dict', with 'module.' before each name."""
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise UserError(f"--checkpoint: {path}: holds no state dict of tensors")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
