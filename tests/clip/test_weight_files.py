"""A weight file gives the same features, or is refused in one clear line."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clip import MINIS
from clip.backbone import load_backbone
from clip.checkpoint import official_hashes, read_state_dict
from tests.helpers.data import refusal
from tests.helpers.weights import (
    SMALL,
    Evil,
    assert_frozen,
    assert_same_features,
    make_official,
    random_model,
    save_archive,
    save_tiny_archive,
)

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed right after the test, since pytest would retain the large files of three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return random_model(SMALL)


def save_safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    save_file(state, folder / "w.safetensors")
    return folder / "w.safetensors"


def save_state_dict(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "w.pt")
    return folder / "w.pt"


def save_training_checkpoint(state: dict[str, Tensor], folder: Path) -> Path:
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {"lr": 0.1}}, folder / "epoch_3.pt")
    return folder / "epoch_3.pt"


@pytest.mark.parametrize("save", [save_safetensors, save_state_dict, save_training_checkpoint])
def test_every_file_format_gives_the_features_of_the_source_model_frozen(
    save: Callable[[dict[str, Tensor], Path], Path], small: nn.Module, folder: Path
) -> None:
    backbone = load_backbone(SMALL, CPU, str(save(small.state_dict(), folder)))
    assert_same_features(backbone.model, small)
    assert_frozen(backbone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_load_into_float32(dtype: torch.dtype, small: nn.Module, folder: Path) -> None:
    state = {name: tensor.to(dtype) for name, tensor in small.state_dict().items()}
    loaded = load_backbone(SMALL, CPU, str(save_state_dict(state, folder))).model.state_dict()
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].float()), name


def hollow_state(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the right names and shapes that take no room in a torch file."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in model.state_dict().items()}


def test_the_file_of_another_architecture_is_refused(small: nn.Module, folder: Path) -> None:
    path = save_state_dict(hollow_state(small), folder)
    assert str(path) in refusal(lambda: load_backbone("RN50", CPU, str(path)))


@pytest.mark.parametrize("change", ["missing", "foreign", "shape"])
def test_a_state_dict_that_differs_from_the_architecture_is_refused_naming_the_tensor(
    change: str, small: nn.Module, folder: Path
) -> None:
    state = hollow_state(small)
    name = "visual.nonsense" if change == "foreign" else "ln_final.weight"
    if change == "missing":
        del state[name]
    else:
        state[name] = torch.zeros(7)
    path = save_state_dict(state, folder)
    message = refusal(lambda: load_backbone(SMALL, CPU, str(path)))
    assert str(path) in message
    assert name in message


@pytest.mark.parametrize("backbone", [SMALL, *MINIS])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", ["truncated", "empty", "text", "foreign", "directory", "absent"])
def test_a_damaged_or_foreign_file_is_refused_naming_it(content: str, suffix: str, backbone: str, folder: Path) -> None:
    path = folder / f"w{suffix}"
    state = {"weight": torch.arange(1000.0)}
    if content == "directory":
        path.mkdir()
    elif content == "empty":
        path.touch()
    elif content == "text":
        path.write_text("These are not\nthe weights\nyou are looking for.\n")
    elif content != "absent":
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        if content == "truncated":
            path.write_bytes(path.read_bytes()[:2000])
    assert str(path) in refusal(lambda: load_backbone(backbone, CPU, str(path)))


@pytest.mark.parametrize("content", [[torch.ones(2)], {}, {"state_dict": {"lr": 0.1}}, torch.ones(2)])
def test_a_torch_file_without_a_state_dict_is_refused(content: object, folder: Path) -> None:
    torch.save(content, folder / "w.pt")
    assert str(folder / "w.pt") in refusal(lambda: read_state_dict(folder / "w.pt"))


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("save", ["pickle", "zip", "legacy"])
def test_a_malicious_pickle_is_refused_and_never_runs(save: str, trust: bool, folder: Path) -> None:
    path, marker = folder / "w.pt", folder / "marker"
    content = {"weight": torch.ones(1), "evil": Evil(marker)}
    if save == "pickle":
        path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=save == "zip")
    assert str(path) in refusal(lambda: read_state_dict(path, trust))
    assert not marker.exists()


def test_the_malicious_pickle_of_these_tests_runs_if_nothing_forbids_it(folder: Path) -> None:
    torch.save(Evil(folder / "marker"), folder / "w.pt")
    torch.load(folder / "w.pt", weights_only=False)
    assert (folder / "marker").exists()


# TorchScript archives


def test_a_torchscript_archive_is_refused_unless_trusted(folder: Path) -> None:
    path = save_tiny_archive(folder / "w.pt")
    message = refusal(lambda: read_state_dict(path))
    assert str(path) in message
    assert "--trust_checkpoint" in message
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] in message
    assert read_state_dict(path, trust=True).keys() == {"weight", "bias"}


def test_a_trusted_archive_of_the_model_loads(small: nn.Module, folder: Path) -> None:
    path = save_archive(small, folder / "w.pt")
    assert "--trust_checkpoint" in refusal(lambda: load_backbone(SMALL, CPU, str(path)))
    backbone = load_backbone(SMALL, CPU, str(path), trust=True)
    assert_same_features(backbone.model, small)
    assert_frozen(backbone)


def test_an_official_archive_is_read_without_trust(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    path = save_tiny_archive(folder / "w.pt")
    make_official(path, monkeypatch)
    assert read_state_dict(path).keys() == {"weight", "bias"}


@pytest.mark.slow
def test_an_official_archive_in_half_precision_gives_the_features_of_its_weights(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    source = random_model("RN50-quickgelu").half()
    path = save_archive(source, folder / "RN50.pt")
    make_official(path, monkeypatch)
    assert_same_features(load_backbone("RN50", CPU, str(path)).model, source.float())


def test_an_official_archive_with_a_gelu_architecture_is_an_activation_mismatch(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    path = save_tiny_archive(folder / "ViT-B-16.pt")
    make_official(path, monkeypatch)
    message = refusal(lambda: load_backbone("ViT-B-16", CPU, str(path)))
    assert str(path) in message
    assert "QuickGELU" in message
    assert "ViT-B-16-quickgelu" in message


def test_official_hashes_are_sha256_digests() -> None:
    assert len(official_hashes()) >= 9
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in official_hashes())
