"""Reads a weight file into a state dict without running code from it, unless it is OpenAI's own archive or the user trusts it."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError
from utils.files import sha256

# keys under which training frameworks store the weights in a checkpoint, in order of preference
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
# prefixes that DataParallel, torch.compile, Lightning and wrapper classes add to every name
PREFIXES = ("module.", "_orig_mod.", "model.", "clip_model.", "clip.", "net.")
COMPILED = "_orig_mod."
# entries of older CLIP files that are not weights
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
# packages whose objects training scripts store along with the weights (arguments, losses, configurations); empty stand-ins
# replace these objects, so that their code never runs
BESIDE_WEIGHTS = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "easydict.",
    "lightning.",
    "ml_collections.",
    "numpy.",
    "omegaconf.",
    "pytorch_lightning.",
    "yacs.",
)
# a safetensors file begins with eight bytes for the length of its header, which is JSON
HEADER_BEGINS = 8


def official_hashes() -> frozenset[str]:
    """SHA-256 of OpenAI's TorchScript archives, which are part of their published URLs."""
    from open_clip import pretrained

    urls = (pretrained.get_pretrained_url(name, "openai") for name in pretrained.list_pretrained_models_by_tag("openai"))
    return frozenset(url.split("/")[-2] for url in urls if "openaipublic" in url)


def is_torchscript(path: Path) -> bool:
    """A TorchScript archive is a zip that carries code; a plain torch file is a zip that does not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())


def is_safetensors(path: Path) -> bool:
    """Whether the content is a safetensors file, regardless of the file's suffix."""
    with path.open("rb") as file:
        head = file.read(HEADER_BEGINS + 1)
    length = int.from_bytes(head[:HEADER_BEGINS], "little")
    return head[HEADER_BEGINS:] == b"{" and HEADER_BEGINS + length <= path.stat().st_size


def read_state_dict(path: Path, trust: bool = False) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU, from safetensors, a torch file (weights only) or a TorchScript archive, recognized by content.

    Weights are also found under a training framework's key, and names with its prefixes. Raises UserError if the file is
    missing, damaged, holds anything but tensors, or is a TorchScript archive that is neither an official one (by its SHA-256)
    nor trusted.
    """
    if not path.is_file():
        raise UserError(f"--checkpoint: {path}: no such file")
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            return _unwrap(load_file(path), path)
        if is_torchscript(path):
            return _read_torchscript(path, trust)
        return _unwrap(_load_weights_only(path), path)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        # torch's own message advises turning its protection off
        raise UserError(
            f"--checkpoint: {path}: not a weight file that loads without running code: it is damaged, or it stores objects "
            f"other than tensors{_foreign_objects(path)}; save only the model's state_dict(), preferably as safetensors"
        ) from error
    # the loaders raise half a dozen types for a damaged or foreign file, all with the same meaning for the user
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--checkpoint: {path}: not a weight file that loads without running code: {reason}") from error


class _StandIn:
    """Replaces an object that is stored along with the weights, and does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _load_weights_only(path: Path) -> object:
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_StandIn, name) for name in _unknown_objects(path) if name.startswith(BESIDE_WEIGHTS)
    ]
    # given a path, newer versions of torch infer the format from its suffix
    with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        # torch warns about a pickle that it did not write; read_state_dict reports what is wrong with it
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(file, map_location="cpu", weights_only=True)


def _unknown_objects(path: Path) -> list[str]:
    """Names of the classes and functions besides tensors that a torch file refers to; none for files in the legacy format."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, OSError, EOFError, LookupError, pickle.UnpicklingError):
        return []


def _foreign_objects(path: Path) -> str:
    names = [name for name in _unknown_objects(path) if not name.startswith(BESIDE_WEIGHTS)]
    return f" ({', '.join(names[:3])})" if names else ""


def _read_torchscript(path: Path, trust: bool) -> dict[str, torch.Tensor]:
    digest = sha256(path)
    if digest not in official_hashes() and not trust:
        raise UserError(
            f"--checkpoint: {path}: loading a TorchScript archive runs its code, and this is not one of OpenAI's files "
            f"(SHA-256 {digest[:16]}…); if you trust it, add --trust_checkpoint"
        )
    state = torch.jit.load(path, map_location="cpu").state_dict()
    return {name: t for name, t in state.items() if name not in NOT_WEIGHTS}


def _unwrap(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    """The innermost dict of tensors under the keys of `WRAPPERS`, with prefixes removed from its names."""
    while isinstance(loaded, dict) and not _all_tensors(loaded):
        inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict) or not _all_tensors(loaded):
        found = f"; its keys are {', '.join(map(str, list(loaded)[:6]))}" if isinstance(loaded, dict) and loaded else ""
        raise UserError(f"--checkpoint: {path}: holds no state dict of tensors{found}")
    state = {name.replace(f".{COMPILED}", "."): tensor for name, tensor in loaded.items() if name not in NOT_WEIGHTS}
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in state)), ""):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _all_tensors(loaded: dict[Any, Any]) -> bool:
    return bool(loaded) and all(isinstance(name, str) and isinstance(t, torch.Tensor) for name, t in loaded.items())
