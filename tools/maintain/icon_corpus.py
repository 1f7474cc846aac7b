"""The training data of the Icons towers: the pictures of the icon sets that are not held out, and captions for them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.maintain.icon_pictures import has_one_color, permitted_prefixes, read_pictures, read_rules

SOS, EOS = 49406, 49407
# tokens of a subject, manner, kind or category that a caption retains
PIECE = 8
# tokens of a caption, including [SOS] and [EOS]: enough to train the positions that a prompt with 16 context tokens uses
CAPTION = 28
# pictures of one subject in one manner that training uses per set, which may hold the same drawing in six sizes
ALIKE = 2
ATTRIBUTES = ("subject", "manner", "kind", "category")


def collect(package: Path, drawn: Path, output: Path) -> None:
    """Writes one file with all training pictures and their attributes for captions.

    A picture in one color is stored as its opacity. A picture that several sets contain under one subject is stored once.
    """
    rules = read_rules()
    left_out = {prefix for prefixes in rules["held_out"].values() for prefix in prefixes} | set(rules["names_only_brands"])
    collections = json.loads((package / "collections.json").read_text())
    pieces: dict[str, int] = {"": 0}
    seen: set[tuple[bytes, str]] = set()
    drawn_alike: Counter[tuple[str, str, str]] = Counter()
    one_color, colored = [], []
    for prefix in permitted_prefixes(package, rules["refused_licenses"]):
        if prefix in left_out:
            continue
        info = collections[prefix]
        kind = rules["kind_of"].get(prefix) or rules["kind_of_category"].get(info.get("category"), "icon")
        own_manner = rules["manner_of"].get(prefix) or ("color" if info.get("palette") else "")
        with np.load(drawn / f"{prefix}.npz") as file:
            pixels = file["x"]
        for picture in read_pictures(package, drawn, prefix):
            if (picture.hash, picture.subject) in seen:
                continue
            manner = " ".join(re.sub(r"\d+(px)?", "", f"{own_manner} {picture.manner}").split())
            drawn_alike[prefix, picture.subject, manner] += 1
            if drawn_alike[prefix, picture.subject, manner] > ALIKE:
                continue
            seen.add((picture.hash, picture.subject))
            category = re.sub(r"[^a-z]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", picture.category).lower()).strip()
            words = (picture.subject, manner, kind, category)
            row = [pieces.setdefault(text, len(pieces)) for text in words]
            drawing = pixels[picture.position]
            if has_one_color(drawing) and not info.get("palette"):
                one_color.append((drawing[..., 3], row))
            else:
                colored.append((drawing, row))
    tokenizer = SimpleTokenizer()
    tokens = np.zeros((len(pieces), PIECE), np.int32)
    for text, position in pieces.items():
        ids = tokenizer.encode(text)[:PIECE]
        tokens[position, : len(ids)] = ids
    tensors = {
        "one_color": torch.from_numpy(np.stack([drawing for drawing, _ in one_color])),
        "colored": torch.from_numpy(np.stack([drawing for drawing, _ in colored])),
        "attributes": torch.tensor([row for _, row in one_color + colored], dtype=torch.int32),
        "pieces": torch.from_numpy(tokens),
    }
    templates = [[weight, *template_pieces(text, tokenizer)] for weight, text in rules["templates"]]
    save_file(tensors, output, metadata={"templates": json.dumps(templates)})
    print(f"{output}: {len(one_color)} pictures in one color, {len(colored)} in several, {len(pieces)} pieces of captions")


def template_pieces(text: str, tokenizer: SimpleTokenizer) -> list[str | list[int]]:
    """A template as a list of token ids and names of attributes, in order."""
    parts = re.split(r"\{(\w+)\}", text)
    return [part if i % 2 else tokenizer.encode(part) for i, part in enumerate(parts) if part]


class Corpus:
    """The training pictures and captions on a device, and batches of them, each determined by a seed."""

    def __init__(self, path: Path, device: torch.device, plain: float = 0.0):
        """`plain`: the share of captions that say "a photo of a SUBJECT." regardless of the templates' weights."""
        data = load_file(path)
        with safe_open(path, "pt") as file:
            templates = json.loads(file.metadata()["templates"])
        self.device = device
        self.one_color, self.colored = data["one_color"].to(device), data["colored"].to(device)
        self.attributes = data["attributes"].long().to(device)
        pieces = data["pieces"].long()
        literal = [ids for _, *parts in templates for part in parts if isinstance(part, list) for ids in part]
        # in a sorted vocabulary [EOS] keeps the largest id, by which CLIP finds it; token 0 only pads
        self.ids = torch.unique(torch.cat([torch.tensor([0, SOS, EOS, *literal]), pieces.flatten()]))
        self.pieces = torch.searchsorted(self.ids, pieces).to(device)
        weights = torch.tensor([float(weight) for weight, *_ in templates])
        weights = weights / weights.sum() * (1 - plain)
        weights[0] += plain
        self.template_chance = weights.cumsum(0).to(device)
        self.templates = [self._fill(parts) for _, *parts in templates]
        named = [[attribute in parts for attribute in ATTRIBUTES] for _, *parts in templates]
        self.named = torch.tensor(named, device=device)

    def __len__(self) -> int:
        return len(self.attributes)

    def _fill(self, parts: list[str | list[int]]) -> list[int | Tensor]:
        return [
            ATTRIBUTES.index(part) if isinstance(part, str) else torch.searchsorted(self.ids, torch.tensor(part)).to(self.device)
            for part in parts
        ]

    def batch(self, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, S, S), captions (B, CAPTION) in the corpus' own token ids, and which pairs match, (B, B) bool."""
        draw = torch.Generator(self.device).manual_seed(seed)
        chosen = torch.randint(len(self), (size,), generator=draw, device=self.device)
        attributes = self.attributes[chosen]
        rolls = torch.rand(size, generator=draw, device=self.device)
        template = torch.searchsorted(self.template_chance, rolls).clamp_max(len(self.templates) - 1)
        tokens = self._captions(attributes, template)
        named = self.named[template] & (attributes > 0)
        # a caption whose attributes are all empty matches only its own picture
        named[:, 0] |= ~named.any(1)
        same = attributes[:, None, :] == attributes[None, :, :]
        return self._images(chosen, draw), tokens, (same | ~named[None]).all(-1)

    def _captions(self, attributes: Tensor, template: Tensor) -> Tensor:
        rows = torch.zeros(len(attributes), CAPTION, dtype=torch.long, device=self.device)
        sos, eos = torch.searchsorted(self.ids, torch.tensor([SOS, EOS])).tolist()
        longest = max(sum(PIECE if isinstance(p, int) else len(p) for p in parts) for parts in self.templates) + 2
        long_rows = torch.zeros(len(attributes), longest, dtype=torch.long, device=self.device)
        # each template writes its own rows through a mask, so that no size depends on the draw
        for number, parts in enumerate(self.templates):
            mine = (template == number)[:, None]
            columns = [torch.full((len(attributes), 1), sos, device=self.device)]
            for part in parts:
                if isinstance(part, int):
                    columns.append(self.pieces[attributes[:, part]])
                else:
                    columns.append(part.expand(len(attributes), -1))
            text = torch.cat(columns, 1)
            long_rows[:, : text.shape[1]] = torch.where(mine, text, long_rows[:, : text.shape[1]])
        # move padding from the middle to the end
        order = (long_rows == 0).to(torch.int8).argsort(dim=1, stable=True)
        packed = long_rows.gather(1, order)[:, : CAPTION - 1]
        lengths = (packed > 0).sum(1)
        rows[:, : CAPTION - 1] = packed
        return rows.scatter(1, lengths[:, None], eos)

    def _images(self, chosen: Tensor, draw: torch.Generator) -> Tensor:
        """Normalized images (B, 3, S, S) with random backgrounds and inks, shifted, rotated and scaled a little."""
        n = len(chosen)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(n, *shape, generator=draw, device=self.device)

        tintable = chosen < len(self.one_color)
        opacity = self.one_color[chosen.clamp_max(len(self.one_color) - 1)]
        colors = self.colored[(chosen - len(self.one_color)).clamp_min(0)]
        is_tintable = tintable[:, None, None]
        alpha = torch.where(is_tintable, opacity, colors[..., 3]).float()[:, None] / 255
        rgb = torch.where(is_tintable[..., None], 0, colors[..., :3]).permute(0, 3, 1, 2).float() / 255
        flag = tintable[:, None, None, None]
        # half of the backgrounds are white, a third have a random color, and the rest are dark, under light ink
        roll = uniform(1, 1, 1)
        background = torch.where(roll < 0.5, torch.ones_like(roll), uniform(3, 1, 1))
        night = (roll > 0.85) & flag
        background = torch.where(night, 0.3 * uniform(3, 1, 1), background)
        dark_behind = background.mean(1, keepdim=True) < 0.45
        ink = torch.where(night | dark_behind, 0.75 + 0.25 * uniform(3, 1, 1), 0.6 * uniform(3, 1, 1))
        inked = (uniform(1, 1, 1) < 0.5) | night | dark_behind
        rgb = torch.where(flag & inked, ink, rgb)
        image = alpha * (rgb - background)
        angle = (uniform() - 0.5) * 0.35
        scale = 0.9 + 0.35 * uniform()
        shift = (uniform(2) - 0.5) * 0.2
        cos, sin = scale * angle.cos(), scale * angle.sin()
        matrix = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
        grid = F.affine_grid(matrix, [n, 3, image.shape[-1], image.shape[-1]], align_corners=False)
        image = F.grid_sample(image, grid, align_corners=False) + background
        noise = torch.randn(image.shape, generator=draw, device=self.device)
        return normalize(image + 0.03 * uniform(1, 1, 1) * noise)


def normalize(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1], normalized for CLIP."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (images - mean) / std
