"""What a backbone name and a weight file become: the right architecture, the same features, or one clear line."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import clip.backbone
import clip.checkpoint
from clip import MINIS
from clip.backbone import Backbone, load_backbone, resolve_name
from clip.bundled import weights_of
from clip.checkpoint import official_hashes, read_state_dict
from clip.text import TextFeatures
from datasets.digits import NAMES as DIGITS
from tests.conftest import make_tiny_backbone
from utils.device import pick_device
from utils.errors import UserError

CPU = torch.device("cpu")
# open_clip's smallest model with its own text tower, GELU
SMALL = "ViT-S-32-alt"
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is gone right after the test: pytest would keep the large files of three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return random_model(SMALL)


def random_model(architecture: str) -> nn.Module:
    """A model with random weights in every tensor, also those that open_clip starts at zero or one."""
    model = open_clip.create_model(architecture, pretrained=None).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=generator) * (0.1 if "running" in name else 0.01))
    return model


def features(model: nn.Module) -> tuple[Tensor, Tensor]:
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.encode_image(image), model.encode_text(open_clip.tokenize(["a photo of a red dog."]))


def assert_same_features(loaded: nn.Module, source: nn.Module) -> None:
    for ours, theirs in zip(features(loaded), features(source), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def refusal(call: Callable[[], object]) -> str:
    """The text of the UserError that `call` must raise; always one line."""
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


class Holder(nn.Module):
    """A module with the parts and names of `model` whose own forward is trivial, and so quickly traced."""

    def __init__(self, model: nn.Module):
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.logit_scale


def save_archive(model: nn.Module, path: Path) -> Path:
    torch.jit.trace(Holder(model), torch.ones(1)).save(path)
    return path


def save_tiny_archive(path: Path) -> Path:
    torch.jit.script(nn.Linear(2, 2)).save(path)
    return path


def make_official(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for module in (clip.backbone, clip.checkpoint):
        monkeypatch.setattr(module, "official_hashes", lambda: frozenset({digest}))


class Evil:
    """Its pickle, when loaded, creates the file `marker`."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.marker,)


# names


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("RN50", "RN50-quickgelu"),
        ("RN101", "RN101-quickgelu"),
        ("ViT-B/32", "ViT-B-32-quickgelu"),
        ("ViT-B/16", "ViT-B-16-quickgelu"),
    ],
)
def test_openai_names_mean_the_quickgelu_architectures_with_openai_weights(name: str, architecture: str) -> None:
    assert resolve_name(name) == (architecture, "openai")
    assert resolve_name(name, has_checkpoint=True) == (architecture, "")
    assert open_clip.get_model_config(architecture)["quick_gelu"] is True
    assert "openai" in open_clip.list_pretrained_tags_by_model(architecture)


@pytest.mark.parametrize("spelling", ["ViT-B-32@laion2b_s34b_b79k", "ViT-B/32@laion2b_s34b_b79k"])
def test_name_at_tag_and_slash_spelling_resolve(spelling: str) -> None:
    assert resolve_name(spelling) == ("ViT-B-32", "laion2b_s34b_b79k")


def test_the_only_tag_of_an_architecture_may_be_left_out() -> None:
    assert open_clip.list_pretrained_tags_by_model("ViT-B-32-256") == ["datacomp_s34b_b86k"]
    assert resolve_name("ViT-B-32-256") == ("ViT-B-32-256", "datacomp_s34b_b86k")


def test_a_quickgelu_architecture_without_a_tag_means_openais_weights() -> None:
    assert resolve_name("ViT-B-32-quickgelu") == ("ViT-B-32-quickgelu", "openai")


@pytest.mark.parametrize(("name", "near"), [("ViT-B-61", "ViT-B-16"), ("RN5O", "RN50"), ("Mimi", "Mini")])
def test_an_unknown_name_names_near_ones(name: str, near: str) -> None:
    message = refusal(lambda: resolve_name(name))
    assert repr(name) in message
    assert near in message.split("near it: ")[1].split(", ")


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32@", "ViT-B-32@nonsense"])
def test_a_missing_or_wrong_tag_lists_the_tags(name: str) -> None:
    message = refusal(lambda: resolve_name(name))
    for tag in open_clip.list_pretrained_tags_by_model("ViT-B-32"):
        assert tag in message


