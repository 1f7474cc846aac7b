"""The benchmark's figures other than speed: equality of the two paths, and its counts."""

from __future__ import annotations

import pytest
import torch

from tools.benchmark import measure
from tools.common import tangent_costs
from tools.common.engine_costs import (
    class_names,
    make_subject,
    measure_generation,
    multiply_adds,
    projection_std,
    random_backbone,
)

SMALL = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3}


def test_class_lists_have_the_datasets_sizes() -> None:
    sizes = {"eurosat": 10, "dtd": 47, "caltech101": 100, "fgvc_aircraft": 100, "imagenet": 1000}
    assert {dataset: len(class_names(dataset)) for dataset in sizes} == sizes
    assert class_names("eurosat")[3] == "Highway or Road"
    assert class_names("fgvc_aircraft").count("737-300") == 1


def test_the_projection_is_scaled_as_in_the_datasets_own_configuration() -> None:
    assert projection_std("eurosat") == 1.0
    assert projection_std("caltech101") == 0.2


def test_a_row_of_the_table_on_a_small_tower() -> None:
    row = measure("eurosat", class_names("eurosat"), random_backbone(SMALL), rounds=1, passes=2, generation=False)
    assert {"dataset", "classes", "images", "stock_seconds", "engine_seconds", "ratio", "peak_fraction"} <= set(row)
    assert (row["classes"], row["images"]) == (10, 160)
    assert 0 < row["max_feature_error"] < 2e-6
    assert row["ratio"] == pytest.approx(row["stock_seconds"] / row["engine_seconds"])


def test_both_paths_give_the_same_losses_and_the_true_gradient_at_the_benchmarks_settings() -> None:
    subject = make_subject(class_names("dtd"), random_backbone(SMALL), 16, projection_std("dtd"))
    torch.testing.assert_close(subject.by_engine(subject.W), subject.by_stock(subject.W), rtol=0, atol=2e-5)
    figures = measure_generation(subject)
    assert figures["queries_a_generation"] == 72
    assert figures["cge_error_float64"] < 1e-6
    assert figures["cge_error_float32"] < 2e-3


def test_work_is_counted_over_distinct_prompt_positions() -> None:
    backbone = random_backbone(SMALL)
    one, twice = (make_subject(names, backbone, 8, 0.2) for names in (["red cat"], ["red cat", "red cat"]))
    width, images = 64, 32
    assert len(one.fast.engine.tree()) == 4 + 4
    by_hand = 2 * 8 * 12 * width**2 - 4 * 3 * width**2 + 8 * 2 * width**2 + 10 * width**2
    by_hand += 2 * width * (2 * (2 + 3 + 4 + 5 + 6 + 7 + 8 + 9) + 9) + width * width + 4 * width * 8 + images * width
    assert multiply_adds(one.fast.engine, images, 8) == by_hand
    assert multiply_adds(twice.fast.engine, images, 8) == by_hand + images * width


def test_row_has_the_cost_and_error_of_a_gradient_by_tangents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tangent_costs, "multiplies_bfloat16_faster", lambda device: True)
    row = measure("eurosat", class_names("eurosat"), random_backbone(SMALL), 1, 1, generation=False, tangents=True)
    assert row["tangent_ratio_float32"] == pytest.approx(row["tangent_seconds_float32"] / row["cge_gradient_seconds_float32"])
    assert 0 < row["tangent_error_float32"] < 5e-6 < row["tangent_error_bfloat16"] < 2.5e-2
    assert row["tangent_cosine_bfloat16"] > 0.9995
    assert 1e-6 < row["cge_gradient_error_float32"] < 2e-3
    cells = tangent_costs.tangent_table([row]).splitlines()[-1].split(" | ")
    assert cells[0] == "| eurosat 10, 160"
    assert "–" not in cells


def test_bfloat16_is_not_timed_on_a_device_without_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tangent_costs, "multiplies_bfloat16_faster", lambda device: False)
    subject = make_subject(class_names("eurosat"), random_backbone(SMALL), 4, 1.0)
    row = tangent_costs.measure_tangents(subject.by_engine, subject.fast, subject.W[0], 1, 1)
    assert "tangent_ratio_float32" in row
    assert not any("bfloat16" in key for key in row)
