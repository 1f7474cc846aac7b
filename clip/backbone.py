"""The frozen CLIP: from a backbone name and an optional weight file to a model, its tokenizer and its image transform."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from clip import BUNDLED
from clip.bundled import build_bundled, model_config, weights_of
from clip.checkpoint import is_torchscript, official_hashes, read_state_dict
from clip.hugging_face import is_hugging_face, to_open_clip, uses_quick_gelu
from clip.packed import with_rounded_matrices
from clip.towers import Tokenizer
from utils.errors import UserError
from utils.files import sha256

# OpenAI's names → open_clip's architectures with the QuickGELU that OpenAI trained with
OPENAI_MODELS = {
    "RN50": "RN50-quickgelu",
    "RN101": "RN101-quickgelu",
    "RN50x4": "RN50x4-quickgelu",
    "RN50x16": "RN50x16-quickgelu",
    "RN50x64": "RN50x64-quickgelu",
    "ViT-B/32": "ViT-B-32-quickgelu",
    "ViT-B/16": "ViT-B-16-quickgelu",
    "ViT-L/14": "ViT-L-14-quickgelu",
}
# entries of published files that do not change which class has the largest logit
WITHOUT_EFFECT = ("attn_mask", "text.attn_mask", "logit_bias")
# aspect ratio beyond which an image is cropped to its middle before it is resized
WIDEST = 32


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP in float32 on its device.

    `known_tokens`: the token ids with a trained embedding, or None if all have one (the bundled backbones trained few).
    `tower_weights`: what the text tower's matrices were rounded to. `weights_sha256`: the fingerprint, if it is known.
    """

    name: str
    model: CLIP | CustomTextCLIP
    tokenizer: Tokenizer
    preprocess: Callable[[Image.Image], Tensor]
    device: torch.device
    known_tokens: frozenset[int] | None = None
    tower_weights: str = "float32"
    weights_sha256: str = ""

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels that the image tower takes."""
        size = self.model.visual.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def fingerprint(self) -> str:
        """SHA-256 over the names and bytes of all weights as loaded: it identifies the model that a saved prompt belongs to."""
        if self.weights_sha256:
            return self.weights_sha256
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            # a view, since a copy of the largest tensor would set the peak memory of a small run
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def with_tower_weights(self, kind: str) -> Backbone:
        """The same CLIP with the matrices of its text tower rounded to `kind`, and the fingerprint of the original weights."""
        model: Any = self.model if kind == "float32" else with_rounded_matrices(self.model, kind)
        return dataclasses.replace(self, model=model, tower_weights=kind, weights_sha256=self.fingerprint())

    def released(self) -> Backbone:
        """The same backbone without its weights, for use once everything that needs them has been built.

        Parts of the model that other objects refer to stay in memory.
        """
        model: Any = nn.Module()
        model.logit_scale = self.model.logit_scale
        return dataclasses.replace(self, model=model, weights_sha256=self.fingerprint())

    def encode_images(self, images: Tensor, normalize: bool = True) -> Tensor:
        """Features (n, D) float32, L2-normalized by default, of preprocessed images (n, 3, H, W)."""
        with torch.inference_mode():
            return self.model.encode_image(images.to(self.device), normalize=normalize)


def load_backbone(name: str, device: torch.device, checkpoint: str | None = None, trust: bool = False) -> Backbone:
    """Builds `name` with its pretrained weights, or with those of the local file `checkpoint`, and freezes it.

    Raises UserError for an unknown name or tag, an activation that does not match the weights, weights that cannot be loaded
    or are not finite, or a text tower whose prompt cannot be tuned.
    """
    # building a model first fills it with random weights, which must not advance the caller's global generator
    with torch.random.fork_rng(devices=[]):
        if name in BUNDLED:
            architecture, (model, known) = None, _bundled(name, checkpoint)
        else:
            known = None
            architecture, tag = resolve_name(name, has_checkpoint=checkpoint is not None)
            model = _from_file(architecture, tag, Path(checkpoint), trust) if checkpoint else _pretrained(architecture, tag)
    _refuse_nonfinite(model, f"--checkpoint: {checkpoint}" if checkpoint else f"--backbone: {name}")
    model = model.to(device).eval().requires_grad_(False)
    return Backbone(name, model, _tokenizer(name, architecture, model), _preprocess(model), device, known)


def _refuse_nonfinite(model: nn.Module, where: str) -> None:
    """Raises UserError for weights that are not finite, which would otherwise look like a run with too large a step size."""
    for key, tensor in model.state_dict().items():
        broken = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() and not key.endswith("attn_mask") else 0
        if broken:
            raise UserError(f"{where}: {key} has {broken} of {tensor.numel()} values that are NaN or infinite; use other weights")
    scale = model.state_dict()["logit_scale"]
    if not torch.isfinite(scale.exp()).all():
        raise UserError(f"{where}: logit_scale is {float(scale):g}, too large for its exponential; use other weights")


def _bundled(name: str, checkpoint: str | None) -> tuple[nn.Module, frozenset[int]]:
    path = Path(checkpoint) if checkpoint else weights_of(name)
    try:
        return build_bundled(model_config(name), read_state_dict(path))
    except (KeyError, RuntimeError, IndexError) as error:
        raise UserError(f"--checkpoint: {path}: not the weights of {name}: {error}") from error


def resolve_name(name: str, has_checkpoint: bool = False) -> tuple[str, str]:
    """open_clip's architecture and pretrained tag for a backbone name; with a checkpoint, "" unless the name gives a tag.

    A name without a tag selects its only weights, or OpenAI's if the activation is theirs; otherwise a tag is required.
    """
    if name in OPENAI_MODELS:
        return OPENAI_MODELS[name], "" if has_checkpoint else "openai"
    architecture, _, tag = name.partition("@")
    architecture = architecture.replace("/", "-")
    if architecture not in open_clip.list_models():
        close = difflib.get_close_matches(architecture, [*OPENAI_MODELS, *BUNDLED, *open_clip.list_models()], n=3)
        names = f"similar names: {', '.join(close)}" if close else "open_clip.list_models() lists all names"
        raise UserError(f"--backbone: unknown model {name!r}; {names}")
    tokenizer = open_clip.get_model_config(architecture)["text_cfg"].get("hf_tokenizer_name")
    if tokenizer:
        raise UserError(
            f"--backbone: {name}: its text tower uses the tokenizer {tokenizer}, and only CLIP's own is supported; "
            "choose another backbone"
        )
    if has_checkpoint and not tag:
        return architecture, ""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not tag and len(tags) == 1:
        tag = tags[0]
    elif not tag and "openai" in tags and architecture.endswith("-quickgelu"):
        tag = "openai"
    if tag not in tags:
        choices = f"available tags: {', '.join(tags)}" if tags else "it has none; use --checkpoint FILE"
        problem = f"no pretrained tag {tag!r}" if tag else "name a pretrained tag"
        raise UserError(f"--backbone: {architecture}: {problem} ({architecture}@TAG); {choices}")
    _check_activation(architecture, open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False), f"tag {tag!r}")
    return architecture, tag


def _check_activation(architecture: str, weights_quick: bool, weights: str) -> None:
    model_quick = bool(open_clip.get_model_config(architecture).get("quick_gelu", False))
    if model_quick != weights_quick:
        right = architecture + "-quickgelu" if weights_quick else architecture.removesuffix("-quickgelu")
        words = {True: "QuickGELU", False: "GELU"}
        raise UserError(
            f"--backbone: {architecture} uses {words[model_quick]} but the weights of {weights} were trained with "
            f"{words[weights_quick]}; use {right}"
        )


def quiet_hub() -> None:
    """Silences the hub's own warnings, which would hide the one line that says what to do."""
    # importing the hub sets its logger's level
    importlib.import_module("huggingface_hub")
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)


