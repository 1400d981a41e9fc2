"""Notebook 06: what matters, measured. Group size, learning rate, temperature, difficulty, and other kinds of problems.

Every run differs from the run "as it is" in one thing, and samples the same number of completions.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from helpers.evaluation import Evaluation, grade
from helpers.policy import sample_completions
from helpers.problems import Problem
from helpers.profiles import Settings, profile_settings
from helpers.runtime import CourseError
from tools.record.loop import Row, Rows, Start, control, held_out_scores, prepare, run_by_run, settings_of, train

CURVES, SCORES, KINDS = FILES = ("what_matters_curves.csv", "what_matters_scores.csv", "what_matters_kinds.csv")
PROFILE = replace(profile_settings("tiny"), eval_samples=4)
# Before training, each problem is sampled so many times. "Rarely" and "mostly" are at most and at least so many right.
ATTEMPTS, RARELY, MOSTLY = 8, 2, 6
LISTS = ("xs", "xs, ys")  # the arguments of problems about lists of numbers


def changes(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return each run's settings that differ, and under "problems" which problems it is trained on."""
    per_step, rate = settings.completions_per_step, settings.learning_rate
    sizes = [size for size in (2, 4, 16) if per_step % size == 0]
    runs: dict[str, dict[str, Any]] = {"as it is": {}}
    runs |= {f"group size {size}": {"num_generations": size, "prompts_per_step": per_step // size} for size in sizes}
    runs |= {f"learning rate x {factor:g}": {"learning_rate": rate * factor} for factor in (0.003, 0.1, 0.3, 3, 10)}
    runs |= {f"temperature {temperature}": {"temperature": temperature} for temperature in (0.5, 0.75, 1.5)}
    runs |= {
        f"trained on: {name}": {"problems": name} for name in ("solved rarely", "solved sometimes", "solved mostly")
    }
    runs |= {f"trained on: {name}": {"problems": name} for name in ("lists", "all but lists")}
    return runs | {"random reward": {"reward": "random"}}


SETTINGS = settings_of(PROFILE, changes=changes(PROFILE), attempts=ATTEMPTS, rarely=RARELY, mostly=MOSTLY, lists=LISTS)


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Make the runs of `changes`. The kinds have the pass rates by kind of held-out problem."""
    return measure_with(replace(PROFILE, seed=seed))


def measure_with(settings: Settings) -> dict[str, pd.DataFrame]:
    """Make the runs of `changes`, from the same model."""
    start = prepare(settings)
    solved = _Solved(start)

    def run(change: dict[str, Any]) -> Rows:
        policy, options = start.fresh_policy(), dict(change)
        problems = solved.choose(options.pop("problems", "all"))
        made = control(options.pop("reward", "verifier"), settings.seed)
        curve = train(policy, start.tokenizer, problems, replace(settings, **options), made)
        scores, found = held_out_scores(start, policy)
        totals = {"training problems": len(problems), "train_seconds": sum(row["seconds"] for row in curve)}
        return {CURVES: curve, SCORES: [totals | scores], KINDS: by_kind(start.held_out, found)}

    def before() -> Rows:
        scores, found = held_out_scores(start, start.policy)
        nothing = {"training problems": 0, "train_seconds": 0.0}
        return {SCORES: [nothing | scores], KINDS: by_kind(start.held_out, found)}

    runs = {"before": before}
    runs |= {name: lambda change=change: run(change) for name, change in changes(settings).items()}
    return run_by_run("what-matters", settings, SETTINGS, FILES, runs)


class _Solved:
    """How often the untrained policy solves each training problem. It is measured when it is first asked for."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.counts: dict[str, int] = {}

    def choose(self, name: str) -> list[Problem]:
        """Return the training problems of one kind. Raises CourseError if they do not fill a step."""
        if name.startswith("solved") and not self.counts:
            self.counts = _count(self.start)
        keep = {
            "all": lambda problem: True,
            "lists": is_about_lists,
            "all but lists": lambda problem: not is_about_lists(problem),
            "solved rarely": lambda problem: 0 < self.counts[problem.task_id] <= RARELY,
            "solved sometimes": lambda problem: 0 < self.counts[problem.task_id] < ATTEMPTS,
            "solved mostly": lambda problem: MOSTLY <= self.counts[problem.task_id] < ATTEMPTS,
        }[name]
        chosen = [problem for problem in self.start.train if keep(problem)]
        if len(chosen) < self.start.settings.prompts_per_step:
            raise CourseError(f"There are {len(chosen)} training problems of the kind {name!r}, too few for a step.")
        return chosen


def _count(start: Start) -> dict[str, int]:
    """Return how many of ATTEMPTS completions solve each training problem."""
    prompts = [problem.prompt for problem in start.train]
    # The seed is none that training uses, so no completion here is one that a run will sample.
    options = {**start.settings.sampling, "seed": 2**31 + start.settings.seed}
    texts = sample_completions(start.policy, start.tokenizer, prompts, num_samples=ATTEMPTS, **options)
    return {problem.task_id: sum(ok) for problem, ok in zip(start.train, grade(start.train, texts), strict=True)}


def arguments_of(problem: Problem) -> str:
    """Return the arguments of the function that a problem asks for.

    >>> arguments_of(Problem("", "def f(xs, ys):\\n", "", "", "f"))
    'xs, ys'
    """
    found = re.search(rf"def {re.escape(problem.entry_point)}\((.*?)\)", problem.prompt)
    return found[1] if found else ""


def is_about_lists(problem: Problem) -> bool:
    """Return whether a problem is about one or two lists of numbers. The others: numbers, text, pairs, rows, dicts."""
    return arguments_of(problem) in LISTS


def by_kind(problems: Sequence[Problem], found: Evaluation) -> list[Row]:
    """Return the pass rates on the held-out problems by their arguments."""
    places = defaultdict(list)
    for place, problem in enumerate(problems):
        places[arguments_of(problem)].append(place)
    scores = {name: values for name, values in found.scores().items() if name in ("greedy", "pass@1")}
    return [
        {"arguments": kind, "lists": kind in LISTS, "problems": len(chosen)}
        | {name: float(values[chosen].mean()) for name, values in scores.items()}
        for kind, chosen in sorted(places.items())
    ]
