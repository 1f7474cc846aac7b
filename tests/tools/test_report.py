"""The report is one page that opens without a network, shows the run's figures and raises no error in Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from main_sharpzo import main as run_main
from tests.helpers.runs import FLAGS
from tools.common.cells import Cell
from tools.report.__main__ import main
from tools.report.sweep import labels

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("one_mini")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, and a run that did not finish."""
    output = tmp_path_factory.mktemp("runs")
    for seed in ("1", "2", "3"):
        assert run_main([*FLAGS, "--seed", seed, "--eval_test", "--output_dir", str(output)]) == 0
    (third,) = output.rglob("seed3")
    (third / "result.json").unlink()
    return output


def report(folder: Path, output: Path) -> str:
    assert main([str(folder), "--output", str(output)]) == 0
    return output.read_text(encoding="utf-8")


def page_of_seed_1(runs: Path, output: Path) -> tuple[str, dict]:
    (folder,) = runs.rglob("seed1")
    return report(folder, output), json.loads((folder / "result.json").read_text())


def test_page_loads_nothing_and_is_small(runs: Path, tmp_path: Path) -> None:
    page, _ = page_of_seed_1(runs, tmp_path / "report.html")
    assert len(page.encode()) < 3_000_000
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "@import" not in page and "<script" not in page


def test_page_has_the_runs_numbers(runs: Path, tmp_path: Path) -> None:
    page, result = page_of_seed_1(runs, tmp_path / "report.html")
    assert f"{result['test_accuracy']:.2f}%" in page and f"{result['zero_shot_accuracy']:.2f}%" in page
    assert page.count("<svg") == 4 and page.count(">stage 2<") >= 4
    assert "<h1>SharpZO on digits, Mini</h1>" in page
    titles = re.findall(r'title="(\w+) as (\w+): (\d+)', page)
    right = sum(int(count) for truth, label, count in titles if truth == label)
    total = sum(int(count) for _, _, count in titles)
    assert total == 531 and 100 * right / total == pytest.approx(result["test_accuracy"])
    assert page.count('<img src="data:image/') == 24
    settings = page[page.index('id="settings"') :]
    assert "<td>shots</td>" in settings and "<td>momentum</td>" not in settings


def test_points_show_their_values(runs: Path, tmp_path: Path) -> None:
    page, result = page_of_seed_1(runs, tmp_path / "report.html")
    last = f"<title>test: {result['test_accuracy']:.4g} at {result['queries']:,} queries</title>"
    assert last in page
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_page_of_a_sweep_has_means_bands_and_what_did_not_finish(runs: Path, tmp_path: Path) -> None:
    page = report(runs, tmp_path / "sweep.html")
    accuracies = [json.loads(path.read_text())["test_accuracy"] for path in runs.rglob("result.json")]
    assert f"{sum(accuracies) / 2:.2f} ± " in page and "(n = 2)" in page and page.count("<svg") == 1
    failed = page[page.index('id="failed"') :]
    assert "seed3" in failed and "accuracy" in failed


def test_legend_of_a_sweep_names_what_its_curves_differ_in() -> None:
    one, other = Cell("Mini", 16, "sharpzo", "", "digits"), Cell("Mini-RN", 16, "sharpzo", "", "digits")
    assert labels([one, one._replace(method="bbt")]) == ["SharpZO", "BBT"]
    assert labels([one, other]) == ["SharpZO, Mini", "SharpZO, Mini-RN"]
    assert labels([one, other._replace(shots=4)]) == ["SharpZO, Mini, 16 shots", "SharpZO, Mini-RN, 4 shots"]


def test_run_without_its_prompt_still_has_its_curves(runs: Path, tmp_path: Path) -> None:
    (folder,) = runs.rglob("seed2")
    copy = tmp_path / "seed2"
    shutil.copytree(folder, copy)
    (copy / "prompt.safetensors").unlink()
    page = report(copy, tmp_path / "report.html")
    assert "are left out" in page and page.count("<svg") == 4 and 'id="confusion"' not in page


def test_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path), "--output", str(tmp_path / "report.html")]) == 2
    assert "not a run folder" in capsys.readouterr().err and not (tmp_path / "report.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
@pytest.mark.parametrize("size", ["390,844", "1280,900"])
def test_page_opens_in_chromium_without_a_complaint(size: str, runs: Path, tmp_path: Path) -> None:
    page_of_seed_1(runs, tmp_path / "report.html")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", *QUIET, profile, f"--window-size={size}", "--enable-logging=stderr"]
    url = (tmp_path / "report.html").as_uri()
    done = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=600)
    assert "CONSOLE" not in done.stderr and done.returncode == 0
    assert done.stdout.count("<svg") == 4 and done.stdout.count("<img ") == 24 and 'id="confusion"' in done.stdout