def test_an_architecture_without_weights_asks_for_a_checkpoint() -> None:
    assert "--checkpoint" in refusal(lambda: resolve_name(SMALL))
    assert resolve_name(SMALL, has_checkpoint=True) == (SMALL, "")


@pytest.mark.parametrize("name", ["ViT-B-16@openai", "ViT-B/16@openai"])
def test_gelu_architecture_with_quickgelu_weights_is_refused_and_names_the_right_one(name: str) -> None:
    assert re.search(r"\bViT-B-16-quickgelu\b", refusal(lambda: resolve_name(name)))


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_another_tokenizer_is_refused(has_checkpoint: bool) -> None:
    name = "ViT-B-16-SigLIP" if has_checkpoint else "ViT-B-16-SigLIP@webli"
    assert "tokenizer" in refusal(lambda: resolve_name(name, has_checkpoint))


def test_openai_names_are_built_with_the_resolved_architecture_and_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def create_model(architecture: str, pretrained: str, **_: object) -> nn.Module:
        asked.append((architecture, pretrained))
        return make_tiny_backbone().model

    monkeypatch.setattr(open_clip, "create_model", create_model)
    load_backbone("RN50", CPU)
    assert asked == [("RN50-quickgelu", "openai")]


def test_a_failed_download_says_to_give_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(*_: object, **__: object) -> nn.Module:
        raise RuntimeError("no network\nat all")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    message = refusal(lambda: load_backbone("RN50", CPU))
    assert "--checkpoint" in message
    assert "no network at all" in message


# files


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


def assert_frozen(backbone: Backbone) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


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


def test_the_malicious_pickle_of_these_tests_does_run_where_nothing_forbids_it(folder: Path) -> None:
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


# Mini and Mini-RN


@pytest.fixture(scope="module", params=MINIS)
def mini(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.param, CPU)


def test_mini_loads_frozen_with_32_positions_from_at_most_4_mib(mini: Backbone) -> None:
    assert_frozen(mini)
    assert weights_of(mini.name).stat().st_size <= 4 << 20
    assert mini.model.positional_embedding.shape == (32, 128)
    assert mini.tokenizer(["a"]).shape == (1, 32)
    images = mini.encode_images(torch.zeros(2, 3, 32, 32))
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))


def test_mini_keeps_the_seeded_row_of_every_token_that_training_did_not_touch(mini: Backbone) -> None:
    table = torch.randn(49408, 128, generator=torch.Generator().manual_seed(0)) * 0.02
    weights = load_file(weights_of(mini.name))
    table[weights["token_ids"].long()] = weights["token_rows"].float()
    assert mini.known_tokens == set(weights["token_ids"].tolist())
    assert 0 < len(mini.known_tokens) < 49408
    assert torch.equal(mini.model.token_embedding.weight, table)


def test_mini_warns_once_of_an_unknown_word_and_still_runs(mini: Backbone) -> None:
    words = (token.removesuffix("</w>") for token in mini.tokenizer.encoder if token.endswith("</w>"))
    strange = (w for w in words if w.isalpha() and not mini.known_tokens.issuperset(mini.tokenizer.encode(w)))
    unknown = list(islice(strange, 2))
    text = TextFeatures(mini, [*DIGITS, *unknown], "a photo of a", 1 << 30)
    assert len(text.warnings) == 1
    assert all(word in text.warnings[0] for word in unknown)
    assert text(torch.zeros(1, 4, 128)).isfinite().all()


def test_mini_knows_the_words_of_its_own_data(mini: Backbone) -> None:
    assert TextFeatures(mini, DIGITS, "a photo of a", 1 << 30).warnings == []


def test_weights_of_one_mini_are_refused_to_the_other() -> None:
    path = str(weights_of("Mini-RN"))
    assert f"--checkpoint: {path}: not the weights of Mini" in refusal(lambda: load_backbone("Mini", CPU, path))


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    load_backbone("Mini", CPU)
    assert torch.equal(torch.get_rng_state(), before)


# devices


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_device_that_a_cpu_only_machine_lacks_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "--device" in refusal(lambda: pick_device(name))


@pytest.mark.parametrize("name", ["bogus", "meta", "mps", "cpu:", "cuda:x", "cuda:-1", "cuda:99999999999", ""])
def test_a_name_that_is_not_a_device_of_runs_is_refused(name: str) -> None:
    assert "is not a device; use auto, cpu, cuda or cuda:N" in refusal(lambda: pick_device(name))


def test_auto_is_the_cpu_on_a_cpu_only_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
