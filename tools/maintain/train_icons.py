"""Trains the bundled Icons towers on the icon sets that are not held out, and writes their weights in clip/icons/.

    python -m tools.maintain.train_icons collect package drawn pictures.safetensors     # from tools/maintain/build_icons.py
    python -m tools.maintain.train_icons train pictures.safetensors --config clip/icons/icons.json --output icons.safetensors
    python -m tools.maintain.train_icons score icons.safetensors --config clip/icons/icons.json

Ordinary contrastive training with backpropagation: this makes the frozen backbone that prompts are tuned for, and is no part of any
method. A caption fits every picture of the batch that has all it names (subject, manner, kind, category), so the target of the
softmax is spread over those. `train` runs on a CPU or a GPU, keeps its state beside the output and goes on from it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

TOKEN_STD = 0.02
SOS, EOS = 49406, 49407
# tokens of a subject, manner, kind or category that a caption keeps
PIECE = 8
# tokens of a caption, [SOS] and [EOS] included: every position that a prompt of 16 context tokens uses is trained
CAPTION = 28
ATTRIBUTES = ("subject", "manner", "kind", "category")


# ------ what is trained on


def collect(package: Path, drawn: Path, output: Path) -> None:
    """One file of all training pictures and what captions may say of them.

    Pictures of one color are kept as their opacity. A picture that several sets hold under one subject is kept once.
    """
    import numpy as np

    from tools.maintain.build_icons import has_one_color, permitted_prefixes, read_pictures, read_rules

    rules = read_rules()
    held_out = {prefix for prefixes in rules["held_out"].values() for prefix in prefixes}
    collections = json.loads((package / "collections.json").read_text())
    pieces: dict[str, int] = {"": 0}
    seen: set[tuple[bytes, str]] = set()
    one_color, colored = [], []
    for prefix in permitted_prefixes(package, rules["refused_licenses"]):
        if prefix in held_out:
            continue
        info = collections[prefix]
        kind = rules["kind_of"].get(prefix) or rules["kind_of_category"].get(info.get("category"), "icon")
        own_manner = rules["manner_of"].get(prefix) or ("color" if info.get("palette") else "")
        with np.load(drawn / f"{prefix}.npz") as file:
            pixels = file["x"]
        for picture in read_pictures(package, drawn, prefix):
            if (picture.hash, picture.subject) in seen:
                continue
            seen.add((picture.hash, picture.subject))
            category = re.sub(r"[^a-z]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", picture.category).lower()).strip()
            manner = re.sub(r"\d+(px)?", "", f"{own_manner} {picture.manner}")
            words = (picture.subject, " ".join(manner.split()), kind, category)
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
    print(f"{output}: {len(one_color)} pictures of one color, {len(colored)} in colors, {len(pieces)} pieces of captions")


def template_pieces(text: str, tokenizer: SimpleTokenizer) -> list:
    """A template as a list of token ids and names of attributes, in order."""
    parts = re.split(r"\{(\w+)\}", text)
    return [part if i % 2 else tokenizer.encode(part) for i, part in enumerate(parts) if part]


class Corpus:
    """The training pictures and captions on a device, and batches of them that a seed decides."""

    def __init__(self, path: Path, device: torch.device, plain: float = 0.0):
        """`plain`: the share of captions that say "a photo of a SUBJECT." whatever the weights of the templates."""
        data = load_file(path)
        with safe_open(path, "pt") as file:
            templates = json.loads(file.metadata()["templates"])
        self.device = device
        self.one_color, self.colored = data["one_color"].to(device), data["colored"].to(device)
        self.attributes = data["attributes"].long().to(device)
        pieces = data["pieces"].long()
        literal = [ids for _, *parts in templates for part in parts if isinstance(part, list) for ids in part]
        # a sorted vocabulary keeps [EOS] the largest id, which is how CLIP finds it; token 0 only pads
        self.ids = torch.unique(torch.cat([torch.tensor([0, SOS, EOS, *literal]), pieces.flatten()]))
        self.pieces = torch.searchsorted(self.ids, pieces).to(device)
        weights = torch.tensor([float(weight) for weight, *_ in templates])
        weights = weights / weights.sum() * (1 - plain)
        weights[0] += plain
        self.template_chance = weights.cumsum(0).to(device)
        self.templates = [self._fill(parts) for _, *parts in templates]
        told = [[attribute in parts for attribute in ATTRIBUTES] for _, *parts in templates]
        self.told = torch.tensor(told, device=device)
        # a subject that many sets draw is shown less than in proportion, so that rare ones are seen
        counts = torch.bincount(self.attributes[:, 0])
        self.picture_chance = counts[self.attributes[:, 0]].double().rsqrt().cumsum(0)

    def __len__(self) -> int:
        return len(self.attributes)

    def _fill(self, parts: list) -> list:
        return [
            ATTRIBUTES.index(part)
            if isinstance(part, str)
            else torch.searchsorted(self.ids, torch.tensor(part)).to(self.device)
            for part in parts
        ]

    def batch(self, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, S, S), captions (B, CAPTION) in the corpus' own token ids, and which fit, (B, B) bool."""
        draw = torch.Generator(self.device).manual_seed(seed)
        places = torch.rand(size, generator=draw, device=self.device, dtype=torch.float64) * self.picture_chance[-1]
        chosen = torch.searchsorted(self.picture_chance, places).clamp_max(len(self) - 1)
        attributes = self.attributes[chosen]
        rolls = torch.rand(size, generator=draw, device=self.device)
        template = torch.searchsorted(self.template_chance, rolls).clamp_max(len(self.templates) - 1)
        tokens = self._captions(attributes, template)
        told = self.told[template] & (attributes > 0)
        # a caption whose attributes are all empty says nothing: it fits its own picture only
        told[:, 0] |= ~told.any(1)
        same = attributes[:, None, :] == attributes[None, :, :]
        return self._images(chosen, draw), tokens, (same | ~told[None]).all(-1)

    def _captions(self, attributes: Tensor, template: Tensor) -> Tensor:
        rows = torch.zeros(len(attributes), CAPTION, dtype=torch.long, device=self.device)
        sos, eos = torch.searchsorted(self.ids, torch.tensor([SOS, EOS])).tolist()
        longest = max(sum(PIECE if isinstance(p, int) else len(p) for p in parts) for parts in self.templates) + 2
        long_rows = torch.zeros(len(attributes), longest, dtype=torch.long, device=self.device)
        # every template writes its own rows; which those are is a mask, so that no size depends on the draw
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
        # padding inside moves to the end
        order = (long_rows == 0).to(torch.int8).argsort(dim=1, stable=True)
        packed = long_rows.gather(1, order)[:, : CAPTION - 1]
        lengths = (packed > 0).sum(1)
        rows[:, : CAPTION - 1] = packed
        return rows.scatter(1, lengths[:, None], eos)

    def _images(self, chosen: Tensor, draw: torch.Generator) -> Tensor:
        """Normalized images (B, 3, S, S) on backgrounds and in inks of many colors, moved, turned and scaled a little."""
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
        # half of the backgrounds are white; a third of any color; the rest dark, under light ink
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
    """Images (B, 3, H, W) in [0, 1] as CLIP takes them."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (images - mean) / std


# ------ training


def text_features(model: CLIP, tokens: Tensor) -> Tensor:
    """Features (B, D) of `tokens` (B, L) for any L up to the context length: what follows [EOS] cannot be seen."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    ends = tokens.argmax(-1)[:, None, None].expand(-1, 1, x.shape[-1])
    return F.normalize((x.gather(1, ends)[:, 0] @ model.text_projection).float(), dim=-1)


