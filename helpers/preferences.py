"""A learned reward, to set against a verifier: preference pairs, a reward model trained on them, best-of-n by it.

The pairs come from the verifier, with as much disagreement as one wants. Three seeds, as notebook 01 shows them:
`python -m helpers.preferences --output data/measurements/reward_model.csv`
"""

import argparse
import copy
import random
import sys
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.evaluation import bootstrap_interval, grade, pass_at_k
from helpers.policy import load_policy, sample_completions
from helpers.problems import Problem, load_problems, split_problems
from helpers.runtime import CourseError

LABEL_NOISE = 0.16  # two such labelers agree 73 % of the time, as InstructGPT's did: arXiv 2203.02155, section 3.4
LABELS = (30, 100, 300, 1000)
SIZES = (1, 2, 4, 8, 16, 32, 64)  # of n in best-of-n
ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")
CURVE = ("n", "score", "truth", "low", "high", "verifier")


class PreferencesError(CourseError, ValueError):
    """Pairs that cannot be made, or a file that is not to be written over."""


class Pair(NamedTuple):
    """Two completions of one prompt, and which of them the labeler preferred."""

    prompt: str
    chosen: str
    rejected: str


class Samples(NamedTuple):
    """Completions of some problems and whether they pass; every field holds one entry per problem."""

    problems: list[Problem]
    completions: list[list[str]]
    passed: list[list[bool]]


class RewardModel(nn.Module):
    """A language model whose last layer gives one number, the score of the whole text, instead of the next token."""

    def __init__(self, policy: PreTrainedModel) -> None:
        """Start from a copy of the policy's layers; every score is 0 until it is trained."""
        super().__init__()
        self.body = copy.deepcopy(policy.model)
        self.head = nn.Linear(policy.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores, shape (texts,), of token ids and mask, both (texts, tokens), padded on the right."""
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = attention_mask.sum(dim=1) - 1  # the end token, which has read all that stands before it
        return self.head(states[torch.arange(len(states)), last]).squeeze(-1)


def draw_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    num_samples: int,
    seed: int,
    max_completion_length: int = 56,
) -> Samples:
    """Sample at temperature 1 and let the verifier grade; `problems` in the order given."""
    prompts = [problem.prompt for problem in problems]
    limits = {"max_completion_length": max_completion_length, "seed": seed}
    completions = sample_completions(model, tokenizer, prompts, num_samples=num_samples, **limits)
    return Samples(list(problems), completions, grade(problems, completions))


def preference_pairs(samples: Samples, count: int, noise: float = LABEL_NOISE, seed: int = 0) -> list[Pair]:
    """`count` different pairs of a right and a wrong completion; with probability `noise` the wrong one is preferred.

    First comes one pair of each problem, then a second, so that few labels spread over many problems. The same seed
    gives the same pairs whatever the noise. Raises PreferencesError where there are fewer, or for such a noise.
    """
    if not 0 <= noise <= 1:
        raise PreferencesError(f"noise is a share between 0 and 1, not {noise}.")
    rng = random.Random(seed)
    drawn = []
    for problem, texts, passed in zip(*samples, strict=True):
        right, wrong = (
            sorted({text for text, ok in zip(texts, passed, strict=True) if ok is kind}) for kind in (True, False)
        )
        both = [(problem.prompt, good, bad) for good in right for bad in wrong]
        drawn += enumerate(rng.sample(both, len(both)))
    if len(drawn) < count:
        raise PreferencesError(f"{count} pairs were asked for, and the samples hold {len(drawn)}: draw more of them.")
    rng.shuffle(drawn)
    drawn.sort(key=lambda ranked: ranked[0])
    flips = [rng.random() < noise for _ in range(count)]
    pairs = [Pair(*pair) for _, pair in drawn[:count]]
    return [Pair(p.prompt, p.rejected, p.chosen) if flip else p for p, flip in zip(pairs, flips, strict=True)]


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of -log sigmoid(chosen - rejected) over pairs of scores (arXiv 2203.02155, eq. 1, for two)."""
    return -nn.functional.logsigmoid(chosen - rejected).mean()


def train_reward_model(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    learning_rate: float = 1e-3,
    batch_size: int = 8,
) -> RewardModel:
    """Train a reward model that starts from `policy`, all its weights, once through the pairs in their order.

    The rate was the best of 1e-4, 3e-4, 1e-3 and 2e-3 by pairwise accuracy, with 1,000 labels, noisy or not, on 200
    training problems that gave no labels. At this rate more passes help where all labels are right, and hurt where not.
    """
    model = RewardModel(policy).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        texts = [(p.prompt, p.chosen) for p in batch] + [(p.prompt, p.rejected) for p in batch]
        chosen, rejected = model(*encode(tokenizer, texts)).chunk(2)
        loss = bradley_terry_loss(chosen, rejected)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def scores_of(
    model: RewardModel, tokenizer: PreTrainedTokenizerBase, samples: Samples, batch_size: int = 128
) -> list[list[float]]:
    """The score of each completion, in the order of the samples; equal ones are scored once."""
    texts = {(problem.prompt, text) for problem, group in zip(*samples[:2], strict=True) for text in group}
    ordered = sorted(texts, key=lambda text: (len(text[0]) + len(text[1]), text))  # like lengths share a batch
    scores: dict[tuple[str, str], float] = {}
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        scores.update(zip(batch, model(*encode(tokenizer, batch)).tolist(), strict=True))
    return [[scores[p.prompt, text] for text in group] for p, group in zip(*samples[:2], strict=True)]


def pairwise_accuracy(scores: Sequence[float], passed: Sequence[bool]) -> float:
    """Share of the pairs (a right one, a wrong one) whose right one scores higher, a tie half; nan without a pair."""
    values, right = np.asarray(scores), np.asarray(passed, dtype=bool)
    gaps = values[right][:, None] - values[~right][None, :]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean()) if gaps.size else float("nan")


