"""BlackVIP (Oh et al., CVPR 2023): a picture-dependent prompt added to the pixels, by SPSA with momentum (zeroth_order/spsa.py).

What is trained is the coordinator's decoder and trigger (decoder.py). The text is the fixed zero-shot template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clip.prompt import clean_name
from clip.text import zero_shot_features
from clip.visual_prompt import image_tower
from datasets.augment import RandomView
from trainers.baselines.blackvip.decoder import Decoder, Statistics
from trainers.baselines.blackvip.encoder import Encoder, load_encoder
from trainers.blackbox.batches import CROP_SCALE, MiniBatches
from trainers.blackbox.objective import Objective, Samples, criterion
from trainers.blackbox.pictures import Pictures, Preprocess, picture_sets
from trainers.blackbox.problem import Problem
from trainers.saved import Scorer
from utils.parallel import parallel_map
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.task import FewShotTask

# float64 values that a pixel of a picture keeps alive in a decoder: 64 channels at a quarter of the pixels, in and out, and 3
LIVE_VALUES = 40


@dataclass(frozen=True)
class Encoded:
    """Pictures (n, 3, H, W) and the encoder's features z (n, D) of them. `training`: they are a mini-batch to learn from."""

    pictures: Tensor
    z: Tensor
    training: bool = False


class MiniBatch(Samples):
    """Encoded pictures that are scored together, whatever fits: batch norm takes its statistics over all of them."""

    def split(self, size: int) -> Iterator[Samples]:
        yield self


class EncodedPictures:
    """An ImageSet of pictures with features that the encoder gives once; only pictures are loaded again."""

    def __init__(self, pictures: Pictures, encoder: Encoder):
        self.pictures, self.encoder = pictures, encoder
        self.z = torch.empty(0, encoder.dim)

    def __len__(self) -> int:
        return len(self.pictures)

    def split(self, size: int) -> Iterator[Samples]:
        start = 0
        for part in self.pictures.split(size):
            stop = start + len(part)
            if stop > len(self.z):
                missing = self.encoder(part.inputs[len(self.z) - start :])
                self.z = torch.cat([self.z.to(missing), missing])
            yield Samples(Encoded(part.inputs, self.z[start:stop]), part.labels)
            start = stop