def contrastive_loss(logits: Tensor, fits: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy of logits (pictures, captions), each row's target spread evenly over what fits."""
    fits = fits.float()
    pictures = -(fits / fits.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    captions = -(fits / fits.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (pictures + captions) / 2


class Training:
    """A model, its optimizer and one step of both, which a GPU replays as a CUDA graph."""

    def __init__(self, config: dict, corpus: Corpus, batch: int, lr: float, seed: int, use_graph: bool = True):
        self.use_graph = use_graph and corpus.device.type == "cuda"
        self.device, self.corpus, self.batch, self.seed = corpus.device, corpus, batch, seed
        torch.manual_seed(seed)
        sizes = {**config, "text_cfg": {**config["text_cfg"], "vocab_size": len(corpus.ids)}}
        self.model = CLIP(**sizes)
        self.model.token_embedding.weight.data.copy_(initial_token_table(config)[corpus.ids])
        self.model.to(self.device).train()
        cuda = self.device.type == "cuda"
        matrices = [p for n, p in self.model.named_parameters() if p.ndim >= 2 and "embedding" not in n]
        others = [p for n, p in self.model.named_parameters() if p.ndim < 2 or "embedding" in n]
        self.peak = lr
        rate = torch.tensor(lr, device=self.device) if cuda else lr
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True, capturable=cuda)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.loss = torch.zeros(())

    def set_rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.peak * factor)
            else:
                group["lr"] = self.peak * factor

    def step(self, number: int, factor: float) -> Tensor:
        """Trains on batch `number` at `factor` times the peak rate; the loss stays on the device."""
        self.set_rate(factor)
        batch = self.corpus.batch(self.batch, self.seed * 1_000_003 + number)
        if not self.use_graph:
            return self._update(*batch)
        if self.graph is None:
            self._capture(batch)
        for buffer, value in zip(self.inputs, batch, strict=True):
            buffer.copy_(value)
        self.graph.replay()
        return self.loss

    def _capture(self, batch: tuple[Tensor, ...]) -> None:
        """Records one step. The weights and the optimizer are put back to where they were before the trial steps."""
        self.inputs = tuple(value.clone() for value in batch)
        saved = {name: value.clone() for name, value in self.model.state_dict().items()}
        had_state = bool(self.optimizer.state)
        moments = [{k: v.clone() for k, v in self.optimizer.state[p].items()} for p in self._parameters()] if had_state else None
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._update(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self.loss = self._update(*self.inputs)
        self.model.load_state_dict(saved)
        for i, p in enumerate(self._parameters()):
            for key, value in self.optimizer.state[p].items():
                value.copy_(moments[i][key]) if moments else value.zero_()

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _update(self, images: Tensor, tokens: Tensor, fits: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False):
            pictures = F.normalize(self.model.encode_image(images).float(), dim=-1)
            captions = text_features(self.model, tokens)
        loss = contrastive_loss(self.model.logit_scale.exp() * pictures.float() @ captions.float().T, fits)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            # CLIP clips its temperature at 100 as well
            self.model.logit_scale.clamp_(0, math.log(100))
        return loss.detach()

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def initial_token_table(config: dict) -> Tensor:
    """The (49408, width) float32 token embedding before training; untouched tokens keep their row of it."""
    text = config["text_cfg"]
    return TOKEN_STD * torch.randn(text["vocab_size"], text["width"], generator=torch.Generator().manual_seed(0))


def rate_factor(done: float) -> float:
    """The learning rate over its peak when a share `done` of the steps is behind: a short climb, then half a cosine."""
    return min(1.0, (done + 1e-3) / 0.03) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def train(args: argparse.Namespace) -> None:
    """Trains `args.steps` steps, or as many as `args.seconds` hold at the speed that the first ones show."""
    device = torch.device(args.device)
    config = json.loads(args.config.read_text())
    corpus = Corpus(args.pictures, device, args.plain)
    training = Training(config, corpus, args.batch, args.lr, args.seed, args.graph)
    state_file = args.output.with_suffix(".state.pt")
    step, steps, spent = 0, args.steps, 0.0
    curve: list[list[float]] = []
    if state_file.exists():
        saved = torch.load(state_file, map_location=device, weights_only=True)
        training.load_state(saved)
        step, steps, spent, curve = saved["step"], saved["steps"], saved["spent"], saved["curve"]
    print(f"{args.output.stem}: {len(corpus)} pictures, {len(corpus.ids)} tokens, {parameters(training.model)} parameters", flush=True)
    started = time.perf_counter() - spent
    total, summed, last_saved, trial = torch.zeros((), device=device), 0, time.perf_counter(), None
    while not steps or step < steps:
        total += training.step(step, rate_factor(step / steps if steps else 0.0))
        summed += 1
        step += 1
        if not steps and step % 10 == 0:
            float(total)
            now = time.perf_counter()
            if trial is None and now - started > args.trial_seconds:
                trial = step, now
            elif trial is not None and now - trial[1] > args.trial_seconds:
                speed = (step - trial[0]) / (now - trial[1])
                steps = step + int(speed * (args.seconds - (now - started)))
                print(f"{args.output.stem}: {speed:.1f} steps a second, {steps} steps", flush=True)
        if step % args.report == 0 or step == steps:
            seconds = time.perf_counter() - started
            curve.append([step, round(float(total) / summed, 4), round(seconds, 1)])
            total.zero_()
            summed = 0
            scale = float(training.model.logit_scale.detach().exp())
            print(f"{args.output.stem}: step {step} of {steps}  loss {curve[-1][1]:.3f}  scale {scale:.1f}  {seconds:.0f} s", flush=True)
            if steps and time.perf_counter() - last_saved > args.save_seconds:
                last_saved = time.perf_counter()
                save_weights(training.model, corpus.ids, args.output, {})
                torch.save({**training.state(), "step": step, "steps": steps, "spent": seconds, "curve": curve}, state_file)
            if args.limit_seconds and seconds > args.limit_seconds:
                break
    about = {"steps": step, "planned_steps": steps, "batch": args.batch, "lr": args.lr, "seed": args.seed, "plain": args.plain, "curve": curve}
    save_weights(training.model, corpus.ids, args.output, about)
    state_file.unlink(missing_ok=True)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def save_weights(model: CLIP, ids: Tensor, path: Path, about: dict) -> None:
    """Writes the half-precision weights with only the touched rows of the token table; `about` as JSON in the metadata."""
    state = {name: tensor.detach().half().cpu().contiguous() for name, tensor in model.state_dict().items()}
    rows = state.pop("token_embedding.weight")
    part = path.with_suffix(".part")
    save_file({**state, "token_ids": ids.int().cpu(), "token_rows": rows}, part, metadata={"training": json.dumps(about)})
    part.rename(path)


# ------ what it can do


def load_weights(path: Path, config: dict) -> CLIP:
    """The model in float32 and evaluation mode."""
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    ids, rows = state.pop("token_ids").long(), state.pop("token_rows")
    table = initial_token_table(config)
    table[ids] = rows
    model = CLIP(**config)
    model.load_state_dict({**state, "token_embedding.weight": table})
    return model.eval()


def score(args: argparse.Namespace) -> None:
    """Prints zero-shot accuracy on every bundled icon set, and that of a ridge classifier on `shots` features a class."""
    device = torch.device(args.device)
    config = json.loads(args.config.read_text())
    model = load_weights(args.weights, config).to(device)
    tokenizer = SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    rows = {}
    for path in sorted(args.sets.glob("icons_*.safetensors")):
        rows[path.stem] = score_set(path, model, tokenizer, args.template, device)
        cells = "  ".join(f"{key} {value:.1f}" for key, value in rows[path.stem].items())
        print(f"{args.weights.stem}  {path.stem}: {cells}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows))


@torch.inference_mode()
def score_set(path: Path, model: CLIP, tokenizer: Callable[[Sequence[str]], Tensor], template: str, device: torch.device) -> dict:
    """Percent correct on the test part: zero-shot, and by ridge regression on up to 16 training pictures a class."""
    import io

    import numpy as np
    from PIL import Image

    from datasets.icons import read_icon_file

    file = read_icon_file(path)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in file.pictures])
    images = normalize(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255)
    features = torch.cat([model.encode_image(chunk, normalize=True) for chunk in images.split(512)])
    labels, parts = torch.tensor(file.labels, device=device), torch.tensor(file.parts, device=device)
    prompts = tokenizer([template.replace("{}", name) for name in file.classes]).to(device)
    classes = model.encode_text(prompts, normalize=True)
    test = parts == 2
    logits = features[test] @ classes.T
    cross_entropy = F.cross_entropy(model.logit_scale.exp() * logits, labels[test])
    result = {
        "zero-shot": 100 * float((logits.argmax(1) == labels[test]).float().mean()),
        "cross-entropy": float(cross_entropy),
    }
    shots = [torch.nonzero((parts == 0) & (labels == label))[:16, 0] for label in range(len(file.classes))]
    chosen = torch.cat(shots)
    if len(chosen):
        x, y = features[chosen], F.one_hot(labels[chosen], len(file.classes)).float()
        solved = torch.linalg.solve(x.T @ x + 0.3 * torch.eye(x.shape[1], device=device), x.T @ (y - y.mean(0)))
        result["ridge"] = 100 * float(((features[test] @ solved).argmax(1) == labels[test]).float().mean())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    gather = jobs.add_parser("collect", help="write the file of training pictures")
    for name in ("package", "drawn", "output"):
        gather.add_argument(name, type=Path)
    teach = jobs.add_parser("train", help="train a pair of towers")
    teach.add_argument("pictures", type=Path)
    teach.add_argument("--config", type=Path, required=True, help="open_clip's description of the towers, as JSON")
    teach.add_argument("--output", type=Path, required=True)
    teach.add_argument("--steps", type=int, default=0, help="0: as many as --seconds hold")
    teach.add_argument("--seconds", type=float, default=3600.0)
    teach.add_argument("--batch", type=int, default=1024)
    teach.add_argument("--lr", type=float, default=1.5e-3)
    teach.add_argument("--plain", type=float, default=0.0, help='share of captions that only say "a photo of a SUBJECT."')
    teach.add_argument("--graph", action=argparse.BooleanOptionalAction, default=True, help="replay a CUDA graph of the step")
    teach.add_argument("--seed", type=int, default=0)
    teach.add_argument("--report", type=int, default=100, help="steps between lines of the log")
    teach.add_argument("--trial-seconds", type=float, default=10.0, help="speed is measured from here on, for as long again")
    teach.add_argument("--limit-seconds", type=float, default=0.0, help="stop here wherever the schedule is; 0: never")
    teach.add_argument("--save-seconds", type=float, default=120.0)
    test = jobs.add_parser("score", help="zero-shot accuracy on the bundled sets")
    test.add_argument("weights", type=Path)
    test.add_argument("--config", type=Path, required=True)
    test.add_argument("--sets", type=Path, default=Path(__file__).resolve().parents[2] / "datasets" / "icons")
    test.add_argument("--template", default="a photo of a {}.")
    test.add_argument("--json", type=Path)
    for command in (teach, test):
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        command.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(getattr(args, "threads", 1))
    if args.job == "collect":
        collect(args.package, args.drawn, args.output)
    elif args.job == "train":
        train(args)
    else:
        score(args)


if __name__ == "__main__":
    main()
