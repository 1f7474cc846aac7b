"""The GPU check detects failures; tested on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from clip.tangents import Linearized
from tools.maintain.gpu_check.__main__ import collect, main, markdown
from tools.maintain.gpu_check.report import Report
from tools.maintain.gpu_check.values import check_gradients

CPU = torch.device("cpu")


def test_right_gradients_pass(tmp_path: Path) -> None:
    report = Report(tmp_path / "values.json")
    check_gradients(CPU, report)
    assert report["failures"] == []
    assert {"tangents float32", "tangents float64", "tangents bfloat16"} <= set(report["gradient_errors"])


def test_tangents_that_are_silently_zero_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slopes = Linearized.slopes

    def lost(self: Linearized, directions: Tensor, sensitivity: Tensor) -> Tensor:
        return 0 * slopes(self, directions, sensitivity)

    monkeypatch.setattr(Linearized, "slopes", lost)
    report = Report(tmp_path / "values.json")
    check_gradients(CPU, report)
    assert [failure.split(":")[0] for failure in report["failures"]] == [
        f"gradient by tangents {precision}" for precision in ("float32", "float64", "bfloat16")
    ]


def test_findings_are_stored_at_once_and_a_part_that_stops_is_a_failure(tmp_path: Path) -> None:
    report = Report(tmp_path / "values.json")
    report.note("feature_errors", {"float32": 1e-6})
    report.require(True, "never said")
    report.require(False, "too large")
    (tmp_path / "values.log").write_text("Traceback\nRuntimeError: no kernel image\n")
    found = collect(tmp_path, {"values": 1})
    assert found["values"]["feature_errors"] == {"float32": 1e-6}
    assert found["values"]["failures"] == [
        "too large",
        "values stopped with status 1: RuntimeError: no kernel image (see values.log)",
    ]
    text = markdown(found)
    assert "- values: too large" in text
    assert "All checks passed" not in text
    report.note("seconds", 1.0)
    report["failures"].clear()
    report.note("seconds", 1.0)
    assert "All checks passed." in markdown(collect(tmp_path, {"values": 0}))


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_missing_device_is_refused_in_one_line(device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", device, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --device: ")
    assert device in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
