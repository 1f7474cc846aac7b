"""Trains the bundled Icons towers on the icon sets that are not held out, and writes their weights in clip/icons/.

    python -m tools.maintain.train_icons collect package drawn pictures.safetensors     # from tools/maintain/build_icons.py
    python -m tools.maintain.train_icons train pictures.safetensors --config clip/icons/icons.json --output icons.safetensors
    python -m tools.maintain.train_icons score icons.safetensors --config clip/icons/icons.json

This is ordinary contrastive training with backpropagation: it produces the frozen backbone that prompts are tuned for, and is
not part of any method. A caption matches every picture in the batch that has all the attributes it names (subject, manner, kind,
category), so the softmax target is spread over those pictures. `train` runs on a CPU or a GPU and resumes from the checkpoint
next to the output.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor

from clip.bundled import initial_token_table
from tools.common.cli import user_path
from tools.maintain.icon_corpus import Corpus, collect
from tools.maintain.score_icons import score


def text_features(model: CLIP, tokens: Tensor) -> Tensor:
    """Features (B, D) of `tokens` (B, L) for any L up to the context length, since tokens after [EOS] have no influence."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    ends = tokens.argmax(-1)[:, None, None].expand(-1, 1, x.shape[-1])
    return F.normalize((x.gather(1, ends)[:, 0] @ model.text_projection).float(), dim=-1)


def contrastive_loss(logits: Tensor, fits: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy of logits (pictures, captions), each row's target spread evenly over its matches."""
    fits = fits.float()
    pictures = -(fits / fits.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    captions = -(fits / fits.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (pictures + captions) / 2


class Training:
    """A model, its optimizer and one step of both, which a GPU replays as a CUDA graph."""

    def __init__(self, config: dict[str, Any], corpus: Corpus, batch: int, lr: float, seed: int, use_graph: bool = True):
        self.use_graph = use_graph and corpus.device.type == "cuda"
        self.device, self.corpus, self.batch, self.seed = corpus.device, corpus, batch, seed
        torch.manual_seed(seed)
        self.config = config
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
        graph = self.graph or self._capture(batch)
        for buffer, value in zip(self.inputs, batch, strict=True):
            buffer.copy_(value)
        graph.replay()
        return self.loss

    def _capture(self, batch: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        """Records one step, then restores the weights and the optimizer's state from before the trial steps."""
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
        return self.graph

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

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_weights(self, path: Path) -> None:
        """Loads the weights in `path`; a token that they lack keeps its initial row."""
        weights = {name: value.float() for name, value in load_file(path).items()}
        rows = initial_token_table(self.config)
        rows[weights.pop("token_ids").long()] = weights.pop("token_rows")
        self.model.load_state_dict({**weights, "token_embedding.weight": rows[self.corpus.ids]})

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def rate_factor(done: float) -> float:
    """The learning rate relative to its peak after a share `done` of the steps: a short warm-up times half a cosine."""
    return min(1.0, (done + 1e-3) / 0.03) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def train(args: argparse.Namespace) -> None:
    """Trains for `args.steps` steps, or for as many as fit in `args.seconds` at the speed of the first steps."""
    device = torch.device(args.device)
    config = json.loads(args.config.read_text())
    corpus = Corpus(args.pictures, device, args.plain)
    training = Training(config, corpus, args.batch, args.lr, args.seed, args.graph)
    if args.start:
        training.load_weights(args.start)
    state_file = args.output.with_suffix(".state.pt")
    step, steps, spent = 0, args.steps, 0.0
    curve: list[list[float]] = []
    if state_file.exists():
        saved = torch.load(state_file, map_location=device, weights_only=True)
        training.load_state(saved)
        step, steps, spent, curve = saved["step"], saved["steps"], saved["spent"], saved["curve"]
    print(
        f"{args.output.stem}: {len(corpus)} pictures, {len(corpus.ids)} tokens, {parameters(training.model)} parameters",
        flush=True,
    )
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
                print(f"{args.output.stem}: {speed:.1f} steps per second, {steps} steps", flush=True)
        if step % args.report == 0 or step == steps:
            seconds = time.perf_counter() - started
            curve.append([step, round(float(total) / summed, 4), round(seconds, 1)])
            total.zero_()
            summed = 0
            scale = float(training.model.logit_scale.detach().exp())
            print(
                f"{args.output.stem}: step {step} of {steps}  loss {curve[-1][1]:.3f}  scale {scale:.1f}  {seconds:.0f} s",
                flush=True,
            )
            if steps and time.perf_counter() - last_saved > args.save_seconds:
                last_saved = time.perf_counter()
                save_weights(training.model, corpus.ids, args.output, {})
                torch.save({**training.state(), "step": step, "steps": steps, "spent": seconds, "curve": curve}, state_file)
            if args.limit_seconds and seconds > args.limit_seconds:
                break
    about = {key: getattr(args, key) for key in ("batch", "lr", "seed", "plain")}
    save_weights(training.model, corpus.ids, args.output, {"steps": step, "planned_steps": steps} | about | {"curve": curve})
    state_file.unlink(missing_ok=True)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def save_weights(model: CLIP, ids: Tensor, path: Path, about: dict[str, Any]) -> None:
    """Writes the weights in half precision with only the trained rows of the token table; `about` as JSON in the metadata."""
    state = {name: tensor.detach().half().cpu().contiguous() for name, tensor in model.state_dict().items()}
    rows = state.pop("token_embedding.weight")
    part = path.with_suffix(".part")
    save_file({**state, "token_ids": ids.int().cpu(), "token_rows": rows}, part, metadata={"training": json.dumps(about)})
    part.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    gather = jobs.add_parser("collect", help="write the file of training pictures")
    for name in ("package", "drawn", "output"):
        gather.add_argument(name, type=user_path)
    teach = jobs.add_parser("train", help="train a pair of towers")
    teach.add_argument("pictures", type=user_path)
    teach.add_argument("--config", type=user_path, required=True, help="open_clip's description of the towers, as JSON")
    teach.add_argument("--output", type=user_path, required=True)
    teach.add_argument("--start", type=user_path, help="begin with the weights in this file")
    teach.add_argument("--steps", type=int, default=0, help="0: as many as fit in --seconds")
    teach.add_argument("--seconds", type=float, default=3600.0)
    teach.add_argument("--batch", type=int, default=1024)
    teach.add_argument("--lr", type=float, default=1.5e-3)
    teach.add_argument("--plain", type=float, default=0.0, help='share of captions that only say "a photo of a SUBJECT."')
    teach.add_argument("--graph", action=argparse.BooleanOptionalAction, default=True, help="replay a CUDA graph of the step")
    teach.add_argument("--seed", type=int, default=0)
    teach.add_argument("--report", type=int, default=100, help="steps between lines of the log")
    teach.add_argument("--trial-seconds", type=float, default=10.0, help="speed is measured from this time on, for as long again")
    teach.add_argument("--limit-seconds", type=float, default=0.0, help="time limit, wherever the schedule is; 0 = none")
    teach.add_argument("--save-seconds", type=float, default=120.0)
    test = jobs.add_parser("score", help="zero-shot accuracy on the bundled sets")
    test.add_argument("weights", type=user_path)
    test.add_argument("--config", type=user_path, required=True)
    test.add_argument("--sets", type=user_path, default=Path(__file__).resolve().parents[2] / "datasets" / "icons")
    test.add_argument("--template", default="a photo of a {}.")
    test.add_argument("--json", type=user_path)
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
        config = json.loads(args.config.read_text())
        rows = score(args.weights, config, args.sets, torch.device(args.device), args.template)
        if args.json:
            args.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
