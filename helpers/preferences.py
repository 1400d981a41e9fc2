"""Learn a reward from preferences, to compare it with the verifier: pairs, a reward model, and best-of-n by its score.

The verifier plays the labelers: it prefers the completion that passes the tests, and errs as often as you choose.
`python -m tools.record reward-model` runs the whole experiment of notebook 01.
"""

import copy
import random
from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.evaluation import bootstrap_interval, grade, pass_at_k
from helpers.policy import sample_completions
from helpers.problems import Problem
from helpers.runtime import CourseError

# If each of two labelers errs this often, they agree on 73% of the pairs, as InstructGPT's did (arXiv 2203.02155,
# section 3.4).
LABEL_NOISE = 0.16
SIZES = (1, 2, 4, 8, 16, 32, 64)
"""The values of n for best-of-n."""
CURVE = ("n", "score", "truth", "low", "high", "verifier")
"""The columns of `best_of_n_curve`."""
BATCH = 8  # pairs in a step of training
MAX_COMPLETION_LENGTH = 56  # tokens


class PreferencesError(CourseError, ValueError):
    """The requested pairs cannot be made."""


class Pair(NamedTuple):
    """Two completions of one prompt, and which of the two the labeler preferred."""

    prompt: str
    chosen: str
    rejected: str


class Samples(NamedTuple):
    """Completions of some problems, and whether they pass. Each field has one entry per problem."""

    problems: list[Problem]
    completions: list[list[str]]
    passed: list[list[bool]]


