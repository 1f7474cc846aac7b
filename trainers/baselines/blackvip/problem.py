"""BlackVIP (Oh et al., CVPR 2023): an image-dependent prompt added to the pixels, by SPSA with momentum (zeroth_order/spsa.py).

The coordinator's decoder and trigger are trained (decoder.py). The text is the fixed zero-shot template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from clip.prompt import clean_name
from clip.text import zero_shot_features
from clip.visual_prompt import image_tower
from datasets import DATASETS
from datasets.augment import RandomView
from trainers.baselines.blackvip.decoder import Decoder, Statistics
from trainers.baselines.blackvip.encoder import Encoder, load_encoder
from trainers.blackbox.batches import CROP_SCALE, MiniBatches
from trainers.blackbox.criteria import criterion
from trainers.blackbox.images import ImageSet, Preprocess, image_sets
from trainers.blackbox.objective import Objective
from trainers.blackbox.problem import Problem, num_steps
from trainers.blackbox.samples import Samples
from trainers.blackbox.task import FewShotTask
from trainers.saved import Scorer
from utils.parallel import parallel_map
from utils.seeds import torch_generator
from utils.settings import Config

# float64 values that a decoder holds per pixel: 64 channels at a quarter of the resolution, in and out, and 3 channels
LIVE_VALUES = 40


@dataclass(frozen=True)
class Encoded:
    """Images (n, 3, H, W) and their features z (n, D) from the encoder. `training`: whether they are a training mini-batch."""

    images: Tensor
    z: Tensor
    training: bool = False


@dataclass(frozen=True)
class EncodedBatch:
    """Encoded images and their labels (n,), scored in one pass: batch norm takes its statistics over all of them."""

    inputs: Encoded
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, size: int) -> Iterator[EncodedBatch]:
        """The whole batch, whatever `size`."""
        yield self


class EncodedImages:
    """A SampleSet of images with the encoder's features, which are computed once; the images are loaded for each pass."""

    def __init__(self, images: ImageSet, encoder: Encoder):
        self.images, self.encoder = images, encoder
        self.z = torch.empty(0, encoder.dim)

    def __len__(self) -> int:
        return len(self.images)

    def split(self, size: int) -> Iterator[EncodedBatch]:
        start = 0
        for part in self.images.split(size):
            stop = start + len(part)
            if stop > len(self.z):
                missing = self.encoder(part.inputs[len(self.z) - start :])
                self.z = torch.cat([self.z.to(missing), missing])
            yield EncodedBatch(Encoded(part.inputs, self.z[start:stop]), part.labels)
            start = stop


