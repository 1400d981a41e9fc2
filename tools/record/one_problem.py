"""Notebook 03: eleven updates on one problem that needs `>`, with and without a problem that needs `>=` next to it."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from transformers import PreTrainedModel

from helpers.evaluation import Evaluation, evaluate
from helpers.policy import sample_completions
from helpers.problems import Problem
from helpers.profiles import Settings, profile_settings
from tools.record.loop import Row, Rows, Start, control, prepare, run_by_run, settings_of, train, truth_of

CURVES, SCORES = FILES = ("one_problem_curves.csv", "one_problem_scores.csv")
UPDATES, SAMPLES = 11, 256
PROFILE = replace(profile_settings("tiny"), max_steps=UPDATES)
# Each problem with the beginning of a body after which the model chooses between the two operators, and the right one.
GREATER = ("tiny_train/16", "    return sum(6 * x for x in xs if x", " >")
AT_LEAST = ("tiny_train/12", "    return sum(x for x in xs if x", " >=")
# The problems of a run, how many of them are in each batch, and the reward.
RUNS = {
    "one problem": ([GREATER], 1, "verifier"),
    "both in each batch": ([GREATER, AT_LEAST], 2, "verifier"),
    "taking turns": ([GREATER, AT_LEAST], 1, "verifier"),
    "one problem, random reward": ([GREATER], 1, "random"),
}
SETTINGS = settings_of(PROFILE, runs=list(RUNS), samples_of_the_problem=SAMPLES)


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Make the updates of each of RUNS. The run "before" has the scores of the untrained model."""
    return measure_with(replace(PROFILE, seed=seed))


def measure_with(settings: Settings) -> dict[str, pd.DataFrame]:
    """Make the updates of each of RUNS, from the same model. The curves have the chances of the operators."""
    start = prepare(settings)

    def run(cases: Sequence[tuple[str, str, str]], per_batch: int, reward: str) -> Rows:
        policy = start.fresh_policy()
        problems = [_problem(start, case) for case in cases]
        # As many updates for each run. With both problems in a batch, an update has twice the completions.
        own = replace(settings, prompts_per_step=per_batch)
        made = control(reward, settings.seed)
        curve = train(policy, start.tokenizer, problems, own, made, watch=lambda model: chances(start, model))
        return {CURVES: [{"step": 0} | chances(start, start.policy), *curve], SCORES: [_scores(start, policy)]}

    runs = {"before": lambda: {SCORES: [_scores(start, start.policy)]}}
    runs |= {name: lambda given=given: run(*given) for name, given in RUNS.items()}
    return run_by_run("one-problem", settings, SETTINGS, FILES, runs)


def chances(start: Start, model: PreTrainedModel) -> Row:
    """Return the probability of each operator at the fork of each of the two problems."""
    found: Row = {}
    for name, case in {"greater": GREATER, "at least": AT_LEAST}.items():
        ids = [id for text in (_problem(start, case).prompt, case[1]) for id in start.tokenizer(text)["input_ids"]]
        with torch.no_grad():
            probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
        for operator in (GREATER[2], AT_LEAST[2]):
            [token] = start.tokenizer(operator)["input_ids"]
            found[f"{operator.strip()} in {name}"] = probabilities[token].item()
    return found


def _scores(start: Start, policy: PreTrainedModel) -> Row:
    """Return the pass rates on the two problems, and of greedy decoding on the held-out problems, by operator."""
    scores: Row = {}
    options = {"max_completion_length": start.settings.max_completion_length, "seed": start.settings.seed}
    for name, case in {"greater": GREATER, "at least": AT_LEAST}.items():
        problem = _problem(start, case)
        [texts] = sample_completions(policy, start.tokenizer, [problem.prompt], num_samples=SAMPLES, **options)
        scores[f"passed in {name}"] = sum(truth_of([problem] * SAMPLES, texts)) / SAMPLES
    found = evaluate(policy, start.tokenizer, start.held_out, num_samples=0, **start.settings.sampling)
    scores["greedy"] = sum(found.greedy) / len(found.greedy)
    for operator in (GREATER[2], AT_LEAST[2]):
        scores |= _with_operator(start.held_out, found, f"{operator} ")
    return scores


def _with_operator(problems: Sequence[Problem], found: Evaluation, operator: str) -> Row:
    """Return how many held-out solutions need an operator, how many answers write it, and how many of those pass."""
    needed = [passed for problem, passed in zip(problems, found.greedy, strict=True) if _needs(problem, operator)]
    written = sum(operator in text for text in found.greedy_completions)
    name = operator.strip()
    return {f"{name} needed": len(needed), f"{name} needed and passed": sum(needed), f"{name} written": written}


def _needs(problem: Problem, operator: str) -> bool:
    return operator in problem.canonical_solution


def _problem(start: Start, case: tuple[str, str, str]) -> Problem:
    return next(problem for problem in start.train if problem.task_id == case[0])
