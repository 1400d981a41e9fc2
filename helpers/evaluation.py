"""Evaluation on held-out problems: pass@k, bootstrap intervals, and before/after comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.policy import sample_completions
from helpers.problems import Problem, prompt_of
from helpers.rewards import passes_tests
from helpers.samples import write_samples as write_samples
from helpers.verifier import GradingError


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples is right, from c right ones among n.

    1 - C(n-c, k) / C(n, k), arXiv 2107.03374 section 2.1. (1 - (1 - c/n)**k is biased low.) Raises ValueError
    unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= c <= n:
        raise ValueError(f"c, the number of right samples, must lie between 0 and n = {n}, not {c}.")
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and the number of samples n = {n}, not {k}.")
    return 1 - comb(n - c, k) / comb(n, k)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`, one value per problem (Efron 1979).

    It answers: how far would the mean move, had other problems of the same kind been drawn? Where all values are
    equal it has width zero, which understates: after N problems without a failure, up to about 3/N may still fail.
    Raises ValueError for no values or a level outside (0, 1).
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError("An interval needs one value for each of at least one problem.")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}.")
    drawn = np.random.default_rng(seed).integers(0, values.size, (resamples, values.size))
    low, high = np.quantile(values[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(
    before: Sequence[float], after: Sequence[float], level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the mean of `after - before`, both on the same problems in the same order.

    Pairing removes what makes a problem easy or hard for both, so it is narrower than two separate intervals.
    Raises ValueError where the lengths differ.
    """
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if before.shape != after.shape:
        raise ValueError(f"Pairs need the same problems: {before.size} before, {after.size} after.")
    return bootstrap_interval(after - before, level, resamples, seed)


@dataclass(frozen=True)
class Evaluation:
    """What one policy wrote for each problem, and what passed; every field holds one entry per problem."""

    task_ids: tuple[str, ...]
    greedy_completions: tuple[str, ...]
    greedy: tuple[bool, ...]
    completions: tuple[tuple[str, ...], ...]
    passed: tuple[tuple[bool, ...], ...]
    temperature: float

    @property
    def num_samples(self) -> int:
        """Samples per problem."""
        return len(self.passed[0])

    @property
    def correct(self) -> tuple[int, ...]:
        """Number of right samples, per problem."""
        return tuple(sum(samples) for samples in self.passed)

    def pass_at(self, k: int) -> np.ndarray:
        """pass@k of each problem, shape (problems,)."""
        return np.array([pass_at_k(self.num_samples, c, k) for c in self.correct])

    def scores(self) -> dict[str, np.ndarray]:
        """Scores per problem under "greedy", "pass@1" and, from 8 samples on, "pass@8"."""
        scores = {"greedy": np.array(self.greedy, dtype=float)}
        scores.update({f"pass@{k}": self.pass_at(k) for k in (1, 8) if k <= self.num_samples})
        return scores

    def summary(self) -> dict[str, object]:
        """Means over problems with their 95 % intervals, as in result.json."""
        scores = self.scores()
        return {
            **{name: float(values.mean()) for name, values in scores.items()},
            "interval": {name: list(bootstrap_interval(values)) for name, values in scores.items()},
            "problems": len(self.task_ids),
            "samples": self.num_samples,
            "temperature": self.temperature,
        }

    def pass_at_k_curve(self) -> pd.DataFrame:
        """One row per k from 1 to the number of samples: k, pass@k, low, high (95 % interval)."""
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
    conversational: bool = False,
    progress: Any = None,
    **sampling: Any,
) -> Evaluation:
    """Measure a policy: one greedy completion and `num_samples` sampled ones per problem, all graded by the tests.

    `conversational` asks in a user's message, through the chat template. `sampling` goes to `sample_completion_ids`:
    `settings.sampling`, or at least `max_completion_length`. Raises ValueError for no problems, GradingError where
    the verifier could not grade.
    """
    if not problems:
        raise ValueError("There are no problems to evaluate on.")
    prompts = [prompt_of(problem, conversational) for problem in problems]
    greedy = sample_completions(model, tokenizer, prompts, temperature=0, **sampling)
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


