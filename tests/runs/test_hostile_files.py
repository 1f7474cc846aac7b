"""Malicious files in every place where a file is read: none runs code, none leads out of its folder."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from clip.prompt import load_prompt, save_prompt
from datasets.cache import FeatureCache
from datasets.folder import read_folder
from datasets.images import open_image
from main_sharpzo import main
from tests.conftest import MINI
from tests.helpers.data import draw_images, refusal
from tests.helpers.runs import FLAGS, folder_of, stop_in_call
from utils.errors import UserError
from utils.interrupt import Interrupted
from utils.replay import CHECKPOINT, EXTRAS, LOSSES, PREVIOUS_CHECKPOINT, find_checkpoint

pytestmark = pytest.mark.usefixtures("one_mini")


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.canary}",)


def header(document: str) -> bytes:
    """A safetensors file with this header and 64 bytes of tensors."""
    return struct.pack("<Q", len(document)) + document.encode() + bytes(64)


def torch_file(thing: object, path: Path) -> bytes:
    torch.save(thing, path)
    return path.read_bytes()


def torchscript(path: Path) -> bytes:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.script(Model()).save(path)
    return path.read_bytes()


DEEP = "[" * 60_000
ENDLESS = '{"w": {"dtype": "F64", "shape": [9223372036854775807, 9], "data_offsets": [0, 64]}}'
PAYLOADS: dict[str, Callable[[Path, Path], bytes]] = {
    "pickle": lambda canary, scratch: pickle.dumps(Touch(canary)),
    "old pickle": lambda canary, scratch: pickle.dumps({"w": Touch(canary)}, protocol=0),
    "torch file": lambda canary, scratch: torch_file({"state_dict": Touch(canary)}, scratch),
    "TorchScript": lambda canary, scratch: torchscript(scratch),
    "numpy object": lambda canary, scratch: b"\x93NUMPY\x01\x00" + pickle.dumps(np.array([Touch(canary)], dtype=object)),
    "YAML tag": lambda canary, scratch: f"seed: !!python/object/apply:os.system ['touch {canary}']\n".encode(),
    "YAML aliases": lambda canary, scratch: "".join(
        [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12)]
    ).encode(),
    "deep JSON": lambda canary, scratch: DEEP.encode(),
    "deep JSON in safetensors": lambda canary, scratch: header('{"__metadata__": {"sharpzo": "' + DEEP + '"}}'),
    "endless tensor": lambda canary, scratch: header(ENDLESS),
    "metadata of another kind": lambda canary, scratch: header('{"__metadata__": {"sharpzo": "[1]", "key": "", "sha256": "no"}}'),
    "header longer than the file": lambda canary, scratch: struct.pack("<Q", 1 << 62) + b"{}",
    "bytes": lambda canary, scratch: bytes(range(256)) * 4,
    "nothing": lambda canary, scratch: b"",
}


@pytest.fixture(params=PAYLOADS)
def payload(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    return PAYLOADS[request.param](tmp_path / "canary", tmp_path / "scratch")


@pytest.fixture(autouse=True)
def unharmed(tmp_path: Path) -> object:
    yield
    assert not (tmp_path / "canary").exists()


@pytest.fixture
def fed(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str]]:
    """Calls main with output below tmp_path; returns its status and its one line of error, if any."""

    def call(*flags: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main([*FLAGS, "--output_dir", str(tmp_path / "outputs"), *flags])
        error = capsys.readouterr().err
        assert len(error.splitlines()) == (1 if status else 0)
        assert len(error) < 2000
        return status, error

    return call


def test_payloads_do_harm_if_nothing_stops_them(tmp_path: Path) -> None:
    """Each of the kinds that can run code does, by the loaders that are not used here."""
    canary = tmp_path / "there"
    for name, load in {
        "pickle": pickle.loads,
        "torch file": lambda content: torch.load(tmp_path / "scratch", weights_only=False),
        "YAML tag": yaml.unsafe_load,
    }.items():
        load(PAYLOADS[name](canary, tmp_path / "scratch"))
        assert canary.exists(), name
        canary.unlink()


def test_config_and_few_shot_list(payload: bytes, tmp_path: Path, fed: Callable) -> None:
    path = tmp_path / "given"
    path.write_bytes(payload)
    assert fed("--split_file", str(path))[0] == 2
    status, error = fed("--config", str(path))
    # an empty configuration names no dataset
    assert (status, str(path) in error) == (2, True)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoint(suffix: str, payload: bytes, tmp_path: Path, fed: Callable) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(payload)
    for backbone in ("Mini", "ViT-B/32"):
        status, error = fed("--backbone", backbone, "--checkpoint", str(path))
        assert (status, str(path) in error) == (2, True)


def test_prompt(payload: bytes, tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    path.write_bytes(payload)
    assert str(path) in refusal(load_prompt, path)


def test_split_names_and_pictures(payload: bytes, tmp_path: Path, fed: Callable) -> None:
    root = tmp_path / "data"
    (root / "eurosat").mkdir(parents=True)
    (root / "eurosat" / "split_zhou_EuroSAT.json").write_bytes(payload)
    assert fed("--config", "configs/eurosat.yaml", "--backbone", "Mini", "--root_path", str(root))[0] == 2
    images = tmp_path / "images"
    draw_images(images, *(f"{name}/{number}.png" for name in ("ant", "bee") for number in range(8)))
    (images / "classnames.txt").write_bytes(payload)
    assert "classnames.txt" in refusal(read_folder, "folder", images)
    (images / "classnames.txt").unlink()
    (images / "ant" / "0.png").write_bytes(payload)
    assert "not a readable image" in refusal(open_image, images / "ant" / "0.png")


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a craft run that was interrupted."""
    root = tmp_path_factory.mktemp("broken_off")
    with pytest.MonkeyPatch.context() as patch:
        stop_in_call(patch, 8, Interrupted("test"))
        assert main([*FLAGS, "--prompt_trainer", "craft", "--output_dir", str(root)]) == 3
    return root


