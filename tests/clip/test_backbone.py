"""Backbone names and device names: what each resolves to, or the one line that refuses it."""

from __future__ import annotations

import re

import open_clip
import pytest
import torch
from torch import nn

from clip.backbone import load_backbone, resolve_name
from tests.conftest import make_tiny_backbone
from tests.helpers.data import refusal
from tests.helpers.weights import (
    SMALL,
)
from utils.device import pick_device

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")


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
def test_an_unknown_name_lists_similar_names(name: str, near: str) -> None:
    message = refusal(lambda: resolve_name(name))
    assert repr(name) in message
    assert near in message.split("similar names: ")[1].split(", ")


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32@", "ViT-B-32@nonsense"])
def test_a_missing_or_wrong_tag_lists_the_tags(name: str) -> None:
    message = refusal(lambda: resolve_name(name))
    for tag in open_clip.list_pretrained_tags_by_model("ViT-B-32"):
        assert tag in message


def test_an_architecture_without_weights_requires_a_checkpoint() -> None:
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
