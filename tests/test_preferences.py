"""The learned reward: pairs, loss, scores, best-of-n, and what is recorded of it."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from random_policy import arithmetic_problems, save_random_policy

from helpers import preferences
from helpers.evaluation import pass_at_k
from helpers.policy import load_policy
from helpers.preferences import (
    Pair,
    PreferencesError,
    RewardModel,
    Samples,
    best_of_n,
    best_of_n_curve,
    bradley_terry_loss,
    mean_accuracy,
    pairwise_accuracy,
    preference_pairs,
    scores_of,
    train_reward_model,
)
from tools.record import reward_model


@pytest.fixture(scope="module")
def samples():
    texts = [f"    return {name}\n" for name in ("a + b", "b + a", "a", "b", "1")]
    problems = arithmetic_problems()
    return Samples(problems, [[*texts, texts[0]] for _ in problems], [[True, True, False, False, False, True]] * 6)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(save_random_policy(tmp_path_factory.mktemp("policy")))


def test_the_loss_is_the_cross_entropy_of_the_gap():
    chosen, rejected = torch.randn(2, 50).requires_grad_()
    gap = chosen - rejected
    expected = torch.nn.functional.binary_cross_entropy_with_logits(gap, torch.ones_like(gap))
    assert torch.allclose(bradley_terry_loss(chosen, rejected), expected, atol=1e-6)
    # Raising what was chosen lowers the loss, and scores far apart stay finite.
    assert torch.autograd.grad(bradley_terry_loss(chosen, rejected), chosen)[0].max() < 0
    assert bradley_terry_loss(torch.tensor([-200.0]), torch.tensor([0.0])).item() == 200


def test_pairs_prefer_what_passes_and_spread_over_problems(samples):
    pairs = preference_pairs(samples, 36, noise=0)
    assert len(set(pairs)) == 36  # 6 problems x 2 right x 3 wrong ones, equal completions counted once
    assert all(pair.chosen in samples.completions[0][:2] for pair in pairs)
    assert all(pair.rejected in samples.completions[0][2:5] for pair in pairs)
    assert len({pair.prompt for pair in pairs[:6]}) == len({pair.prompt for pair in pairs[6:12]}) == 6


def test_noise_swaps_its_share_of_the_same_pairs(samples):
    clean, noisy = (preference_pairs(samples, 36, noise=noise, seed=3) for noise in (0, 0.25))
    swapped = [Pair(p.prompt, p.rejected, p.chosen) == q for p, q in zip(clean, noisy, strict=True)]
    assert all(swap or p == q for swap, p, q in zip(swapped, clean, noisy, strict=True))
    assert 0.15 < np.mean(swapped) < 0.35
    assert preference_pairs(samples, 36, seed=4) != preference_pairs(samples, 36, seed=3)


def test_pairs_that_cannot_be_had_are_refused(samples):
    with pytest.raises(PreferencesError, match="Cannot make 37 pairs: the samples contain only 36"):
        preference_pairs(samples, 37)
    with pytest.raises(PreferencesError, match=r"between 0 and 1; got 1.5"):
        preference_pairs(samples, 1, noise=1.5)


def test_the_default_noise_is_that_of_labelers_who_agree_as_often_as_instructgpts():
    right = 1 - preferences.LABEL_NOISE
    assert right**2 + (1 - right) ** 2 == pytest.approx(0.726, abs=0.015)  # 72.6 +- 1.5 %


def test_a_reward_model_learns_which_is_preferred(samples, policy):
    pairs = 2 * preference_pairs(samples, 36, noise=0)
    assert set(np.ravel(scores_of(RewardModel(policy[0]).eval(), policy[1], samples))) == {0.0}
    kept = {name: weight.clone() for name, weight in policy[0].state_dict().items()}
    model = train_reward_model(*policy, pairs, learning_rate=3e-3)
    assert not model.training
    assert mean_accuracy(scores_of(model, policy[1], samples), samples.passed)[0] > 0.9
    assert all(torch.equal(weight, kept[name]) for name, weight in policy[0].state_dict().items()), "it is a copy"
    opposite = [Pair(p.prompt, p.rejected, p.chosen) for p in pairs]
    model = train_reward_model(*policy, opposite, learning_rate=3e-3)
    assert mean_accuracy(scores_of(model, policy[1], samples), samples.passed)[0] < 0.1


def test_scores_do_not_depend_on_what_shares_the_batch(samples, policy):
    model = RewardModel(policy[0]).eval()
    torch.nn.init.normal_(model.head.weight)
    together = scores_of(model, policy[1], samples)
    for problem, texts, scores in zip(samples.problems, samples.completions, together, strict=True):
        for text, score in zip(texts, scores, strict=True):
            alone = scores_of(model, policy[1], Samples([problem], [[text]], [[True]]))
            assert alone[0][0] == pytest.approx(score, abs=1e-4)
    assert together[0][0] == together[0][5] and len(set(together[0])) == 5


def test_pairwise_accuracy_counts_ties_half():
    assert pairwise_accuracy([3, 1, 2, 3], [True, True, False, False]) == (1 + 0.5 + 0 + 0) / 4
    assert np.isnan(pairwise_accuracy([1, 2], [True, True]))
    scores, passed = [[2, 1], [1, 2], [5, 6]], [[True, False], [True, False], [True, True]]
    assert mean_accuracy(scores, passed)[0] == 0.5


def test_best_of_n_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    scores, values = rng.normal(size=9).tolist(), rng.normal(size=9).tolist()
    for n in range(1, 10):
        best = [values[max(chosen, key=lambda i: scores[i])] for chosen in combinations(range(9), n)]
        assert best_of_n(scores, values, n) == pytest.approx(np.mean(best))
    for n in (0, 10):
        with pytest.raises(ValueError, match="between 1 and the number of samples 9"):
            best_of_n(scores, values, n)


def test_best_of_n_by_the_truth_itself_is_pass_at_k():
    passed = [True] * 3 + [False] * 61
    assert all(best_of_n(passed, passed, n) == pytest.approx(pass_at_k(64, 3, n)) for n in preferences.SIZES)
    curve = best_of_n_curve([passed] * 4, [passed] * 4)
    assert np.allclose(curve["truth"], curve["verifier"]) and np.allclose(curve["truth"], curve["score"])
    assert list(curve["n"]) == list(preferences.SIZES)


def test_a_curve_ends_where_the_samples_do():
    passed = [[True, False] * 5, [False, True] * 6]
    assert list(best_of_n_curve(passed, passed)["n"]) == [1, 2, 4, 8]


def test_what_is_recorded_is_whole_and_consistent(root):
    rows = pd.read_csv(root / "data/measurements/reward_model.csv")
    assert list(rows.columns) == reward_model.COLUMNS
    assert len(rows) == len(rows.drop_duplicates(["seed", "noise", "labels", "n"])) == 3 * 2 * 4 * 7
    assert (rows["low"] <= rows["truth"]).all() and (rows["truth"] <= rows["high"]).all()
    alone = rows[rows["n"] == 1]
    assert np.allclose(alone["truth"], alone["verifier"], atol=1e-3)  # with one to choose from both choose it
    by_run = rows.groupby(["seed", "noise", "labels"])
    assert all(run["verifier"].is_monotonic_increasing and run["score"].is_monotonic_increasing for _, run in by_run)