class VisualPrompt:
    """Logits of x + ε·prompt(x), clamped to the range of valid pixels.

    In a training mini-batch, batch norm uses the batch's own statistics under each decoder, as in the released code. Otherwise
    it uses those of `reference`, the features (m, D) of fixed training images, under the same decoder: they depend on w alone,
    so an evaluation depends neither on decoders evaluated before nor on the other images of its batch.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        epsilon: float,
        valid_range: tuple[Tensor, Tensor],
        tower: Callable[[Tensor], Tensor],
        text: Tensor,
        logit_scale: float,
        reference: Tensor,
        images_per_pass: int,
        memory_limit: int,
    ):
        """`valid_range`: minimum and maximum (3, 1, 1). `tower`: images → features (n, D). `text` (K, D), normalized."""
        self.decoder, self.epsilon, self.valid_range = decoder, epsilon, valid_range
        self.tower, self.text, self.logit_scale, self.reference = tower, text, logit_scale, reference
        self.batch_size, self.memory_limit = images_per_pass, memory_limit

    def logits(self, W: Tensor, dtype: torch.dtype) -> Callable[[Encoded], Tensor]:
        # at least float32: batch norm loses more in half precision than the tower does
        W = W.to(self.text.device, torch.promote_types(dtype, torch.float32))
        statistics = cache(lambda: self.decoder(W, self.reference)[1])
        return lambda images: self.score(W, images, None if images.training else statistics(), dtype)

    def score(self, W: Tensor, images: Encoded, statistics: Statistics | None, dtype: torch.dtype) -> Tensor:
        """Logits (B, n, K) float64 under decoders W (B, d) with the given statistics, or with those of the images themselves."""
        prompted = self.prompted(W, images, statistics)
        features = self.tower(prompted.flatten(0, 1).to(dtype)).unflatten(0, prompted.shape[:2])
        return self.logit_scale * (features @ self.text.T.to(dtype)).double()

    def prompted(self, W: Tensor, images: Encoded, statistics: Statistics | None) -> Tensor:
        """The prompted images (B, n, 3, H, W) under decoders W (B, d)."""
        prompts, _ = self.decoder(W, images.z, statistics)
        low, high = (bound.to(W) for bound in self.valid_range)
        return torch.clamp(images.images.to(W) + self.epsilon * prompts, low, high)

    def points_per_pass(self) -> int:
        """Decoders evaluated together: limited by memory and by the tower's images per pass."""
        pixels = len(self.reference) * self.decoder.side**2
        fits = self.memory_limit // (pixels * LIVE_VALUES * torch.float64.itemsize)
        return max(1, min(fits, self.batch_size // len(self.reference)))

    def images_per_pass(self, points: int) -> int:
        return max(1, self.batch_size // points)

    def tower_images(self, points: int, images: int) -> int:
        return points * images

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """w (d,), each parameter of the decoder by name, and its batch norms' statistics over the `reference`."""
        W = w[None].to(self.text.device)
        with torch.inference_mode():
            _, statistics = self.decoder(W, self.reference)
        tensors = {"w": w} | {name: parameter[0] for name, parameter in self.decoder.parameters(W).items()}
        for i, (mean, variance) in enumerate(statistics):
            tensors |= {f"blocks.{i}.norm.mean": mean[0], f"blocks.{i}.norm.variance": variance[0]}
        return tensors


def problem(config: Config, task: FewShotTask) -> Problem:
    """The coordinator's parameters, on mini-batches of images: augmented anew, or unaugmented with `--train_features cached`."""
    backbone = task.backbone
    encoder = load_encoder(config.pt_backbone, backbone, config.seed)
    train, val, test = (EncodedImages(images, encoder) for images in image_sets(config, task))
    first = torch.randperm(len(train), generator=torch_generator(config.seed, "batch norm"))[: config.train_batch]
    model, warnings = visual_prompt(config, task, encoder, encoder(train.images[first].inputs))
    batches = image_batches(config, task, train.images, encoder)
    return Problem(
        Objective(model, batches, config.precision, config.train_batch, criterion(config)),
        model.decoder.initial(torch_generator(config.seed, "decoder")),
        train,
        val,
        test,
        steps=num_steps(config, batches.batches_per_epoch),
        steps_per_epoch=batches.batches_per_epoch,
        warnings=warnings,
    )


def visual_prompt(config: Config, task: FewShotTask, encoder: Encoder, reference: Tensor) -> tuple[VisualPrompt, list[str]]:
    """The prompted CLIP of the run's classes, and warnings about their text prompts."""
    backbone, limit = task.backbone, config.memory_limit << 20
    template = config.template or DATASETS[config.dataset].template
    prompts = [template.replace("{}", clean_name(name)) for name in task.dataset.classnames]
    text, warnings = zero_shot_features(backbone, prompts)
    model = VisualPrompt(
        Decoder(backbone.image_size[0], z_dim=encoder.dim),
        epsilon=config.p_eps,
        valid_range=Preprocess(backbone.preprocess).valid_range(),
        tower=image_tower(backbone, config.batch_size, limit),
        text=text,
        logit_scale=backbone.logit_scale,
        reference=reference,
        images_per_pass=config.batch_size,
        memory_limit=limit,
    )
    return model, warnings


class SavedPrompt(NamedTuple):
    """A saved decoder W (1, d) with its saved statistics, and the networks around it."""

    model: VisualPrompt
    encoder: Encoder
    W: Tensor
    statistics: Statistics


def read_prompt(config: Config, task: FewShotTask, tensors: Mapping[str, Tensor]) -> SavedPrompt:
    encoder = load_encoder(config.pt_backbone, task.backbone, config.seed)
    model, _ = visual_prompt(config, task, encoder, torch.empty(0, encoder.dim))
    W = tensors["w"][None].to(task.backbone.device, torch.float32)
    names = [f"blocks.{i}.norm" for i in range(len(model.decoder.blocks))]
    statistics = [(tensors[f"{name}.mean"][None].to(W), tensors[f"{name}.variance"][None].to(W)) for name in names]
    return SavedPrompt(model, encoder, W, statistics)


def restore(config: Config, task: FewShotTask, tensors: Mapping[str, Tensor]) -> Scorer:
    """The saved prompt on this dataset's class names and test images."""
    model, encoder, W, statistics = read_prompt(config, task, tensors)
    *_, test_images = image_sets(config, task)
    return Scorer(
        lambda images: model.score(W, images, statistics, torch.float32)[0],
        EncodedImages(test_images, encoder),
        model.images_per_pass(1),
        lambda inputs: Encoded(inputs.to(task.backbone.device), encoder(inputs)),
        model.text,
    )


def image_batches(config: Config, task: FewShotTask, images: ImageSet, encoder: Encoder) -> MiniBatches:
    """Mini-batches of `--train_batch` images; z is computed once per batch, for all points that are scored on it."""
    preprocess, open_image = images.preprocess, task.dataset.open_image

    def augmented(which: Tensor, number: int) -> Samples:
        view = RandomView(config.seed, number, task.backbone.image_size, CROP_SCALE)
        items = [task.train[position] for position in which.tolist()]
        pixels = torch.stack(list(parallel_map(lambda item: preprocess.pixels(view(open_image(item), item)), items, len(items))))
        return Samples(preprocess.normalize(pixels.to(images.device)), images.labels[which.to(images.device)])

    def load(which: Tensor, number: int) -> EncodedBatch:
        batch = augmented(which, number) if config.train_features == "fresh" else images[which]
        return EncodedBatch(Encoded(batch.inputs, encoder(batch.inputs), training=True), batch.labels)

    generator = torch_generator(config.seed, "mini-batches")
    batches = MiniBatches(len(images), size=config.train_batch, generator=generator, load=load, fresh=False)
    # images enter CLIP's image tower only with a prompt, and are counted there
    batches.encoded = 0
    return batches
