"""Notebook 01: what a policy learns from a learned reward and from the verifier, by GRPO and by PPO with a critic.

Six runs for each seed, all from the same model, on the same prompts, with the same number of completions.
"""

import copy
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.critic import RewardOf, Step, ValueModel, train_ppo
from helpers.evaluation import bootstrap_interval, grade
from helpers.policy import load_policy, sample_completions
from helpers.preferences import (
    LABEL_NOISE,
    MAX_COMPLETION_LENGTH,
    RewardModel,
    draw_samples,
    learned_reward,
    preference_pairs,
    scores_of,
    train_reward_model,
)
from helpers.problems import Problem, load_problems, split_problems
from helpers.rewards import compiles, random_reward

CURVES, PROGRAMS = FILES = ("learned_reward.csv", "learned_reward_programs.csv")
MODEL, PROBLEMS = "data/tiny_coder", "tiny"
LABELED_PROBLEMS, SAMPLES, LABELS = 1100, 4, 1000
STEPS, EVERY = 60, 15
TESTED_SAMPLES = 2  # of each held-out problem, at each evaluation
SHOWN = 12  # so many held-out problems, the first ones, have their greedy completions recorded
LOOP = {
    "prompts_per_step": 4,
    "num_generations": 8,
    "max_completion_length": MAX_COMPLETION_LENGTH,
    "learning_rate": 3.5e-4,
    "value_learning_rate": 1e-3,
    "gae_lambda": 0.95,
}
SETTINGS = {
    "model": MODEL,
    "problems": PROBLEMS,
    "noise": LABEL_NOISE,
    "labels": LABELS,
    "labeled problems": LABELED_PROBLEMS,
    "samples of each": SAMPLES,
    "steps": STEPS,
    "steps between evaluations": EVERY,
    "samples of each held-out problem": TESTED_SAMPLES,
    **LOOP,
}


class Run(NamedTuple):
    """One of the runs of a seed."""

    reward: str  # "learned", "verifier" or "random"
    method: str  # "GRPO" or "PPO"
    beta: float


RUNS = (
    Run("learned", "GRPO", 0.0),
    Run("learned", "GRPO", 0.3),
    Run("verifier", "GRPO", 0.0),
    Run("random", "GRPO", 0.0),
    Run("learned", "PPO", 0.3),
    Run("verifier", "PPO", 0.0),
)


class Start(NamedTuple):
    """What all runs of a seed start from."""

    seed: int
    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train: list[Problem]
    held_out: list[Problem]
    reward_model: RewardModel


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train all RUNS. The curves have a row for each run and evaluation."""
    start = prepare(seed)
    before = evaluation(start, start.policy)
    curves, programs = [], []
    for run in RUNS:
        name = {"seed": seed, **run._asdict()}
        for step, (scores, texts) in {0: before, **train(start, run)}.items():
            curves.append(name | {"step": step} | scores)
            shown = zip(start.held_out[:SHOWN], texts, strict=True)
            programs += [name | {"step": step, "task_id": p.task_id, "completion": text} for p, text in shown]
        print(f"Seed {seed}, {run}: {before[0]['truth']:.2f} to {scores['truth']:.2f} pass.", flush=True)
    return {CURVES: pd.DataFrame(curves), PROGRAMS: pd.DataFrame(programs)}


def prepare(seed: int) -> Start:
    """Load the policy and the problems, and train a reward model as notebook 01 does."""
    policy, tokenizer = load_policy(MODEL)
    train, held_out = split_problems(load_problems(PROBLEMS))
    asked = random.Random(seed).sample(train, LABELED_PROBLEMS)
    pairs = preference_pairs(draw_samples(policy, tokenizer, asked, SAMPLES, seed), LABELS, LABEL_NOISE, seed)
    return Start(seed, policy, tokenizer, train, held_out, train_reward_model(policy, tokenizer, pairs))


def train(start: Start, run: Run) -> dict[int, tuple[dict[str, float], list[str]]]:
    """Train a copy of the policy. Returns the evaluations by step."""
    policy, points = copy.deepcopy(start.policy), {}

    def after_step(step: Step) -> None:
        if step.step % EVERY == 0:
            points[step.step] = evaluation(start, policy)

    train_copy(start, run, policy, max_steps=STEPS, after_step=after_step)
    return points


def train_copy(start: Start, run: Run, policy: PreTrainedModel, **options: Any) -> list[Step]:
    """Train `policy`, a copy of the start's, as the run says. The options are those of `train_ppo`."""
    return train_ppo(
        policy,
        start.tokenizer,
        start.train,
        reward_of(start, run),
        critic=ValueModel(start.policy) if run.method == "PPO" else None,
        reference=start.policy if run.beta else None,
        beta=run.beta,
        seed=start.seed,
        **LOOP,
        **options,
    )


def reward_of(start: Start, run: Run) -> RewardOf:
    """Return the run's reward, as `train_ppo` calls it."""
    learned, step = learned_reward(start.reward_model, start.tokenizer), iter(range(10**9))

    def reward(problems: Sequence[Problem], texts: Sequence[str]) -> Sequence[float]:
        prompts = [problem.prompt for problem in problems]
        if run.reward == "learned":
            return learned(prompts, texts)
        if run.reward == "random":
            # The tosses depend on the step, as they do in GRPOTrainer.
            return random_reward(prompts, texts, seed=start.seed, trainer_state=SimpleNamespace(global_step=next(step)))
        return [float(ok) for [ok] in grade(problems, [[text] for text in texts])]

    return reward


def evaluation(start: Start, policy: PreTrainedModel) -> tuple[dict[str, float], list[str]]:
    """Return pass@1 of the held-out problems with its interval, the mean score, and the greedy completions of SHOWN.

    Every evaluation of a seed draws the same random numbers.
    """
    samples = draw_samples(policy, start.tokenizer, start.held_out, TESTED_SAMPLES, start.seed + 1)
    each = [float(np.mean(group)) for group in samples.passed]
    low, high = bootstrap_interval(each)
    learned = np.mean(scores_of(start.reward_model, start.tokenizer, samples))
    rows = [(problem, text) for problem, group in zip(*samples[:2], strict=True) for text in group]
    names = [problem.entry_point for problem, _ in rows]
    python = compiles([problem.prompt for problem, _ in rows], [text for _, text in rows], entry_point=names)
    scores = {"truth": np.mean(each), "low": low, "high": high, "score": learned, "python": np.mean(python)}
    prompts = [problem.prompt for problem in start.held_out[:SHOWN]]
    limits = {"temperature": 0.0, "max_completion_length": MAX_COMPLETION_LENGTH}
    return scores, [text for [text] in sample_completions(policy, start.tokenizer, prompts, **limits)]
