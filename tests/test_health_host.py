from __future__ import annotations

import threading
from pathlib import Path

from edge_agent.health.host import HostProbe, clock_synchronised


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_this_machine(tmp_path: Path) -> None:
    clock = Clock()
    probe = HostProbe(tmp_path, clock=clock)
    sum(range(10**6))  # some work, so that the shares mean something
    clock.now = 2.0
    seen = probe.sample()
    assert seen.rss_bytes is not None
    assert 5 << 20 < seen.rss_bytes < 4 << 30
    assert seen.ram_total_bytes is not None and seen.ram_available_bytes is not None
    assert 0 < seen.ram_available_bytes <= seen.ram_total_bytes
    assert seen.disk_total_bytes is not None and seen.disk_free_bytes is not None
    assert 0 < seen.disk_free_bytes <= seen.disk_total_bytes
    assert seen.process_cpu_pct is not None and seen.process_cpu_pct >= 0
    assert seen.cpu_pct is None or 0 <= seen.cpu_pct <= 100
    clock.now = 2.5
    assert probe.sample() is seen  # not measured again so soon
    clock.now = 3.5
    assert probe.sample() is not seen


def fake_proc(root: Path, ticks: str) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text(f"cpu  {ticks} 0 0\ncpu0 1 2 3\n")
    (root / "proc/meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   250 kB\n")


def test_cpu_is_the_share_between_two_samples(tmp_path: Path) -> None:
    clock = Clock()
    fake_proc(tmp_path, "100 0 100 800 0 0 0 0")
    probe = HostProbe(tmp_path, root=tmp_path, clock=clock)
    fake_proc(tmp_path, "120 0 110 860 10 0 0 0")  # 30 busy, 60 idle, 10 waiting for the disk
    clock.now = 5.0
    seen = probe.sample()
    assert seen.cpu_pct == 30.0
    assert (seen.ram_total_bytes, seen.ram_available_bytes) == (1_024_000, 256_000)


def test_nothing_readable_is_none(tmp_path: Path) -> None:
    seen = HostProbe(tmp_path / "gone", root=tmp_path).sample()
    assert (seen.cpu_pct, seen.ram_total_bytes, seen.disk_free_bytes) == (None, None, None)


def test_the_clock_question_is_answered_without_privilege() -> None:
    assert clock_synchronised() in {True, False, None}


def test_many_threads_may_sample(tmp_path: Path) -> None:
    probe = HostProbe(tmp_path, min_interval_s=0.0)
    before = len(list(Path("/proc/self/fd").iterdir()))
    threads = [threading.Thread(target=lambda: [probe.sample() for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
