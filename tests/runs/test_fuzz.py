"""Any input succeeds or is refused in one line: no traceback, no hang, no half-written folder."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from clip.backbone import Backbone
from clip.text import TextFeatures, ensemble_features
from datasets import DATASETS
from datasets.folder import read_folder
from datasets.images import open_image
from datasets.split import class_names, read_split
from main_sharpzo import main
from tests.helpers.data import draw_images
from tests.helpers.runs import FLAGS
from trainers import TRAINERS
from utils.config import load_config
from utils.errors import UserError
from utils.run import find_earlier_run
from utils.settings import Config

# how many examples: see pytest_configure in conftest.py
many = settings(deadline=None, suppress_health_check=list(HealthCheck))
few = settings(many, max_examples=max(1, many.max_examples // 4))

NAMES = [field.name for field in dataclasses.fields(Config)]
numbers = st.one_of(
    st.integers(),
    st.integers(-3, 50),
    st.floats(),
    st.sampled_from([0, -0.0, 1e-320, 1e300, 1e-5, 10**12, 10**400, "1e5", "0x10", "1_000", "٣", " 7 ", "9" * 5000, "1e99999"]),
)
words = st.one_of(
    st.text(),
    st.sampled_from(
        ["", " ", "a photo of a", "{}", "{} {}", "auto", "released", "..", "/", "a/b", "\0", "\ud800", "x" * 300, "é" * 200]
    ),
    st.sampled_from([*TRAINERS, *DATASETS, *NAMES]),
)
values = st.one_of(numbers, words, st.booleans(), st.none())


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in a block that takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one_line(error: UserError) -> None:
    assert str(error).strip()
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 2000


def resolves(argv: list[str]) -> None:
    """The command line resolves to a configuration, or is refused in one line."""
    with within(30):
        try:
            load_config(argv, TRAINERS, DATASETS)
        except UserError as error:
            one_line(error)


@many
@given(st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=6))
def test_flags(given_flags: list[tuple[str, Any]]) -> None:
    resolves([text for name, value in given_flags for text in (f"--{name}", str(value))])


@many
@given(st.lists(words, max_size=5))
def test_command_lines(argv: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        resolves(argv)


documents = st.one_of(
    st.text(),
    st.dictionaries(st.one_of(st.sampled_from(NAMES), words), st.one_of(values, st.lists(values, max_size=2))).map(
        lambda document: json.dumps(document)
    ),
    st.lists(st.tuples(st.sampled_from([*NAMES, *TRAINERS]), st.text(alphabet="!&*[]{}|>%@`'\"#:-,? \t\nax1.", max_size=12))).map(
        lambda lines: "\n".join(f"{key}: {value}" for key, value in lines)
    ),
)


@many
@given(documents)
@example("seed: !!timestamp x\n")
@example("? [a]\n: 1\n")
@example("a: &a [*a]\n")
@example("{" * 50_000)
def test_yaml(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        resolves(["--config", str(path)])


entries = st.tuples(words, st.one_of(st.integers(-1, 3), values), words).map(list)
splits = st.one_of(
    st.recursive(values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8),
    st.fixed_dictionaries({part: st.lists(st.one_of(entries, values), max_size=4) for part in ("train", "val", "test")}),
)


@many
@given(splits)
def test_split_files(document: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, within(30):
        path = Path(folder) / "split.json"
        path.write_text(json.dumps(document))
        try:
            parts = read_split(path)
            names = class_names(parts, path)
        except UserError as error:
            one_line(error)
        else:
            assert all((Path(folder) / item.path).resolve().is_relative_to(folder) for items in parts for item in items)
            assert all(name.strip() for name in names)


classnames = st.one_of(
    st.text(min_size=1),
    st.sampled_from(
        ["_", "a/b", "a\nb", "🦜", "مرحبا", "‮abc", "dog " * 100, "x" * 4000, "<|endoftext|>", "\u200b", "e\u0301", "%s {}"]
    ),
).filter(lambda name: (name.strip() and name.isprintable()) or name in ("a\nb", "‮abc", "\u200b"))


@few
@given(st.lists(classnames, min_size=2, max_size=4), st.sampled_from(["end", "middle", "front"]))
@example(["dog " * 100, "cat"], "middle")
@example(["dog " * 100, "x" * 4000], "end")
def test_class_names(tiny_backbone: Backbone, names: list[str], position: str) -> None:
    text = TextFeatures(tiny_backbone, names, "a photo of a", 1 << 28, position=position)
    contexts = torch.zeros(1, 4, 32, dtype=torch.float64)
    features = text(contexts)
    assert torch.isfinite(features).all() and features.shape[:2] == (1, len(names))
    stock = TextFeatures(tiny_backbone, names, "a photo of a", 1 << 28, engine="stock", position=position)
    torch.testing.assert_close(features, stock(contexts), rtol=1e-3, atol=1e-4)
    long = [name for name in names if len(tiny_backbone.tokenizer.encode(name)) > 80]
    warned = " ".join(text.warnings)
    assert not long or re.search(r"[1-9]\d* prompts exceed \d+ tokens and are truncated", warned)
    zero_shot, _ = ensemble_features(tiny_backbone, names, ("a {}.", "{}"))
    assert torch.isfinite(zero_shot).all()


def picture_bytes() -> list[bytes]:
    image, found = Image.linear_gradient("L").resize((24, 16)).convert("RGB"), []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP"):
        file = io.BytesIO()
        image.save(file, kind)
        found.append(file.getvalue())
    return found


PICTURES = picture_bytes()


@many
@given(st.sampled_from(PICTURES), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8), st.floats(0, 1.2))
def test_samples(whole: bytes, changes: list[tuple[float, int]], length: float) -> None:
    content = bytearray(whole)
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    with tempfile.TemporaryDirectory() as folder, within(60):
        path = Path(folder) / "picture.jpg"
        path.write_bytes(content[: int(length * len(content))])
        try:
            assert open_image(path).mode == "RGB"
        except UserError as error:
            one_line(error)


folder_names = st.one_of(
    st.text(min_size=1, max_size=40),
    st.sampled_from(["🦜", "مرحبا", " a ", "a\nb", "-rf", "con", "x" * 250, "a b", ".hidden", "sh"]),
).filter(lambda name: not set(name) & set("/\0") and name not in (".", "..") and len(name.encode("utf-8", "ignore")) < 250)


@few
@given(st.lists(folder_names, min_size=1, max_size=4, unique=True), st.text(max_size=60))
def test_class_folders(names: list[str], listed: str) -> None:
    with tempfile.TemporaryDirectory() as folder, within(30):
        for name in names:
            with contextlib.suppress(UnicodeEncodeError):
                draw_images(Path(folder) / name, "1.png", "2.png", "3.png", "4.png")
        if listed:
            (Path(folder) / "classnames.txt").write_bytes(listed.encode("utf-8", "surrogatepass"))
        try:
            dataset = read_folder("folder", Path(folder))
        except UserError as error:
            one_line(error)
        else:
            assert len(dataset.classnames) == len(set(dataset.classnames))


# settings of runs with a few steps; the sizes are such that a run takes a second
SIZES = {
    "total_steps": 3,
    "intrinsic_dim": 40,
    "popsize": 30,
    "num_pertub": 5,
    "n_ctx": 90,
    "augment_views": 2,
    "adapter_dim": 50,
}
SIZES |= {"shots": 3, "sp_avg": 3, "rank": 3, "n_visual": 3, "intrinsic_dim_v": 20, "epochs": 3, "train_batch": 20}
STAY = {
    "config",
    "dataset",
    "root_path",
    "output_dir",
    "device",
    "backbone",
    "checkpoint",
    "split_file",
    "cache_dir",
    "pt_backbone",
}
FREE = [field for field in dataclasses.fields(Config) if field.name not in STAY]


def fitting(field: dataclasses.Field) -> st.SearchStrategy:
    meta = field.metadata
    if "choices" in meta:
        return st.sampled_from(meta["choices"])
    if field.name == "prompt_trainer":
        return st.sampled_from(list(TRAINERS))
    if meta["kind"] is bool:
        return st.booleans()
    if meta["kind"] is int:
        return st.integers(meta.get("low", 0), SIZES.get(field.name, 100)) | st.sampled_from(
            meta.get("words", [meta.get("low", 1)])
        )
    if meta["kind"] is float:
        extremes = st.sampled_from([0.0, 1e-320, 1e-200, 1e-5, 0.5, 1.0, 3.0, 1e5, 1e200, 1e308])
        return extremes | st.floats(0, 10)
    texts = {"run_name": ["", "ok", "🦜", ".."], "template": ["{}", "a {}.", "{} 🦜", "no"], "fidelity": ["paper", "released"]}
    texts |= {"ctx_init": ["", "a photo of a", "x", "word " * 90, "🦜", " "]}
    return st.sampled_from(texts.get(field.name, [field.default or ""]))


@few
@given(st.lists(st.sampled_from(FREE).flatmap(lambda field: st.tuples(st.just(field), fitting(field))), min_size=1, max_size=5))
def test_whole_runs(one_mini: None, capfd: pytest.CaptureFixture, chosen: list[tuple[dataclasses.Field, Any]]) -> None:
    flags = [*FLAGS, "--total_steps", "3", "--change_point", "1", "--prompt_trainer", "sharpzo"]
    for field, value in chosen:
        flags += (
            [f"--{'' if value else 'no-'}{field.name}"] if field.metadata["kind"] is bool else [f"--{field.name}", str(value)]
        )
    root = Path(tempfile.mkdtemp())
    capfd.readouterr()
    try:
        with within(100):
            status = main([*flags, "--output_dir", str(root / "runs")])
        error = capfd.readouterr().err
        assert (status, len(error.splitlines())) in ((0, 0), (1, 1), (2, 1)), error
        folders = [path.parent for path in root.rglob("config.yaml")]
        assert len(folders) == (0 if status == 2 else 1)
        for folder in folders:
            config = load_config(["--config", str(folder / "config.yaml")], TRAINERS, DATASETS)
            config = dataclasses.replace(config, overwrite=False)
            assert find_earlier_run(folder, config) == ("finished" if status == 0 else "unfinished")
    finally:
        shutil.rmtree(root)
