"""The loop that the recorded experiments share, and the store that a run is not made twice for."""

import json
from dataclasses import replace

import pytest
import torch
from small_run import small_settings, vowels

from tools.record import loop


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "build"))
    return loop.prepare(small_settings(tmp_path))


def by_vowels(problems, texts, step):
    return vowels(texts), {"letters": sum(map(len, texts)) / len(texts)}


def run(start, reward=by_vowels, settings=None, **options):
    """Train a copy of the policy. Returns it and the history without the seconds."""
    policy, settings = start.fresh_policy(), settings or start.settings
    history = loop.train(policy, start.tokenizer, start.train, settings, reward, **options)
    return policy, [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def changed(start, policy):
    pairs = zip(start.policy.parameters(), policy.parameters(), strict=True)
    return any(not torch.equal(old, new) for old, new in pairs)


def test_it_learns_what_is_paid_and_only_from_what_is_paid(start):
    settings = replace(start.settings, max_steps=16)
    _, paid = run(start, settings=settings)
    _, unpaid = run(start, loop.coin(0), settings=settings, watch=None)
    first, last = (sum(row["reward"] for row in part) / 4 for part in (paid[:4], paid[-4:]))
    assert last > first + 0.1
    assert all(0.1 < row["reward"] < 0.9 for row in unpaid), "a coin is not learned"


def test_all_runs_of_a_seed_spend_the_same_and_repeat_to_the_bit(start):
    settings = start.settings
    _, first = run(start)
    _, again = run(start)
    _, other = run(start, settings=replace(settings, seed=1))
    assert first == again != other
    assert [row["completions"] for row in first] == [12, 24, 36, 48]
    assert [row["updates"] for row in first] == [1, 2, 3, 4]
    assert all(row["trained"] == settings.prompts_per_step for row in first)
    assert all(row["largest_ratio"] == pytest.approx(1, abs=1e-5) and row["outside"] == 0 for row in first)
    assert all(0 < row["letters"] < 50 for row in first), "what the reward logs is in the row"


def test_rewards_advantages_and_tokens_belong_to_the_same_completions(start):
    seen = []

    def reward(problems, texts, step):
        seen.append((list(problems), list(texts)))
        return [float(number) for number in range(len(texts))], {}

    def loss(logps, old, advantages, mask):
        seen.append((logps.detach().clone(), advantages, mask))
        return (logps * mask).sum() * 0

    run(start, reward, settings=replace(start.settings, max_steps=1), loss=loss)
    (problems, texts), (logps, advantages, mask) = seen
    assert advantages.tolist() == [-1.5, -0.5, 0.5, 1.5] * 3
    assert [problem.task_id for problem in problems] == [
        name for name in dict.fromkeys(p.task_id for p in problems) for _ in range(4)
    ]
    ids = [start.tokenizer(text)["input_ids"] for text in texts]
    for row, text_ids in zip(mask, ids, strict=True):
        # The mask also covers an end token, and a random model's text need not be tokenized as it was written.
        assert row.sum() >= min(1, len(text_ids))
    assert logps.shape == mask.shape and len(mask) == 12


def test_equal_rewards_change_nothing_with_the_group_mean_and_much_without(start):
    policy, history = run(start, loop.constant)
    assert not changed(start, policy) and {row["silent"] for row in history} == {1}
    policy, _ = run(start, loop.constant, advantages=lambda rewards, size: rewards)
    assert changed(start, policy)


def test_silent_groups_are_replaced_within_the_same_number_of_completions(start):
    used = []

    def sometimes(problems, texts, step):
        # Every second group is silent.
        names = [problem.task_id for problem in problems]
        return [float(number % 4 == 0 and name.endswith("/2")) for number, name in enumerate(names)], {}

    def advantages(rewards, size):
        used.append(rewards.view(-1, size))
        return rewards

    settings = replace(start.settings, max_steps=6)
    _, history = run(start, sometimes, settings=settings, advantages=advantages, replace_silent=True)
    assert all((groups.min(1).values != groups.max(1).values).all() for groups in used)
    assert [row["trained"] for row in history[:-1]] == [3] * (len(history) - 1)
    assert history[-1]["completions"] == 72 and len(history) < 6
    assert 0.2 < sum(row["silent"] for row in history) / len(history) < 0.8
    policy, history = run(start, loop.constant, replace_silent=True)
    assert not changed(start, policy) and history[-1]["updates"] == 0 and history[-1]["completions"] == 48


def test_a_batch_used_again_moves_the_ratio_and_clipping_holds_it(start):
    settings = replace(start.settings, learning_rate=3e-2)
    _, clipped = run(start, settings=settings, updates=4)
    _, free = run(start, settings=settings, updates=4, loss=loop.loss_of(settings, epsilon=1e6))
    assert [row["updates"] for row in clipped] == [4, 8, 12, 16]
    assert clipped[0]["largest_ratio"] != pytest.approx(1, abs=1e-3)
    assert 0 < clipped[0]["outside"] < free[0]["outside"]


def test_what_is_watched_and_the_controls(start):
    _, history = run(start, watch=lambda policy: {"weights": sum(p.numel() for p in policy.parameters())})
    assert len({row["weights"] for row in history}) == 1
    problems, texts = start.train[:4] * 50, ["x"] * 200
    tosses, _ = loop.control("random", 0)(problems, texts, 3)
    assert 60 < sum(tosses) < 140 and tosses != loop.control("random", 1)(problems, texts, 3)[0]
    assert loop.control("constant", 0)(problems, texts, 3)[0] == [1.0] * 200
    right = [problem.canonical_solution for problem in start.train[:2]]
    assert loop.control("verifier", 0)(start.train[:2], [right[0], "    return None\n"], 0)[0] == [1.0, 0.0]


def test_an_interruption_loses_one_run_at_most(start, tmp_path):
    made = []

    def runs(broken=False):
        def one(name):
            if broken and name == "c":
                raise KeyboardInterrupt
            made.append(name)
            return {"x.csv": [{"value": ord(name), "not known": float("nan")}]}

        return {name: lambda name=name: one(name) for name in "abc"}

    def record(broken=False, **changes):
        return loop.run_by_run("trial", replace(start.settings, **changes), {"rate": 1}, ["x.csv"], runs(broken))

    with pytest.raises(KeyboardInterrupt):
        record(broken=True)
    assert made == ["a", "b"]
    rows = record()["x.csv"]
    assert made == ["a", "b", "c"], "what is finished is not made again"
    assert (
        list(rows["run"]) == ["a", "b", "c"] and list(rows["value"]) == [97, 98, 99] and rows["not known"].isna().all()
    )
    assert set(rows["seed"]) == {0}
    record()
    assert made == ["a", "b", "c"] * 2, "a finished seed is measured again"
    with pytest.raises(KeyboardInterrupt):
        record(broken=True)
    made.clear()
    record(learning_rate=0.5)
    assert made == ["a", "b", "c"], "a run with other settings does not count"
    made.clear()
    assert list(record(seed=1)["x.csv"]["run"]) == ["a", "b", "c"]
    assert made == ["b", "c", "a"], "another seed begins with another run"
    kept = tmp_path / "build/record/runs/trial/seed_0_finished/run_2.json"
    assert json.loads(kept.read_text())["given"]["settings"]["learning_rate"] == 0.5
