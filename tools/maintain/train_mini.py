"""Trains the bundled tiny CLIPs from drawn glyphs and writes their weights in clip/mini/.

    python -m tools.maintain.train_mini                       # about 18 minutes on 2 cores
    python -m tools.maintain.train_mini --output /tmp/mini.safetensors --compare clip/mini/mini.safetensors
    python -m tools.maintain.train_mini --model Mini-RN --threads 1

Ordinary contrastive training with backpropagation: it produces the frozen backbone for trying out SharpZO and is not part of
the method. A caption matches every image in the batch that has the attributes it names, so the softmax target is spread over
those images.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file

from clip import MINIS
from clip.bundled import initial_token_table, model_config, weights_of
from tools.common.cli import user_path
from tools.maintain.glyphs import draw_glyphs, write_captions


def init_weights(model: CLIP, generator: torch.Generator) -> None:
    """Fills every matrix from `generator` (std 1/√fan_in); gains stay 1 and biases 0, as PyTorch builds them."""
    for name, p in model.named_parameters():
        if name.endswith(("positional_embedding", "class_embedding")):
            p.data.normal_(0, 0.02, generator=generator)
        elif p.ndim >= 2:
            fan_in = p.shape[0] if name.endswith(("proj", "text_projection")) else p[0].numel()
            p.data.normal_(0, fan_in**-0.5, generator=generator)
        elif name.endswith("bias"):
            p.data.zero_()


def text_features(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Features (B, D) of `tokens` (B, L) for any L up to the context length: tokens after EOS have no influence."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return F.normalize(x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection, dim=-1)


def matches(values: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """(B, B) bool: image i has every attribute that caption j names."""
    same = values[:, None, :] == values[None, :, :]
    return (same | ~named[None, :, :]).all(-1)


def contrastive_loss(logits: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric cross-entropy with each row's target spread evenly over its matches."""
    match = match.float()
    images = -(match / match.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    captions = -(match / match.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (images + captions) / 2


def train(args: argparse.Namespace) -> tuple[CLIP, torch.Tensor]:
    """Trains on a vocabulary of the tokens that captions use; returns the model and those tokens' ids."""
    rng = np.random.default_rng(args.seed)
    config = model_config(args.model)
    started = time.perf_counter()
    glyphs = draw_glyphs(args.pictures, rng)
    mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
    pixels, values = torch.from_numpy(glyphs.pixels), torch.from_numpy(glyphs.values)
    print(f"{args.pictures} images drawn in {time.perf_counter() - started:.0f} s", flush=True)

    tokenizer = SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    rounds = [write_captions(glyphs.values, rng) for _ in range(args.epochs)]
    tokens = [tokenizer(captions) for captions, _ in rounds]
    # CLIP finds [EOS] as the largest id, which a sorted vocabulary preserves; token 0 only pads
    ids = torch.unique(torch.cat([t.unique() for t in tokens]))
    tokens = [torch.searchsorted(ids, t) for t in tokens]

    config["text_cfg"]["vocab_size"] = len(ids)
    model = CLIP(**config)
    init_weights(model, torch.Generator().manual_seed(args.seed))
    model.token_embedding.weight.data.copy_(initial_token_table(model_config(args.model))[ids])
    matrices = [p for n, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embedding" in n]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    steps = args.epochs * (args.pictures // args.batch)
    step = 0
    for epoch, (_, named_array) in enumerate(rounds):
        named = torch.from_numpy(named_array)
        order = torch.from_numpy(rng.permutation(args.pictures))
        total = 0.0
        for batch in order[: args.pictures // args.batch * args.batch].split(args.batch):
            warm = min(1.0, (step + 1) / 100)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
            images = ((pixels[batch].float() / 255 - mean) / std).permute(0, 3, 1, 2)
            caption = tokens[epoch][batch]
            caption = caption[:, : int(caption.argmax(-1).max()) + 1]
            image = model.encode_image(images, normalize=True)
            logits = model.logit_scale.exp() * image @ text_features(model, caption).T
            loss = contrastive_loss(logits, matches(values[batch], named[batch]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            # CLIP also clips its temperature at 100
            model.logit_scale.data.clamp_(0, math.log(100))
            total += float(loss.detach())
            step += 1
        mean_loss = total / (args.pictures // args.batch)
        scale = model.logit_scale.exp().item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{args.epochs}  loss {mean_loss:.3f}  scale {scale:.1f}  {seconds:.0f} s", flush=True)
    return model.eval(), ids


def save(model: CLIP, ids: torch.Tensor, path: Path) -> None:
    """Writes the weights in half precision with only the trained rows of the token table."""
    state = {n: p.detach().half().contiguous() for n, p in model.state_dict().items()}
    rows = state.pop("token_embedding.weight")
    save_file({**state, "token_ids": ids.int(), "token_rows": rows}, path)
    print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB, {len(ids)} token rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MINIS, default="Mini")
    parser.add_argument("--output", type=user_path, help="default: the bundled file of the model")
    parser.add_argument("--compare", type=user_path, help="print the largest difference to this file's weights")
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="changing it changes the last digits of the weights")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    output = args.output or weights_of(args.model)
    model, ids = train(args)
    save(model, ids, output)
    if args.compare:
        ours, theirs = load_file(output), load_file(args.compare)
        worst = max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in theirs)
        print(f"largest difference to {args.compare}: {worst:g}")


if __name__ == "__main__":
    main()
