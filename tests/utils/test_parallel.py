"""Work in threads: in order, even if the system starts few threads or none."""

from __future__ import annotations

import threading

import pytest

from utils.parallel import parallel_map


@pytest.mark.parametrize("startable", [0, 1, 100])
def test_results_come_in_order_however_few_threads_start(startable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def limited(self: threading.Thread) -> None:
        if len(started) >= startable:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr("utils.parallel.usable_cores", lambda: 4)
    monkeypatch.setattr(threading.Thread, "start", limited)
    assert list(parallel_map(lambda n: n * n, range(50), ahead=8)) == [n * n for n in range(50)]
