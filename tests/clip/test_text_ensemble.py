"""The zero-shot ensemble: the mean of normalized features over templates, normalized again."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from clip.backbone import Backbone
from clip.text import ensemble_features, zero_shot_features
from datasets import ENSEMBLE
from tests.conftest import CLASSNAMES


def test_ensemble_is_the_normalized_mean_of_the_templates_features(tiny_backbone: Backbone) -> None:
    templates = (*ENSEMBLE, "a photo of a {}.")
    ours, _ = ensemble_features(tiny_backbone, CLASSNAMES, templates)
    for name, feature in zip(CLASSNAMES, ours, strict=True):
        prompts = [template.format(name.replace("_", " ")) for template in templates]
        tokens = tiny_backbone.tokenizer(prompts)
        each = F.normalize(tiny_backbone.model.encode_text(tokens), dim=-1)
        torch.testing.assert_close(feature, F.normalize(each.mean(0), dim=-1))


def test_one_template_gives_its_features_unchanged(tiny_backbone: Backbone) -> None:
    alone, _ = ensemble_features(tiny_backbone, CLASSNAMES, ["a {}."])
    prompts = [f"a {name.replace('_', ' ')}." for name in CLASSNAMES]
    assert torch.equal(alone, zero_shot_features(tiny_backbone, prompts)[0])
    assert len({template.count("{}") for template in ENSEMBLE}) == 1