def print_progress() -> Any:  # TEMP
    return None


def grade(problems: Sequence[Problem], completions: Sequence[Sequence[str]]) -> list[list[bool]]:
    """Run the tests on completions[i] of problems[i]; equal completions of a problem are run once.

    Raises GradingError where the verifier itself failed: an unknown verdict is not a wrong program.
    """
    programs = list(dict.fromkeys((i, text) for i, texts in enumerate(completions) for text in texts))
    owners = [problems[i] for i, _ in programs]
    rewards = passes_tests(
        prompts=[problem.prompt for problem in owners],
        completions=[text for _, text in programs],
        test=[problem.test for problem in owners],
        entry_point=[problem.entry_point for problem in owners],
        code_prompt=[problem.prompt for problem in owners],
    )
    ungraded = sum(reward is None for reward in rewards)
    if ungraded:
        raise GradingError(f"The verifier could not grade {ungraded} of {len(programs)} programs; no score is honest.")
    passed = {program: reward == 1 for program, reward in zip(programs, rewards, strict=True)}
    return [[passed[i, text] for text in texts] for i, texts in enumerate(completions)]


def compare(before: Evaluation, after: Evaluation) -> dict[str, dict[str, object]]:
    """Mean change of each score and its 95 % interval, paired over problems.

    Raises ValueError where the two were not measured on the same problems in the same order.
    """
    if before.task_ids != after.task_ids:
        raise ValueError("Before and after were measured on different problems.")
    old, new = before.scores(), after.scores()
    changes = {name: (old[name], new[name]) for name in old if name in new}
    return {
        name: {"difference": float((b - a).mean()), "interval": list(paired_interval(a, b))}
        for name, (a, b) in changes.items()
    }


def smallest_gain(before: Evaluation) -> dict[str, float]:
    """The smallest true gain of "greedy" and of "pass@1" that a second evaluation like `before` would show.

    2.8 standard errors of the difference: 80 % of gains of this size come out beyond 1.96 of them, the 5 % level
    (1.96 + 0.84; Cohen 1988). The noise is the sampling's, on these very problems: the variance of the difference is
    2 p(1-p)/n per problem over N squared, p(1-p) estimated without bias from the n samples. Greedy answers have no
    spread to measure: each is taken as one draw with the same p, a cautious assumption. The result is never below
    3/(N n), what may pass though it never did (the rule of three, JAMA 249:1743).
    """
    n, problems = before.num_samples, len(before.task_ids)
    p = np.array(before.correct) / n
    spread = float((p * (1 - p)).sum()) * n / (n - 1)
    draws = {"greedy": 1, "pass@1": n}
    return {name: max(2.8 * sqrt(2 * spread / draw) / problems, 3 / (problems * draw)) for name, draw in draws.items()}


def temperature_sweep(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    temperatures: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25),
    num_samples: int = 4,
    conversational: bool = False,
    **sampling: Any,
) -> pd.DataFrame:
    """pass@1 at each temperature (0 is greedy, one sample): columns temperature, pass@1, low, high (95 % interval).

    `conversational` and `sampling` as for `evaluate`.
    """
    prompts = [prompt_of(problem, conversational) for problem in problems]
    rows = []
    for temperature in temperatures:
        samples = num_samples if temperature else 1
        completions = sample_completions(
            model, tokenizer, prompts, num_samples=samples, temperature=temperature, **sampling
        )
        shares = [sum(passed) / samples for passed in grade(problems, completions)]
        rows.append((temperature, float(np.mean(shares)), *bootstrap_interval(shares)))
    return pd.DataFrame(rows, columns=["temperature", "pass@1", "low", "high"])