class RewardModel(nn.Module):
    """A language model with a scalar head: instead of the next token it predicts one score for the whole text."""

    def __init__(self, policy: PreTrainedModel) -> None:
        """Copy the policy's layers. The head starts at 0, so every score is 0 before training."""
        super().__init__()
        self.body = copy.deepcopy(policy.model)
        self.head = nn.Linear(policy.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the scores of the texts, shape (texts,). Both inputs are (texts, tokens), padded on the right."""
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        # The EOS token at the end attends to the whole text, so the score is read there.
        last = attention_mask.sum(dim=1) - 1
        return self.head(states[torch.arange(len(states)), last]).squeeze(-1)


def draw_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], num_samples: int, seed: int
) -> Samples:
    """Sample completions at temperature 1 and let the verifier grade them."""
    prompts = [problem.prompt for problem in problems]
    limits = {"max_completion_length": MAX_COMPLETION_LENGTH, "seed": seed}
    completions = sample_completions(model, tokenizer, prompts, num_samples=num_samples, **limits)
    return Samples(list(problems), completions, grade(problems, completions))


def preference_pairs(samples: Samples, count: int, noise: float = LABEL_NOISE, seed: int = 0) -> list[Pair]:
    """Make `count` different pairs of a correct and a wrong completion of the same problem.

    With probability `noise`, the labeler errs and prefers the wrong one. Each problem gives one pair before any gives a
    second, so that few labels cover many problems. The same seed gives the same pairs, whatever the noise. Raises
    PreferencesError if the samples contain fewer pairs, or if `noise` is not a probability.

    >>> from helpers.problems import load_problems
    >>> samples = Samples(load_problems("tiny")[:1], [["right", "wrong"]], [[True, False]])
    >>> [pair] = preference_pairs(samples, 1, noise=0.0)
    >>> pair.chosen, pair.rejected
    ('right', 'wrong')
    """
    if not 0 <= noise <= 1:
        raise PreferencesError(f"noise is a probability, so it lies between 0 and 1; got {noise}.")
    rng = random.Random(seed)
    ranked: list[tuple[int, Pair]] = []
    for problem, texts, passed in zip(*samples, strict=True):
        # The dictionary removes repeated completions. Sorting makes the result depend on the seed alone.
        verdicts = sorted(dict(zip(texts, passed, strict=True)).items())
        right, wrong = ([text for text, ok in verdicts if ok is kind] for kind in (True, False))
        both = [Pair(problem.prompt, good, bad) for good in right for bad in wrong]
        ranked += enumerate(rng.sample(both, len(both)))
    if len(ranked) < count:
        raise PreferencesError(f"Cannot make {count} pairs: the samples contain only {len(ranked)}. Draw more samples.")
    rng.shuffle(ranked)
    # Put the first pair of every problem first. The sort is stable, so the problems stay shuffled within each rank.
    ranked.sort(key=lambda entry: entry[0])
    pairs = [pair for _, pair in ranked[:count]]
    return [Pair(p.prompt, p.rejected, p.chosen) if rng.random() < noise else p for p in pairs]


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return the mean of -log sigmoid(chosen - rejected) over pairs of scores (arXiv 2203.02155, equation 1, K = 2).

    >>> bradley_terry_loss(torch.tensor([1.0]), torch.tensor([1.0]))
    tensor(0.6931)
    """
    return -nn.functional.logsigmoid(chosen - rejected).mean()


def train_reward_model(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], *, learning_rate: float = 1e-3
) -> RewardModel:
    """Train a reward model that starts as a copy of `policy`. All weights are trained, and each pair is used once.

    We tried learning rates of 1e-4, 3e-4, 1e-3 and 2e-3 with 1,000 labels, with and without noise. 1e-3 had the best
    pairwise accuracy on 200 training problems without labels. At this rate, further passes over the pairs help if all
    labels are correct, and hurt if they are noisy.
    """
    model = RewardModel(policy).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        texts = [(p.prompt, p.chosen) for p in batch] + [(p.prompt, p.rejected) for p in batch]
        chosen, rejected = model(*encode(tokenizer, texts)).chunk(2)
        loss = bradley_terry_loss(chosen, rejected)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def scores_of(model: RewardModel, tokenizer: PreTrainedTokenizerBase, samples: Samples) -> list[list[float]]:
    """Return the score of each completion, in the order of the samples. Equal completions are scored once."""
    texts = {(problem.prompt, text) for problem, group in zip(*samples[:2], strict=True) for text in group}
    # Texts of similar length share a batch, which saves padding.
    ordered = sorted(texts, key=lambda text: (len(text[0]) + len(text[1]), text))
    scores: dict[tuple[str, str], float] = {}
    for start in range(0, len(ordered), 128):
        batch = ordered[start : start + 128]
        scores.update(zip(batch, model(*encode(tokenizer, batch)).tolist(), strict=True))
    return [[scores[p.prompt, text] for text in group] for p, group in zip(*samples[:2], strict=True)]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, both (texts, tokens), of (prompt, completion) texts.

    Prompt and completion are tokenized separately, because the completion was sampled after the prompt's tokens.
    """
    rows = [
        [*tokenizer(prompt)["input_ids"], *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        for prompt, text in texts
    ]
    batch = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def pairwise_accuracy(scores: Sequence[float], passed: Sequence[bool]) -> float:
    """Return the fraction of (correct, wrong) pairs in which the correct completion has the higher score.

    A tie counts as one half. If there is no such pair, the result is nan.

    >>> pairwise_accuracy([2.0, 1.5, 0.5, -1.0], [False, True, True, False])
    0.5
    """
    values, right = np.asarray(scores), np.asarray(passed, dtype=bool)
    gaps = values[right][:, None] - values[~right][None, :]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean()) if gaps.size else float("nan")


def mean_accuracy(scores: Sequence[Sequence[float]], passed: Sequence[Sequence[bool]]) -> tuple[float, float, float]:
    """Return the mean pairwise accuracy of the problems that have a pair, and its 95% interval: (mean, low, high)."""
    each = np.array([pairwise_accuracy(group, right) for group, right in zip(scores, passed, strict=True)])
    each = each[~np.isnan(each)]
    return float(each.mean()), *bootstrap_interval(each)


def best_of_n(scores: Sequence[float], values: Sequence[float], n: int) -> float:
    """Return the expected value of the sample with the highest score among n, drawn from the N given.

    This is exact, as pass@k is: sorted by score, the sample of rank j (from 0) is the best in comb(N - 1 - j, n - 1)
    of the comb(N, n) ways to draw n. Raises ValueError unless 1 <= n <= N.

    >>> best_of_n([0.2, 0.9, 0.4], [0.0, 1.0, 0.0], n=2)
    0.6666666666666666
    """
    total = len(scores)
    if not 1 <= n <= total:
        raise ValueError(f"n must lie between 1 and the number of samples {total}, not {n}.")
    order = sorted(range(total), key=lambda i: -scores[i])
    return sum(comb(total - 1 - rank, n - 1) * values[i] for rank, i in enumerate(order)) / comb(total, n)


def best_of_n_curve(scores: Sequence[Sequence[float]], passed: Sequence[Sequence[bool]]) -> pd.DataFrame:
    """Choose the best of n by score, and return how often it passes: a row for each n in SIZES that the samples allow.

    The columns are n, the mean score of the chosen completion, the truth (how often it passes), low and high (the 95%
    interval of the truth over problems), and verifier (how often at least one of the n passes).
    """
    rows = []
    pairs = list(zip(scores, passed, strict=True))
    for n in (size for size in SIZES if size <= min(map(len, scores))):
        truth = [best_of_n(group, right, n) for group, right in pairs]
        score = [best_of_n(group, group, n) for group, _ in pairs]
        verifier = [pass_at_k(len(right), sum(right), n) for _, right in pairs]
        rows.append((n, np.mean(score), np.mean(truth), *bootstrap_interval(truth), np.mean(verifier)))
    return pd.DataFrame(rows, columns=list(CURVE))
