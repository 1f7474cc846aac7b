"""The model of scaling: bounds that hold for any measurement, and the committed tables of docs/scale-measured.md."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tools.maintain.scale_model import DEVICES, Machine, Run, machine_of, measured_table, model_table, run_of, shorter
from utils.config import REPOSITORY

MACHINE = Machine({1: 0.04, 2: 0.07, 42: 1.4}, points_per_pass=256, double=2.0, update=0.005, hop=1e-4)
RUN = Run(d=512, popsize=40, change_point=100, steps=20_000, interval=200, exact=False)


def test_one_device_pays_for_every_query_and_no_message() -> None:
    assert MACHINE.call(256, 1) == pytest.approx(1.4 * 256 / 42)
    assert MACHINE.call(1024, 1) == pytest.approx(4 * 1.4 * 256 / 42)
    assert MACHINE.call(2, 1) == 0.07
    assert MACHINE.call(2, 2) == 0.04 + 1e-4


def test_speed_up_ends_when_every_query_has_a_device() -> None:
    free = dataclasses.replace(MACHINE, hop=0.0, update=0.0)
    for devices in DEVICES:
        assert RUN.stage1(free, 1) / RUN.stage1(free, devices) <= devices * 1.2
    assert RUN.stage2(free, 2) == RUN.stage2(free, 512) == 0.04
    assert RUN.stage1(free, 1024) == RUN.stage1(free, 4096) == 0.08
    # with messages, more devices than queries only cost
    assert RUN.stage2(MACHINE, 512) > RUN.stage2(MACHINE, 2)


def test_float64_is_charged_for_small_steps() -> None:
    assert run_of("imagenet").exact and not run_of("eurosat").exact
    exact = dataclasses.replace(RUN, exact=True)
    more = exact.stage1(MACHINE, 8) - RUN.stage1(MACHINE, 8)
    assert more == pytest.approx(MACHINE.call(2 * RUN.d, 8))


def test_repeated_measurements_keep_the_shortest() -> None:
    before = {"ranks": {"2": {"1x1": 1.0, "2x1": 0.7}}}
    now = {"ranks": {"2": {"1x1": 1.1, "2x1": 0.6}}, "ranks_measured_at_load": 3.0}
    assert shorter(before, now) == {"ranks": {"2": {"1x1": 1.0, "2x1": 0.6}}, "ranks_measured_at_load": 3.0}
    assert shorter({}, now) == now
    assert shorter({"hop_seconds": 1e-4, **before}, {"hop_seconds": 2e-4}) == {"hop_seconds": 1e-4}


def test_committed_page_has_the_tables_of_the_committed_measurements() -> None:
    measured = json.loads((REPOSITORY / "docs" / "scale" / "measured.json").read_text())
    page = (REPOSITORY / "docs" / "scale-measured.md").read_text()
    assert model_table(measured).grid() in page
    assert measured_table(measured).grid() in page
    assert machine_of(measured, "eurosat").pass_seconds(1) < machine_of(measured, "imagenet").pass_seconds(1)
