"""Answers what the learned context tokens mean: their nearest words, how far each moved, and what each is worth.

    python -m tools.interpret outputs/digits/sharpzo/Mini/16shots/seed1

For each token: the nearest words with their distances, beside the distance of random vectors of the same length; how far it moved
from its start; and the accuracy on the test images with that token put back to its start. At the end, how similar the class
features are before and after, and a verdict: whether the words mean anything.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from clip.prompt import context_embeddings, text_tower
from datasets.classes import cut_classes
from datasets.features import FeatureReader
from datasets.split import load_dataset
from tools.common.cli import command, make_parser, user_path
from tools.common.runs import root_of_run
from trainers.blackbox.samples import Samples, top1
from trainers.classifier import Classifier, unfilled_task
from trainers.saved import restore
from utils.errors import UserError

RANDOM_VECTORS = 200
NEAREST = 3
# a word stands for a token only if it is clearly nearer than words are to random vectors
NEARER = 0.8


@dataclass(frozen=True)
class Token:
    """A learned token: its nearest words with distances, and how far it moved; random vectors' distance to their nearest word."""

    words: list[tuple[str, float]]
    moved: float
    random: float

    @property
    def means_something(self) -> bool:
        return self.words[0][1] < NEARER * self.random


def vocabulary(classifier: Classifier) -> tuple[list[int], Tensor]:
    """Ids of the tokens with a trained embedding, and their embeddings (V, width) float64."""
    table = text_tower(classifier.backbone).token_embedding.weight.detach().double().cpu()
    known = classifier.backbone.known_tokens
    ids = sorted(known) if known is not None else list(range(len(table)))
    # the last two are CLIP's start and end marks, which are not words
    ids = [number for number in ids if number < len(table) - 2]
    return ids, table[ids]


def learned(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """The context (n_ctx, width) float64 after and before tuning. Raises UserError for a prompt without one context of words."""
    context = classifier.tensors.get("context")
    if context is None or context.squeeze(0).ndim != 2:
        raise UserError(f"{classifier.config.load_prompt}: holds no single context of text tokens to read as words")
    context = context.squeeze(0).double()
    start = classifier.tensors.get("p0")
    if start is None and classifier.config.ctx_init:
        start = context_embeddings(classifier.backbone, classifier.config.ctx_init)
    return context, start.double() if start is not None else torch.zeros_like(context)


def read_tokens(context: Tensor, start: Tensor, ids: list[int], table: Tensor, decode: object) -> list[Token]:
    """The nearest words (Euclidean distance) of each row of `context`, beside those of random vectors of the row's length."""
    generator = torch.Generator().manual_seed(0)
    tokens = []
    for row, first in zip(context, start, strict=True):
        distances, nearest = torch.cdist(row[None], table)[0].topk(NEAREST, largest=False)
        noise = torch.randn(RANDOM_VECTORS, len(row), generator=generator, dtype=torch.float64)
        noise = row.norm() * noise / noise.norm(dim=1, keepdim=True)
        words = [decode([ids[k]]).strip() for k in nearest.tolist()]  # type: ignore[operator]
        random = float(torch.cdist(noise, table).min(1).values.mean())
        tokens.append(Token(list(zip(words, distances.tolist(), strict=True)), float((row - first).norm()), random))
    return tokens


def accuracies(classifier: Classifier, start: Tensor, root_path: str | None) -> list[float]:
    """Test accuracy in percent of the prompt, then with each token put back to its start."""
    config = classifier.config
    dataset = cut_classes(load_dataset(config.dataset, root_path, ("test",)), config.subsample_classes)
    samples = Samples(*FeatureReader(dataset, classifier.backbone, config.batch_size)(dataset.test, "test images"))
    context, task = classifier.tensors["context"], unfilled_task(classifier.backbone, classifier.classnames)
    found = []
    for position in range(-1, len(start)):
        changed = context.clone().view(len(start), -1)
        if position >= 0:
            changed[position] = start[position].to(changed)
        scorer = restore(config, task, classifier.tensors | {"context": changed.view_as(context)}, classifier.about)
        with torch.inference_mode():
            found.append(100 * top1(scorer.logits, samples, scorer.images_per_pass))
    return found


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.interpret", __doc__)
    parser.add_argument("prompt", type=user_path, help="run folder or prompt.safetensors of a trainer that tunes the text prompt")
    parser.add_argument("--root_path", help="where the dataset is; default: where the run found it")
    arguments = parser.parse_args(argv)
    classifier = Classifier.load(arguments.prompt, "cpu")
    trainer = classifier.about["prompt_trainer"]
    if trainer in ("blackvip", "bpt-vlm"):
        raise UserError(f"{arguments.prompt}: {trainer} prompts the image too, so its text tokens alone do not say what it does")
    tuned = classifier.scorer.text
    if tuned is None:
        raise UserError(f"{arguments.prompt}: {trainer} tunes no prompt, so there are no tokens to interpret")
    context, start = learned(classifier)
    ids, table = vocabulary(classifier)
    tokens = read_tokens(context, start, ids, table, classifier.backbone.tokenizer.decode)  # type: ignore[attr-defined]
    whole, *put_back = accuracies(classifier, start, root_of_run(arguments.prompt, arguments.root_path))
    print(f"test accuracy {whole:.2f}%")
    print(f"{'token':5}  {'moved':>7}  {'put back':>8}  {'random':>7}  nearest words (distance)")
    for number, (token, share) in enumerate(zip(tokens, put_back, strict=True), start=1):
        words = ", ".join(f"{word!r} ({distance:.2f})" for word, distance in token.words)
        print(f"{number:5}  {token.moved:7.2f}  {share:7.2f}%  {token.random:7.2f}  {words}")
    plain = Classifier.load(arguments.prompt, backbone=classifier.backbone, zero_shot=True).scorer.text
    assert plain is not None
    similar = (tuned * plain).sum(1)
    print(f"cosine of class features with zero-shot's: mean {float(similar.mean()):.3f}, least {float(similar.min()):.3f}")
    real = sum(token.means_something for token in tokens)
    if real:
        print(f"{real} of {len(tokens)} tokens lie clearly nearer to a word than random vectors do")
    else:
        print("the words mean nothing: no token lies clearly nearer to a word than random vectors of its length do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
