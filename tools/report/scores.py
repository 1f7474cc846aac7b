"""The test images under the tuned prompt and under the zero-shot template: confusion, change per class, and mistakes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.classes import cut_classes
from datasets.split import Item, load_dataset
from trainers.classifier import Classifier
from utils.errors import UserError
from utils.parallel import parallel_map

THUMBNAIL = 96


@dataclass(frozen=True)
class TestScores:
    """Probabilities (n, K) of the test `items` before and after tuning, and their labels (n,)."""

    classifier: Classifier
    items: Sequence[Item]
    labels: Tensor
    before: Tensor
    after: Tensor

    def confusion(self) -> Tensor:
        """Counts (K, K): rows are the true classes, columns the tuned prompt's."""
        K = len(self.classifier.classnames)
        return torch.bincount(self.labels * K + self.after.argmax(1), minlength=K * K).view(K, K)

    def per_class(self) -> list[tuple[str, int, float, float]]:
        """Name, images, and accuracy in percent before and after of each class."""
        rows = []
        for label, name in enumerate(self.classifier.classnames):
            of_class = self.labels == label
            n = int(of_class.sum())
            shares = [
                100 * float((p[of_class].argmax(1) == label).double().mean()) if n else 0.0 for p in (self.before, self.after)
            ]
            rows.append((name, n, shares[0], shares[1]))
        return rows

    def most_wrong(self, probabilities: Tensor, count: int = 12) -> list[int]:
        """Positions of the misclassified images whose true class has the least probability, worst first."""
        of_truth = probabilities.gather(1, self.labels[:, None])[:, 0]
        wrong = (probabilities.argmax(1) != self.labels).nonzero()[:, 0].tolist()
        return sorted(wrong, key=lambda position: float(of_truth[position]))[:count]


def score_test_images(classifier: Classifier, plain: Classifier, root_path: str | None) -> TestScores:
    """Scores the run's test images. Raises UserError if its dataset is not at hand."""
    config = classifier.config
    dataset = cut_classes(load_dataset(config.dataset, root_path, ("test",)), config.subsample_classes)
    if tuple(dataset.classnames) != classifier.classnames:
        raise UserError(f"{config.load_prompt}: was made for other classes than {config.dataset} has")
    shared = classifier.scorer.prepare == plain.scorer.prepare
    logits: tuple[list[Tensor], list[Tensor]] = ([], [])

    def batches() -> Iterator[Tensor]:
        decoded = parallel_map(
            lambda item: classifier.backbone.preprocess(dataset.open_image(item)), dataset.test, 2 * config.batch_size
        )
        for start in range(0, len(dataset.test), config.batch_size):
            yield torch.stack([next(decoded) for _ in dataset.test[start : start + config.batch_size]])

    with torch.inference_mode():
        for pictures in batches():
            inputs = classifier.scorer.prepare(pictures)
            logits[1].append(classifier.scorer.logits(inputs).cpu())
            logits[0].append(plain.scorer.logits(inputs if shared else plain.scorer.prepare(pictures)).cpu())
    before, after = (torch.cat(parts).softmax(1) for parts in logits)
    return TestScores(classifier, dataset.test, torch.tensor([item.label for item in dataset.test]), before, after)


def thumbnail(scores: TestScores, position: int, root_path: str | None) -> str:
    """The image as a data URI."""
    dataset = load_dataset(scores.classifier.config.dataset, root_path, ("test",))
    picture = dataset.open_image(scores.items[position])
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "PNG" if max(picture.size) <= 32 else "JPEG", quality=85)
    kind = "png" if max(picture.size) <= 32 else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
