"""Artifacts of real, tiny runs: base-to-new, the loss surface, peak memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.artifacts import finish, maker
from tools.common.names import OURS
from tools.common.runs import Job
from tools.reproduce.plans import PLANS, evaluation
from tools.reproduce.results import Results, harmonic
from tools.reproduce.suites import MINI, Cell


def test_prompt_of_base_classes_is_evaluated_on_new_ones_and_both_give_a_harmonic_mean(tmp_path: Path) -> None:
    import main_sharpzo

    tiny = {"intrinsic_dim": 4, "popsize": 4, "total_steps": 4, "change_point": 2, "prune_interval": 2, "shots": 1}
    trained = Cell(OURS, "digits, base", maker(tmp_path).job("digits", OURS, subsample_classes="base", **tiny))
    tested = evaluation(maker(tmp_path), trained, "digits", "new")._replace(column="digits, new")
    assert tested.phase > trained.phase
    for entry in (trained, tested):
        assert main_sharpzo.main(list(entry.job.flags)) == 0
        assert entry.job.state == "finished"
    found = Results.read([trained, tested])
    base, new = (found.values(OURS, f"digits, {half}")[1] for half in ("base", "new"))
    table = harmonic(found, ["digits"])
    assert table.rows == [["SharpZO", f"{base:.2f}; {new:.2f}; {2 * base * new / (base + new):.2f} (n = 1)"]]


def test_base_to_new_of_several_datasets_has_the_harmonic_mean_of_their_mean_halves(tmp_path: Path) -> None:
    shifts = {("digits", "base"): 0.0, ("digits", "new"): -10.0, ("textile", "base"): 8.0, ("textile", "new"): 20.0}
    entries = [entry for entry in PLANS["base2new"](maker(tmp_path, seeds=(1,))) if entry.row == OURS]
    for entry in entries:
        dataset, _, half = entry.column.partition(", ")
        if dataset != "openmoji":
            finish(entry.job, shifts[dataset, half])
    table = harmonic(Results.read(entries), MINI.datasets)
    assert table.columns == ["method", "digits", "textile", "mean of 2 sets"]
    means = [cell.replace(" (n = 1)", "") for cell in table.rows[0][1:]]
    assert means == ["72.00; 62.00; 66.63", "80.00; 92.00; 85.58", f"76.00; 77.00; {2 * 76 * 77 / (76 + 77):.2f}"]


def test_surface_and_memory_are_measured_on_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fig. 2b and the memory half of table 4, end to end on tiny stage-1 runs."""
    import main_sharpzo
    from tools.reproduce import memory, surface

    tiny = {"intrinsic_dim": 6, "popsize": 4, "total_steps": 5, "shots": 1, "rho": 5.0}
    jobs = []
    for name, extra in (("naive CMA-ES", {"smoothness_estimator": "none", "variant": "naive"}), ("sharpness-aware CMA-ES", {})):
        job = maker(tmp_path).job("digits", "cma-es", **(tiny | extra))
        assert main_sharpzo.main(list(job.flags)) == 0
        jobs.append((name, job))
    found = surface.surfaces(jobs, radius=1.0, side=3)
    for drawn in found.values():
        assert drawn["losses"].shape == (3, 3)
        assert drawn["losses"][1, 1] == pytest.approx(drawn["center"])
        assert list(drawn["rises"]) == list(surface.DISTANCES)
    assert found["naive CMA-ES"]["center"] != found["sharpness-aware CMA-ES"]["center"]

    def of(job: Job, device: str = "") -> memory.Measurement:
        return memory.Measurement(job, tmp_path / "memory", device)

    assert of(jobs[0][1]).take(run=False) is None
    figures = of(jobs[0][1]).take()
    assert figures["of"] == "process, CPU" and 100 < figures["mib"] < 20_000
    # measured once
    monkeypatch.setattr(memory.subprocess, "run", None)
    assert of(jobs[0][1], "cpu").take() == figures
    # of other settings it was not, nor on a card
    assert of(jobs[1][1]).take(run=False) is None
    monkeypatch.setattr(memory, "pick_device", lambda name: torch.device(name))
    assert of(jobs[0][1], "cuda:1").take(run=False) is None