@pytest.fixture
def interrupted(broken_off: Path, tmp_path: Path, fed: Callable) -> tuple[Path, Callable[[], tuple[int, str]]]:
    """A run folder of a craft run that was interrupted, and the same command again."""
    shutil.copytree(broken_off, tmp_path / "outputs")
    return folder_of(tmp_path / "outputs", "craft"), lambda: fed("--prompt_trainer", "craft")


@pytest.mark.parametrize("name", [CHECKPOINT, LOSSES, "both", "extras"])
def test_state(name: str, payload: bytes, interrupted: tuple) -> None:
    folder, _ = interrupted
    owner = json.loads((folder / CHECKPOINT).read_text())["settings_sha256"]
    assert find_checkpoint(folder, owner)[1] == []
    named = {"both": [folder / CHECKPOINT, folder / PREVIOUS_CHECKPOINT], "extras": [folder / name for name in EXTRAS]}
    for target in named.get(name, [folder / name]):
        target.write_bytes(payload)
    kept, refused = find_checkpoint(folder, owner)
    assert len(refused) == (1 if name == CHECKPOINT else 2)
    assert bool(kept) == (name == CHECKPOINT)


def test_settings_of_a_run_folder(payload: bytes, interrupted: tuple) -> None:
    folder, again = interrupted
    (folder / "config.yaml").write_bytes(payload)
    status, error = again()
    assert (status, str(folder) in error) == (2, True)


def test_entry_of_the_feature_cache(payload: bytes, tmp_path: Path) -> None:
    warnings: list[str] = []
    (tmp_path / "key.safetensors").write_bytes(payload)
    assert FeatureCache(tmp_path, warnings.append).read("key", 1) is None
    assert [line.startswith(f"{tmp_path / 'key.safetensors'}: damaged entry") for line in warnings] == [True]