def best_of_n(scores: Sequence[float], values: Sequence[float], n: int) -> float:
    """Mean value of the highest score among n, over all ways to take n of the N given; what pass_at_k is for max.

    Sorted by score, the j-th highest is the best of comb(N - 1 - j, n - 1) of the comb(N, n) ways. Raises ValueError
    unless 1 <= n <= N.
    """
    total = len(scores)
    if not 1 <= n <= total:
        raise ValueError(f"n must lie between 1 and the number of samples {total}, not {n}.")
    order = sorted(range(total), key=lambda i: -scores[i])
    return sum(comb(total - 1 - rank, n - 1) * values[i] for rank, i in enumerate(order)) / comb(total, n)


def best_of_n_curve(scores: Sequence[Sequence[float]], passed: Sequence[Sequence[bool]]) -> pd.DataFrame:
    """One row per n of SIZES that the samples allow: the best by score, its mean score and how often it passes.

    Columns n, score, truth, low, high (95 % interval of the truth over problems), verifier (how often one of n passes).
    """
    rows = []
    pairs = list(zip(scores, passed, strict=True))
    for n in (size for size in SIZES if size <= min(map(len, scores))):
        truth = [best_of_n(group, right, n) for group, right in pairs]
        score = [best_of_n(group, group, n) for group, _ in pairs]
        verifier = [pass_at_k(len(right), sum(right), n) for _, right in pairs]
        rows.append((n, np.mean(score), np.mean(truth), *bootstrap_interval(truth), np.mean(verifier)))
    return pd.DataFrame(rows, columns=list(CURVE))


def mean_accuracy(scores: Sequence[Sequence[float]], passed: Sequence[Sequence[bool]]) -> tuple[float, float, float]:
    """Mean pairwise accuracy over the problems that hold a pair, and its 95 % interval: (mean, low, high)."""
    each = np.array([pairwise_accuracy(group, right) for group, right in zip(scores, passed, strict=True)])
    each = each[~np.isnan(each)]
    return float(each.mean()), *bootstrap_interval(each)


def measure(seed: int, noises: Sequence[float] = (0.0, LABEL_NOISE)) -> pd.DataFrame:
    """The experiment of notebook 01 on all held-out problems: one row per noise, number of labels and n."""
    policy, tokenizer = load_policy("data/tiny_coder")
    train, held_out = split_problems(load_problems("tiny"))
    labelled = draw_samples(policy, tokenizer, random.Random(seed).sample(train, 1100), 4, seed)
    tested = draw_samples(policy, tokenizer, held_out, max(SIZES), seed + 1)
    frames = []
    for noise in noises:
        pairs = preference_pairs(labelled, max(LABELS), noise, seed)
        for count in LABELS:
            scores = scores_of(train_reward_model(policy, tokenizer, pairs[:count]), tokenizer, tested)
            accuracy = dict(zip(ACCURACY, mean_accuracy(scores, tested.passed), strict=True))
            frame = best_of_n_curve(scores, tested.passed).assign(seed=seed, noise=noise, labels=count, **accuracy)
            frames.append(frame)
    return pd.concat(frames)[["seed", "noise", "labels", *ACCURACY, *CURVE]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.preferences", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="a CSV file, which must not be there yet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args(arguments)
    if chosen.output.exists():
        print(f"{chosen.output} is there already; remove it, or name another file.", file=sys.stderr)
        return 1
    pd.concat([measure(seed) for seed in chosen.seeds]).round(4).to_csv(chosen.output, index=False)
    return 0


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Ids and mask of (prompt, completion) texts; prompt and completion are tokenized apart, as they were sampled."""
    rows = [
        [*tokenizer(prompt)["input_ids"], *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        for prompt, text in texts
    ]
    batch = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


if __name__ == "__main__":
    sys.exit(main())
