"""Learn a reward from preferences, to compare it with the verifier: pairs, a reward model, and best-of-n by its score.

The verifier plays the labelers: it prefers the completion that passes the tests, and errs as often as you choose.
`python -m tools.record reward-model` and `... learned-reward` run the whole experiments of notebook 01.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import comb
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.critic import ValueModel
from helpers.evaluation import bootstrap_interval, grade
from helpers.policy import pad_completions, per_token_logps, sample_completions
from helpers.problems import Problem
from helpers.runtime import CourseError

# If each of two labelers errs this often, they agree on 73% of the pairs, as InstructGPT's did (arXiv 2203.02155,
# section 3.4).
LABEL_NOISE = 0.16
SIZES = (1, 2, 4, 8, 16, 32, 64)
"""The values of n for best-of-n."""
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


class RewardModel(ValueModel):
    """A language model with a scalar head: instead of the next token it predicts one score for the whole text."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the scores of the texts, shape (texts,). Both inputs are (texts, tokens), padded on the right."""
        # The EOS token at the end attends to the whole text, so the score is read there.
        last = attention_mask.sum(dim=1) - 1
        return super().forward(input_ids, attention_mask)[torch.arange(len(last)), last]


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


def scores_of(model: RewardModel, tokenizer: PreTrainedTokenizerBase, samples: Samples) -> list[list[float]]:
    """Return the score of each completion, in the order of the samples. Equal completions are scored once."""
    return _once_for_each_text(samples, lambda texts: model(*encode(tokenizer, texts)))


def log_probabilities(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Samples
) -> list[list[float]]:
    """Return the log-probability of each completion under `policy`, its EOS token included, in the samples' order."""

    def of_texts(texts: Sequence[tuple[str, str]]) -> Tensor:
        prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in texts]
        completions = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for _, text in texts]
        batch = pad_completions(prompts, completions, tokenizer.pad_token_id)
        return (per_token_logps(policy, batch)[0] * batch.completion_mask).sum(1)

    return _once_for_each_text(samples, of_texts)


@torch.no_grad()
def _once_for_each_text(
    samples: Samples, numbers_of: Callable[[Sequence[tuple[str, str]]], Tensor]
) -> list[list[float]]:
    """Return a number for each completion, from a function of (prompt, completion) texts."""
    texts = {(problem.prompt, text) for problem, group in zip(*samples[:2], strict=True) for text in group}
    # Texts of similar length share a batch, which saves padding.
    ordered = sorted(texts, key=lambda text: (len(text[0]) + len(text[1]), text))
    numbers: dict[tuple[str, str], float] = {}
    for start in range(0, len(ordered), 128):
        batch = ordered[start : start + 128]
        numbers.update(zip(batch, numbers_of(batch).tolist(), strict=True))
    return [[numbers[p.prompt, text] for text in group] for p, group in zip(*samples[:2], strict=True)]


def learned_reward(model: RewardModel, tokenizer: PreTrainedTokenizerBase) -> Callable[..., list[float]]:
    """Return a reward function for TRL that gives each completion the score of `model`. Its name is learned_score."""

    def learned_score(prompts: Sequence[str], completions: Sequence[str], **kwargs: Any) -> list[float]:
        with torch.no_grad():
            return model(*encode(tokenizer, list(zip(prompts, completions, strict=True)))).tolist()

    return learned_score


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


def random_scores(samples: Samples, per: str, seed: int) -> list[list[float]]:
    """Return scores that know nothing: a random number per "text", the same for equal completions, or per "sample".

    >>> from helpers.problems import load_problems
    >>> samples = Samples(load_problems("tiny")[:1], [["a", "b", "a"]], [[True, False, True]])
    >>> [[first, _, third]] = random_scores(samples, "text", seed=0)
    >>> first == third
    True
    """
    if per not in ("text", "sample"):
        raise ValueError(f'per must be "text" or "sample", not {per!r}.')
    rng = random.Random(seed)
    scores = []
    for group in samples.completions:
        of_text = {text: rng.random() for text in dict.fromkeys(group)}
        scores.append([of_text[text] if per == "text" else rng.random() for text in group])
    return scores


def most_frequent_of_n(texts: Sequence[str], passed: Sequence[bool], n: int, draws: int = 200, seed: int = 0) -> float:
    """Return how often the text that is most frequent among n of the samples passes, over `draws` random draws of n.

    This is majority voting (arXiv 2203.11171) on whole texts. A tie goes to the text that was drawn first.

    >>> most_frequent_of_n(["a", "a", "b"], [True, True, False], n=3)
    1.0
    """
    right, rng = dict(zip(texts, passed, strict=True)), random.Random(seed)
    chosen = (Counter(rng.sample(texts, n)).most_common(1)[0][0] for _ in range(draws))
    return sum(right[text] for text in chosen) / draws


def compare_choosers(samples: Samples, scores: dict[str, Sequence[Sequence[float]]], draws: int = 10) -> pd.DataFrame:
    """Choose the best of n by each of the `scores` (name -> scores), and by the controls.

    Returns the columns chooser, n, truth (how often the chosen completion passes), low and high (its 95% interval over
    problems). The controls are a random number per text and per sample (each the mean of `draws` draws), the most
    frequent text, and the verifier.
    """
    choosers: dict[str, Callable[[int], np.ndarray]] = {}
    for name, given in scores.items():
        choosers[name] = partial(_chosen, [given], samples.passed)
    for per in ("text", "sample"):
        drawn = [random_scores(samples, per, seed) for seed in range(draws)]
        choosers[f"random number per {per}"] = partial(_chosen, drawn, samples.passed)
    choosers["most frequent text"] = lambda n: np.array(
        [most_frequent_of_n(texts, right, n) for _, texts, right in zip(*samples, strict=True)]
    )
    choosers["verifier"] = partial(_chosen, [samples.passed], samples.passed)
    sizes = [size for size in SIZES if size <= min(map(len, samples.completions))]
    rows: list[Any] = []
    for name, chooser in choosers.items():
        for n in sizes:
            each = chooser(n)
            rows.append((name, n, each.mean(), *bootstrap_interval(each)))
    return pd.DataFrame(rows, columns=["chooser", "n", "truth", "low", "high"])


def _chosen(draws: Sequence[Any], passed: Sequence[Sequence[bool]], n: int) -> np.ndarray:
    """Return how often the best of n by score passes, for each problem: the mean over several sets of scores."""
    each = [[best_of_n(group, ok, n) for group, ok in zip(scores, passed, strict=True)] for scores in draws]
    return np.mean(each, axis=0)


def with_log_probability(
    scores: Iterable[Sequence[float]], logps: Iterable[Sequence[float]], beta: float
) -> list[list[float]]:
    """Return score + beta * log-probability for each completion, as lists like the two given.

    RLHF's objective is the expected score minus beta times the KL divergence from the reference. The policy that
    maximises it gives most probability to the text for which this sum is highest (arXiv 2305.18290, equation 4).
    """
    pairs = zip(scores, logps, strict=True)
    return [[s + beta * p for s, p in zip(group, of_group, strict=True)] for group, of_group in pairs]