def signed(state: dict) -> str:
    """A state with a valid checksum, as an attacker who knows the format would forge it."""
    content = {key: value for key, value in state.items() if key != "sha256"}
    return json.dumps(content | {"sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()})


def lead_out(mark: dict, folder: Path) -> None:
    (folder.parent / "outside").write_bytes(b"abc")
    mark["files"]["../outside"] = [3, hashlib.sha256(b"abc").hexdigest()]


def pickled_extras(mark: dict, folder: Path) -> None:
    content = pickle.dumps(Touch(folder.parents[5] / "canary"))
    name = next(name for name in EXTRAS if name in mark["files"])
    (folder / name).write_bytes(content)
    mark["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]


def foreign_extras(mark: dict, folder: Path) -> None:
    from safetensors.numpy import save

    content = save({"adapter.0.weight": np.zeros((2, 2), dtype=np.float32)})
    name = next(name for name in EXTRAS if name in mark["files"])
    (folder / name).write_bytes(content)
    mark["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]


FORGERIES: dict[str, Callable[[dict, Path], object]] = {
    "path out of the folder": lead_out,
    "size beyond all": lambda mark, folder: mark["files"].update({LOSSES: [10**30, ""]}),
    "negative size": lambda mark, folder: mark["files"].update({LOSSES: [-1, ""]}),
    "size in words": lambda mark, folder: mark["files"].update({LOSSES: ["many", ""]}),
    "step in words": lambda mark, folder: mark.update(step="3"),
    "no costs": lambda mark, folder: mark.update(costs={}),
    "costs in words": lambda mark, folder: mark.update(costs={"evaluations": []}),
    "time that is no number": lambda mark, folder: mark.update(seconds=float("nan")),
    "foreign key": lambda mark, folder: mark.update(run="rm"),
    "step of another run": lambda mark, folder: mark.update(step=1),
    "pickle as extras": pickled_extras,
    "extras of another model": foreign_extras,
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_state_with_a_good_checksum_is_refused_or_ends_in_one_line(forgery: str, interrupted: tuple) -> None:
    folder, again = interrupted
    state = json.loads((folder / CHECKPOINT).read_text())
    FORGERIES[forgery](state["checkpoint"], folder)
    for name in (CHECKPOINT, PREVIOUS_CHECKPOINT):
        (folder / name).write_text(signed(state))
    status, error = again()
    assert status in (0, 1)
    assert not status or "cannot resume" in error


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "config.yaml", "config.yaml.tmp", CHECKPOINT, "lock"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_link_pipe_or_folder_in_a_files_place_is_refused(kind: str, name: str, tmp_path: Path, fed: Callable) -> None:
    folder, victim = folder_of(tmp_path / "outputs", "sharpzo"), tmp_path / "victim"
    folder.mkdir(parents=True)
    victim.write_text("precious")
    path = folder / name
    {"link": lambda: path.symlink_to(victim), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    for more in ((), ("--overwrite",)):
        status, error = fed(*more)
        assert (status, str(path) in error) == (2, True)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("path", ["../../secret.jpg", "/etc/passwd", "a/../../b.jpg", "..\\b.jpg", "a\0b", "", ".", "\ud800.jpg"])
def test_path_in_a_list_stays_below_its_folder(path: str, tmp_path: Path, fed: Callable) -> None:
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"train": [[path, 0, "zero"]], "val": []}))
    status, error = fed("--split_file", str(listed))
    assert (status, "train[0]" in error) == (2, True)


def test_postscript_called_a_photograph_is_not_handed_to_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    ghostscript, seen = tmp_path / "bin" / "gs", tmp_path / "seen"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {seen}\nexit 1\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EndProlog\n%%EOF\n")
    # what Pillow does with it by default
    with pytest.raises((OSError, subprocess.CalledProcessError)), Image.open(path) as image:
        image.load()
    assert seen.exists()
    seen.unlink()
    assert "not a readable image" in refusal(open_image, path)
    assert not seen.exists()


def test_pictures_of_every_format_that_data_comes_in_are_read(tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "gif", "bmp", "ppm", "tif", "webp"):
        Image.new("RGB", (9, 7), (200, 30, 60)).save(tmp_path / f"x.{suffix}")
        assert open_image(tmp_path / f"x.{suffix}").size == (9, 7)


def test_entry_of_the_cache_that_is_a_pipe_is_not_waited_for(tmp_path: Path, fed: Callable) -> None:
    flags = ("--prompt_trainer", "zero-shot", "--cache_dir", str(tmp_path / "cache"))
    assert fed(*flags)[0] == 0
    (entry,) = (tmp_path / "cache").iterdir()
    entry.unlink()
    os.mkfifo(entry)
    assert fed(*flags, "--overwrite")[0] == 0
    assert not stat.S_ISFIFO(entry.stat().st_mode)


def test_refusals_are_user_errors_that_name_no_internals() -> None:
    assert str(UserError("a\nb\t c")) == "a b c"


FORGED_PROMPTS: dict[str, dict] = {
    "dataset that leads out": {"dataset": "../../../../../outside"},
    "trainer that leads out": {"prompt_trainer": "../../x"},
    "trainer of another kind": {"prompt_trainer": ["zo"]},
    "shots in words": {"shots": "many"},
    "seed beyond all": {"seed": 10**40},
    "settings of another kind": {"settings": ["n_ctx"]},
    "setting of another kind": {"settings": {"ctx_init": ["a"]}},
    "setting out of range": {"settings": {"n_ctx": -4}},
    "setting that is no choice": {"settings": {"class_token_position": "below"}},
}


def written_prompt(path: Path, forged: dict) -> None:
    """A prompt for Mini, all zeros, with the header of a run's prompt except for `forged`."""
    about = {"prompt_trainer": "zo", "dataset": "digits", "weights_sha256": MINI[0].fingerprint()}
    about |= {"shots": 2, "seed": 1, "settings": {}} | forged
    save_prompt(path, {"w": torch.zeros(4), "context": torch.zeros(4, 128, dtype=torch.float64)}, about)


def test_valid_prompt_is_used(tmp_path: Path, fed: Callable) -> None:
    written_prompt(tmp_path / "prompt.safetensors", {})
    assert fed("--load_prompt", str(tmp_path / "prompt.safetensors"))[0] == 0


@pytest.mark.parametrize("forgery", FORGED_PROMPTS)
def test_prompt_that_lies_about_how_it_was_made(forgery: str, tmp_path: Path, fed: Callable) -> None:
    path = tmp_path / "prompt.safetensors"
    written_prompt(path, FORGED_PROMPTS[forgery])
    status, error = fed("--load_prompt", str(path))
    assert (status, str(path) in error) == (2, True)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name}