def _pretrained(architecture: str, tag: str) -> nn.Module:
    quiet_hub()
    try:
        return open_clip.create_model(architecture, pretrained=tag, weights_only=True)
    # open_clip wraps whatever the download raised in a RuntimeError
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"--backbone: the weights {tag!r} of {architecture} could not be downloaded or read ({error}); download them on "
            "another machine and use --checkpoint FILE"
        ) from error


def _from_file(architecture: str, tag: str, path: Path, trust: bool) -> nn.Module:
    state = read_state_dict(path, trust)
    if is_torchscript(path) and sha256(path) in official_hashes():
        _check_activation(architecture, True, str(path))
    # with a tag in the name, images are normalized as in the training of that tag's weights
    known = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    layout = ""
    if is_hugging_face(state):
        layout, quick = " (read from Hugging Face's layout)", uses_quick_gelu(path)
        if quick is not None:
            _check_activation(architecture, quick, str(path))
        state = to_open_clip(state)
    preprocess = {key: known[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in known}
    model = open_clip.create_model(architecture, pretrained=None, pretrained_text=False, force_preprocess_cfg=preprocess)
    state = convert_state_dict(model, state)
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(model.logit_scale.shape)
    expected = model.state_dict()
    if "text.token_embedding.weight" in expected and "token_embedding.weight" in state:
        state = {name if name.startswith(("visual.", "logit_")) else f"text.{name}": t for name, t in state.items()}
    state = {name: tensor for name, tensor in state.items() if name in expected or name not in WITHOUT_EFFECT}
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    shapes = sorted(name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape)
    for names, what in ((missing, "lacks"), (unexpected, "has an unexpected"), (shapes, "has a different shape for")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"--checkpoint: {path}: not the weights of {architecture}{layout}: it {what} {names[0]}{more}")
    model.load_state_dict(state)
    return model


@dataclass(frozen=True)
class Preprocess:
    """The deterministic test transform: shorter side to size, bicubic, center crop, the model's mean and std.

    The transform uses only the middle of a very long image. Cropping to the middle first saves the memory of resizing the whole
    image, which would grow with the square of its length.
    """

    transform: Callable[[Image.Image], Tensor]
    crops_first: bool

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(_middle(image) if self.crops_first else image)

    def __repr__(self) -> str:
        return repr(self.transform)

    @property
    def transforms(self) -> list[Callable[..., Any]]:
        """The steps in order; the last one is the normalization."""
        return [*([_middle] if self.crops_first else []), *getattr(self.transform, "transforms", [])]


def _middle(image: Image.Image) -> Image.Image:
    """`image`, or its middle if one side is more than `WIDEST` times the other."""
    width, height = image.size
    longest = WIDEST * min(width, height)
    if max(width, height) <= longest:
        return image
    # the same number of pixels is cropped from both ends, so that the center stays
    left, top = (max(0, side - longest) // 2 for side in (width, height))
    return image.crop((left, top, width - left, height - top))


def _preprocess(model: CLIP | CustomTextCLIP) -> Preprocess:
    settings = dict(getattr(model.visual, "preprocess_cfg", {}))
    settings.setdefault("size", model.visual.image_size)
    config = PreprocessCfg(**settings)
    return Preprocess(image_transform_v2(config, is_train=False), config.resize_mode == "shortest")


def _tokenizer(name: str, architecture: str | None, model: CLIP | CustomTextCLIP) -> Tokenizer:
    tower = getattr(model, "text", model)
    if not hasattr(tower, "token_embedding") or getattr(tower, "cls_emb", None) is not None:
        raise UserError(
            f"--backbone: {name}: its text tower has no open_clip token embedding, so a prompt cannot be tuned; "
            "choose another backbone"
        )
    if architecture is None:
        return open_clip.SimpleTokenizer(context_length=model.context_length)
    return open_clip.get_tokenizer(architecture)
