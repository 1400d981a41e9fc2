from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from chat_policies import save_chat_policy
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOTrainer
from trl.trainer import utils

from helpers.policy import load_policy
from helpers.problems import load_problems, prompt_of, prompt_text, split_problems
from helpers.profiles import profile_settings
from helpers.rewards import passes_tests
from helpers.rollout import completions_only, group_rollout
from helpers.training import grpo_config, train_dataset

GROUPS, GROUP = 4, 4


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def train(folder, reward, *, temperature=1.0, length=40, **rollout):
    """Train the bundled model for one step, and return what was logged; without `rollout` TRL samples with generate."""
    sizes = {"prompts_per_step": GROUPS, "num_generations": GROUP, "max_steps": 1, "max_completion_length": length}
    settings = replace(profile_settings("tiny"), temperature=temperature, **sizes)
    model, tokenizer = load_policy("data/tiny_coder")
    problems = split_problems(load_problems("tiny"))[0][:20]
    function = group_rollout(temperature=temperature, max_completion_length=length, **rollout) if rollout else None
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=reward,
        args=grpo_config(settings, folder),
        train_dataset=train_dataset(problems, settings, tokenizer),
        rollout_func=function,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.state.log_history[0]


def by_turns(completions, **kwargs):
    return [float(place % 2) for place, _ in enumerate(completions)]


def test_where_sampling_is_all_but_greedy_a_step_is_that_of_generate(tmp_path):
    logs = [train(tmp_path, passes_tests, temperature=0.01, **rollout) for rollout in ({}, {"seed": 0})]
    names = ("reward", "loss", "grad_norm", "completions/mean_length", "completions/max_length", "entropy")
    first, second = [[log[name] for name in names] for log in logs]
    assert second == pytest.approx(first, rel=0.05, abs=1e-4)
    assert first[0] > 0 and logs[0]["completions/min_length"] < logs[0]["completions/max_length"]


def test_each_prompt_comes_once_per_completion_and_the_reward_sees_what_was_cut_off(tmp_path):
    seen = {}

    def reward(prompts, completions, completion_ids, cut_off, sampling_seconds, **kwargs):
        seen.update(prompts=prompts, ids=completion_ids, cut_off=cut_off, seconds=sampling_seconds)
        return by_turns(completions)

    train(tmp_path, reward, length=20, seed=1)
    groups = [seen["prompts"][start : start + GROUP] for start in range(0, GROUPS * GROUP, GROUP)]
    assert all(len(set(group)) == 1 for group in groups) and len(set(seen["prompts"])) == GROUPS
    end = load_policy("data/tiny_coder")[1].eos_token_id
    assert seen["cut_off"] == [len(ids) == 20 and ids[-1] != end for ids in seen["ids"]]
    assert 0 < sum(seen["cut_off"]) < GROUPS * GROUP
    assert len(seen["seconds"]) == GROUPS * GROUP and 0 < max(seen["seconds"]) < 60


def test_completions_that_were_cut_off_can_be_left_out_of_the_loss(tmp_path):
    kept, masked = (train(tmp_path, by_turns, length=4, seed=1, mask_cut_off=mask) for mask in (False, True))
    assert kept["completions/clipped_ratio"] == 1
    assert kept["grad_norm"] > 0
    assert masked["grad_norm"] == 0


def test_a_completion_that_the_rule_ended_is_not_masked_though_trl_counts_it_as_cut_off(tmp_path):
    log = train(tmp_path, by_turns, length=1, seed=1, mask_cut_off=True, ends=lambda text: True)
    assert log["completions/mean_length"] == 1 and log["completions/clipped_ratio"] == 1
    assert log["grad_norm"] > 0


def test_draws_depend_on_seed_step_and_process_and_on_no_other_stream():
    model, tokenizer = load_policy("data/tiny_coder")

    def sample(seed, step, process):
        trainer = SimpleNamespace(
            model_wrapped=model,
            processing_class=tokenizer,
            state=SimpleNamespace(global_step=step),
            accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped, process_index=process),
        )
        torch.rand(1)
        rollout = group_rollout(max_completion_length=12, temperature=3.0, seed=seed)
        return str(rollout(["def f(x):\n"] * 4, trainer)["completion_ids"])

    assert sample(0, 1, 0) == sample(0, 1, 0)
    assert len({sample(*case) for case in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)]}) == 6


def test_scoring_completions_only_gives_the_same_step_for_less_work(tmp_path, monkeypatch):
    scored = []
    apply = utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        utils._ChunkedLogProbFunction, "apply", lambda hidden, *rest: scored.append(len(hidden)) or apply(hidden, *rest)
    )
    before = train(tmp_path, by_turns, seed=1)
    with completions_only():
        after = train(tmp_path, by_turns, seed=1)
    for name in ("loss", "grad_norm", "entropy"):
        assert after[name] == pytest.approx(before[name], rel=1e-3, abs=1e-6)
    assert scored[1] == pytest.approx(GROUPS * GROUP * after["completions/mean_length"])
    assert scored[1] < scored[0] / 2
    train(tmp_path, by_turns, seed=1)
    assert scored[2] == scored[0]  # the change ends with the block


def test_a_trl_without_that_function_is_left_as_it_is(monkeypatch):
    monkeypatch.delattr(utils, "_use_triton")
    with completions_only():
        assert not hasattr(utils, "_use_triton")


def test_trl_reads_a_prompt_with_the_template_applied_as_it_reads_the_messages(tmp_path):
    folder = save_chat_policy(tmp_path / "model")
    problems = load_problems("tiny")[:8]
    tokenizer = load_policy(folder)[1]
    as_messages = [prompt_of(problem, conversational=True) for problem in problems]
    as_text = [prompt_text(problem, tokenizer, "chat") for problem in problems]
    logs = []
    for prompts in (as_messages, as_text):
        model, tokenizer = load_policy(folder)
        settings = replace(profile_settings("tiny"), prompts_per_step=2, num_generations=4, max_steps=1)
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=by_turns,
            args=grpo_config(settings, tmp_path / "run"),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        logs.append(trainer.state.log_history[0])
    for name in ("loss", "grad_norm", "entropy", "num_tokens", "completions/mean_length"):
        assert logs[0][name] == logs[1][name]
    assert logs[0]["grad_norm"] > 0
