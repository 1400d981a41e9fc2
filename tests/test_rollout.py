import inspect
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from chat_policies import save_chat_policy
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from helpers import rollout
from helpers.policy import load_policy, pad_completions, per_token_logps
from helpers.problems import load_problems, prompt_of, prompt_text, split_problems
from helpers.profiles import profile_settings
from helpers.rewards import passes_tests
from helpers.rollout import group_rollout, score_completions
from helpers.training import GroupTrainer, ResumableTrainer, grpo_config, train_dataset

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


def train_shared(folder, cls, seed=1, **changes):
    """Train the bundled model for one step with either trainer. Returns the log, the weights and the tokens read."""
    sizes = {"prompts_per_step": GROUPS, "num_generations": GROUP, "max_steps": 1, "max_completion_length": 40}
    settings = replace(profile_settings("tiny"), **sizes | changes)
    model, tokenizer = load_policy("data/tiny_coder")
    problems = split_problems(load_problems("tiny"))[0][::90]
    trainer = cls(
        model=model,
        processing_class=tokenizer,
        reward_funcs=by_turns,
        args=grpo_config(settings, folder),
        train_dataset=train_dataset(problems, settings, tokenizer),
        rollout_func=group_rollout(max_completion_length=40, seed=seed),
    )
    trainer.remove_callback(PrinterCallback)
    read = []
    layer = model.model.layers[0]
    layer.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0][..., 0].numel() * model.training))
    trainer.train()
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return trainer.state.log_history[0], weights, sum(read)


@pytest.mark.parametrize("changes", [{}, {"per_device_train_batch_size": 8}, {"beta": 0.1}, {"temperature": 0.7}])
def test_reading_a_prompt_once_gives_the_same_step_for_less_work(tmp_path, changes):
    before, old, all_tokens = train_shared(tmp_path / "a", ResumableTrainer, **changes)
    after, new, fewer_tokens = train_shared(tmp_path / "b", GroupTrainer, **changes)
    for name in ("loss", "grad_norm", "entropy", *(["kl"] if "beta" in changes else [])):
        assert after[name] == pytest.approx(before[name], rel=1e-4, abs=1e-7)
    start = torch.cat([p.detach().flatten() for p in load_policy("data/tiny_coder")[0].parameters()])
    assert (new - start).abs().max() > 1e-4
    # AdamW's first step has the size of the learning rate, and its sign where the gradient is near 0 is chance.
    assert ((new - old).abs() > 1e-5).float().mean() < 0.01
    assert fewer_tokens < all_tokens / (2 if "per_device_train_batch_size" not in changes else 1.1)


def test_scores_and_gradients_are_those_of_the_whole_sequences(monkeypatch):
    model, tokenizer = load_policy("data/tiny_coder")
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    prompts = [tokenizer(problem.prompt)["input_ids"] for problem in load_problems("tiny")[:1500:500]]
    completions = [[5, 6, 7, 8], [9, 10], [11], [12, 13, 14], [15, 16]]
    batch = pad_completions([prompts[i] for i in (0, 1, 0, 2, 1)], completions, tokenizer.pad_token_id)
    results = []
    for own in (True, False):
        if own:
            monkeypatch.setattr(rollout, "PART", 2)
            logps, entropies = score_completions(model, batch.input_ids, batch.attention_mask, 4)
        else:
            logps, entropies = per_token_logps(model, batch)
        ((logps + entropies.detach()) * batch.completion_mask).square().sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        model.zero_grad(set_to_none=True)
        results.append((logps * batch.completion_mask, entropies * batch.completion_mask, gradient))
    for mine, theirs in zip(*results, strict=True):
        assert mine.abs().sum() > 0
        assert (mine - theirs).norm() < 1e-5 * theirs.norm()


def test_trl_still_calls_the_method_that_is_replaced():
    theirs = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    own = inspect.signature(GroupTrainer._get_per_token_logps_and_entropies).parameters
    assert list(theirs)[:7] == list(own)[:7]
    assert "self._get_per_token_logps_and_entropies(" in inspect.getsource(GRPOTrainer._compute_loss)


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
