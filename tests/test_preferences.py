"""The learned reward: pairs, loss, scores, best-of-n, and what is recorded of it."""

from itertools import combinations, permutations

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
    bradley_terry_loss,
    compare_choosers,
    log_probabilities,
    mean_accuracy,
    most_frequent_of_n,
    pairwise_accuracy,
    preference_pairs,
    scores_of,
    train_reward_model,
    with_log_probability,
)
from helpers.preferences import (
    learned_reward as learned_reward_of,
)
from tools.record import learned_reward, reward_model, two_by_two


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


@pytest.fixture(scope="module")
def skewed():
    """One problem: a text that passes five times in eight, and two that fail."""
    return Samples(arithmetic_problems()[:1], [["a"] * 5 + ["b"] * 2 + ["c"]], [[True] * 5 + [False] * 3])


def test_a_random_number_per_text_forgets_how_often_a_text_is_written(skewed):
    rows = compare_choosers(skewed, {"score": [[1.0] * 5 + [2.0] * 3]}, draws=3000).set_index(["chooser", "n"])["truth"]
    assert rows["random number per text", 8] == pytest.approx(1 / 3, abs=0.03)
    assert rows["random number per sample", 8] == pytest.approx(5 / 8, abs=0.03)
    # With n = 2: both are "a" in 10 of 28 draws, one of them in 15, of which a random number per text wins half.
    assert rows["random number per text", 2] == pytest.approx((10 + 15 / 2) / 28, abs=0.03)
    assert rows["most frequent text", 8] == rows["verifier", 8] == 1 and rows["score", 8] == 0
    alone = rows.xs(1, level="n")
    assert alone.drop("most frequent text").tolist() == pytest.approx([5 / 8] * 4)
    assert alone["most frequent text"] == pytest.approx(5 / 8, abs=0.1)


def test_choosers_are_compared_up_to_the_samples_there_are(skewed):
    rows = compare_choosers(skewed, {"score": [[0.0] * 8]})
    assert all(list(sizes) == [1, 2, 4, 8] for _, sizes in rows.groupby("chooser")["n"])
    with pytest.raises(ValueError, match='"text" or "sample"'):
        preferences.random_scores(skewed, "word", 0)


def test_the_most_frequent_of_n_is_that_of_all_ways_to_draw_them():
    texts, passed = ["a", "b", "a", "c", "b"], [True, False, True, True, False]
    right = dict(zip(texts, passed, strict=True))
    for n in (1, 2, 3, 4, 5):
        # All orders count, because a tie goes to the text that was drawn first.
        winners = [max(way, key=way.count) for way in permutations(texts, n)]
        expected = np.mean([right[text] for text in winners])
        assert most_frequent_of_n(texts, passed, n, draws=4000) == pytest.approx(expected, abs=0.03)


def test_log_probabilities_are_those_of_the_policy_and_are_added_with_their_weight(samples, policy):
    model, tokenizer = policy
    logps = log_probabilities(model, tokenizer, samples)
    prompt, text = samples.problems[0].prompt, samples.completions[0][1]
    start = tokenizer(prompt)["input_ids"]
    ids = [*start, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    loss = model(torch.tensor([ids]), labels=torch.tensor([[-100] * len(start) + ids[len(start) :]])).loss
    assert logps[0][1] == pytest.approx(-loss.item() * (len(ids) - len(start)), abs=1e-3)
    assert with_log_probability([[1.0, 2.0]], [[-10.0, -40.0]], 0.1) == [[0.0, -2.0]]


def test_a_learned_reward_gives_trl_the_scores_of_the_reward_model(samples, policy):
    model = RewardModel(policy[0]).eval()
    torch.nn.init.normal_(model.head.weight)
    reward = learned_reward_of(model, policy[1])
    prompts = [samples.problems[0].prompt] * 6
    got = reward(prompts=prompts, completions=samples.completions[0], trainer_state=None)
    assert got == pytest.approx(scores_of(model, policy[1], samples)[0], abs=1e-4)
    assert reward.__name__ == "learned_score"


def test_what_is_recorded_of_choosing_is_whole_and_consistent(root):
    rows = pd.read_csv(root / "data/measurements/reward_model.csv")
    assert list(rows.columns) == reward_model.COLUMNS
    assert len(rows) == len(rows.drop_duplicates(["seed", "chooser", "n"])) == 3 * 9 * 7
    assert (rows["low"] <= rows["truth"]).all() and (rows["truth"] <= rows["high"]).all()
    # With one to choose from, all choose it. The most frequent text is drawn at random, the others are exact.
    exact = rows[(rows["n"] == 1) & (rows["chooser"] != "most frequent text")]
    assert (exact.groupby("seed")["truth"].nunique() == 1).all()
    verifier = rows[rows["chooser"] == "verifier"]
    assert all(run["truth"].is_monotonic_increasing for _, run in verifier.groupby("seed"))


def test_what_is_recorded_of_training_is_whole_and_consistent(root):
    folder = root / "data/measurements"
    curves, programs = (pd.read_csv(folder / name) for name in learned_reward.FILES)
    run, steps = ["seed", "reward", "method", "beta"], learned_reward.STEPS // learned_reward.EVERY + 1
    runs = {(seed, *each) for seed in (0, 1, 2) for each in learned_reward.RUNS}
    for frame, count in ((curves, steps), (programs, steps * learned_reward.SHOWN)):
        sizes = frame.groupby(run).size()
        assert set(sizes.index) == runs and (sizes == count).all()
    # All runs of a seed start from the same policy.
    assert (curves[curves["step"] == 0].groupby("seed")[["truth", "score"]].nunique() == 1).all(axis=None)


def test_what_is_recorded_of_costs_is_whole_and_counted(root):
    costs = pd.read_csv(root / "data/measurements/two_by_two.csv")
    runs = {(seed, *run) for seed in (0, 1, 2) for run in two_by_two.CROSSED}
    assert set(costs[["seed", "reward", "method", "beta"]].itertuples(index=False, name=None)) == runs
    assert len(costs) == len(runs) and len(two_by_two.CROSSED) == 4
    assert ((costs["critic bytes"] > 0) == (costs["method"] == "PPO")).all()
    assert ((costs["reference bytes"] > 0) == (costs["beta"] > 0)).all()
    trained = costs["weights bytes"] + costs["gradients bytes"] + costs["optimizer bytes"]
    assert (trained == 16 * 919_680).all()
    assert (costs["kept logits bytes"] == 4 * 1024 * costs["tokens"]).all()


def test_a_measured_step_holds_a_critic_only_with_ppo_and_a_reference_only_with_a_penalty(policy, monkeypatch):
    tasks = arithmetic_problems()
    start = learned_reward.Start(0, *policy, tasks, tasks, RewardModel(policy[0]).eval())
    monkeypatch.setitem(learned_reward.LOOP, "prompts_per_step", 2)
    size = policy[0].num_parameters()
    monkeypatch.setattr(two_by_two, "STEPS", 1)
    for method, beta in (("GRPO", 0.0), ("PPO", 0.3)):
        held = two_by_two.costs(start, learned_reward.Run("learned", method, beta))
        assert held["seconds_per_step"] > 0
        parts = [held[f"{part} bytes"] for part in ("weights", "gradients", "optimizer")]
        assert parts == [4 * size, 4 * size, 8 * size]
        assert (held["critic bytes"] > 0) == (method == "PPO")
        assert held["reference bytes"] == (4 * size if beta else 0)
        assert held["kept logits bytes"] == 4 * len(policy[1]) * held["tokens"]