class VisualPrompt:
    """Scores of x + ε·prompt(x), cut to the range of valid pixels.

    In a mini-batch to learn from, batch norm takes the batch's own statistics under each decoder, as the released code does.
    Elsewhere it takes those of `reference`, the features (m, D) of fixed training pictures, under the decoder at hand: they
    follow from w alone, so that an evaluation depends neither on the decoders that ran before it nor on its other pictures.
    """

    def __init__(
        self,
        decoder: Decoder,
        epsilon: float,
        valid_range: tuple[Tensor, Tensor],
        tower: Callable[[Tensor], Tensor],
        text: Tensor,
        logit_scale: float,
        reference: Tensor,
        images_per_pass: int,
        memory_limit: int,
    ):
        """`valid_range`: least and greatest value (3, 1, 1). `tower`: pictures → features (n, D). `text` (K, D), normalized."""
        self.decoder, self.epsilon, self.valid_range = decoder, epsilon, valid_range
        self.tower, self.text, self.logit_scale, self.reference = tower, text, logit_scale, reference
        self.batch_size, self.memory_limit = images_per_pass, memory_limit

    def logits(self, W: Tensor, dtype: torch.dtype) -> Callable[[Encoded], Tensor]:
        # batch norm in half precision would lose more than the tower does
        W = W.to(self.text.device, torch.promote_types(dtype, torch.float32))
        statistics = cache(lambda: self.decoder(W, self.reference)[1])
        return lambda images: self.score(W, images, None if images.training else statistics(), dtype)

    def score(self, W: Tensor, images: Encoded, statistics: Statistics | None, dtype: torch.dtype) -> Tensor:
        """Class scores (B, n, K) float64 under decoders W (B, d) with the given statistics, or the pictures' own."""
        prompted = self.prompted(W, images, statistics)
        features = self.tower(prompted.flatten(0, 1).to(dtype)).unflatten(0, prompted.shape[:2])
        return self.logit_scale * (features @ self.text.T.to(dtype)).double()

    def prompted(self, W: Tensor, images: Encoded, statistics: Statistics | None) -> Tensor:
        """The prompted pictures (B, n, 3, H, W) under decoders W (B, d)."""
        prompts, _ = self.decoder(W, images.z, statistics)
        low, high = (bound.to(W) for bound in self.valid_range)
        return torch.clamp(images.pictures.to(W) + self.epsilon * prompts, low, high)

    def points_per_pass(self) -> int:
        """Decoders that run together: as many as fit, and fill a pass of the tower."""
        pixels = len(self.reference) * self.decoder.side**2
        fits = self.memory_limit // (pixels * LIVE_VALUES * torch.float64.itemsize)
        return max(1, min(fits, self.batch_size // len(self.reference)))

    def images_per_pass(self, points: int) -> int:
        return max(1, self.batch_size // points)

    def tower_images(self, points: int, images: int) -> int:
        return points * images

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """w (d,), each parameter of the decoder by name, and its batch norms' statistics for pictures of any batch."""
        W = w[None].to(self.text.device)
        with torch.inference_mode():
            _, statistics = self.decoder(W, self.reference)
        kept = {"w": w} | {name: parameter[0] for name, parameter in self.decoder.parameters(W).items()}
        for i, (mean, variance) in enumerate(statistics):
            kept |= {f"blocks.{i}.norm.mean": mean[0], f"blocks.{i}.norm.variance": variance[0]}
        return kept


def problem(config: Config, task: FewShotTask) -> Problem:
    """The coordinator's parameters, on mini-batches of pictures: newly augmented ones, or those of `--train_features cached`."""
    backbone = task.backbone
    encoder = load_encoder(config.pt_backbone, backbone, config.seed)
    train, val, test = (EncodedPictures(pictures, encoder) for pictures in picture_sets(config, task))
    first = torch.randperm(len(train), generator=torch_generator(config.seed, "batch norm"))[: config.train_batch]
    model, warnings = visual_prompt(config, task, encoder, encoder(train.pictures[first].inputs))
    batches = picture_batches(config, task, train.pictures, encoder)
    return Problem(
        Objective(model, batches, config.precision, config.train_batch, criterion(config)),
        model.decoder.initial(torch_generator(config.seed, "decoder")),
        train,
        val,
        test,
        steps=min(config.total_steps, config.epochs * batches.batches_per_epoch or config.total_steps),
        steps_per_epoch=batches.batches_per_epoch,
        warnings=warnings,
    )


def visual_prompt(config: Config, task: FewShotTask, encoder: Encoder, reference: Tensor) -> tuple[VisualPrompt, list[str]]:
    """The prompted CLIP of the run's classes, and what the user should know of their text prompts."""
    backbone, limit = task.backbone, config.memory_limit << 20
    prompts = [config.template.replace("{}", clean_name(name)) for name in task.dataset.classnames]
    text, warnings = zero_shot_features(backbone, prompts)
    model = VisualPrompt(
        Decoder(backbone.image_size[0], encoder.dim),
        config.p_eps,
        Preprocess(backbone.preprocess).valid_range(),
        image_tower(backbone, config.batch_size, limit),
        text,
        backbone.logit_scale,
        reference,
        config.batch_size,
        limit,
    )
    return model, warnings


def restore(config: Config, task: FewShotTask, tensors: Mapping[str, Tensor]) -> Scorer:
    """The saved decoder with its saved statistics, on this dataset's names and test pictures."""
    encoder = load_encoder(config.pt_backbone, task.backbone, config.seed)
    *_, pictures = picture_sets(config, task)
    model, _ = visual_prompt(config, task, encoder, torch.empty(0, encoder.dim))
    W = tensors["w"][None].to(task.backbone.device, torch.float32)
    names = [f"blocks.{i}.norm" for i in range(len(model.decoder.blocks))]
    statistics = [tuple(tensors[f"{name}.{what}"][None].to(W) for what in ("mean", "variance")) for name in names]
    return Scorer(
        lambda images: model.score(W, images, statistics, torch.float32)[0],
        EncodedPictures(pictures, encoder),
        model.images_per_pass(1),
        lambda inputs: Encoded(inputs.to(task.backbone.device), encoder(inputs)),
    )


def picture_batches(config: Config, task: FewShotTask, pictures: Pictures, encoder: Encoder) -> MiniBatches:
    """Mini-batches of `--train_batch` pictures; z is computed once a batch, for all points that are scored on it."""
    preprocess, open_image = pictures.preprocess, task.dataset.open_image

    def augmented(which: Tensor, number: int) -> Samples:
        view = RandomView(config.seed, number, task.backbone.image_size, CROP_SCALE)
        items = [task.train[position] for position in which.tolist()]
        pixels = torch.stack(list(parallel_map(lambda item: preprocess.pixels(view(open_image(item), item)), items, len(items))))
        return Samples(preprocess.normalize(pixels.to(pictures.device)), pictures.labels[which.to(pictures.device)])

    def load(which: Tensor, number: int) -> MiniBatch:
        images = augmented(which, number) if config.train_features == "fresh" else pictures[which]
        return MiniBatch(Encoded(images.inputs, encoder(images.inputs), training=True), images.labels)

    batches = MiniBatches(len(pictures), config.train_batch, torch_generator(config.seed, "mini-batches"), load, fresh=False)
    # no picture passes CLIP's image tower but with a prompt, and those are counted as such
    batches.encoded = 0
    return batches
