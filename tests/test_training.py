import random
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from random_policy import arithmetic_problems, save_random_policy

from helpers import figures, runtime, training
from helpers.policy import load_policy
from helpers.settings import Settings, SettingsError, profile_settings
from helpers.training import (
    NoSignalError,
    build_trainer,
    check_signal,
    grpo_config,
    history_frame,
    train_dataset,
)

PROBLEMS = arithmetic_problems()
SMALL = replace(
    profile_settings("tiny"),
    prompts_per_step=3,
    num_generations=4,
    max_completion_length=12,
    max_steps=6,
    learning_rate=1e-2,
)


def vowels(prompts, completions, **columns):
    """Share of vowels: a reward that a random model can climb."""
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in completions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def train(folder, tmp_path):
    """Train the random policy and return trainer and history."""

    def run(reward=vowels, settings=SMALL, **options):
        model, tokenizer = load_policy(folder)
        trainer = build_trainer(settings, model, tokenizer, PROBLEMS, reward, tmp_path / "run", **options)
        trainer.train()
        return trainer, history_frame(trainer)

    return run


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"num_generations": 1}, "alone its advantage is always 0"),
        ({"prompts_per_step": 0}, "prompts_per_step must be at least 1"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"max_completion_length": 0}, "max_completion_length must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"beta": -0.1}, "beta must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"eval_samples": 4}, "pass@8"),
        ({"scale_rewards": "std"}, "scale_rewards must be one of group, batch, none"),
        ({"loss_type": "gspo"}, "loss_type must be one of grpo, dr_grpo"),
        ({"precision": "fp8"}, "precision must be one of fp32, fp16, bf16"),
        ({"per_device_train_batch_size": 5}, "must divide the 12 completions of a step, and 5 does not"),
        ({"per_device_train_batch_size": 0}, "and 0 does not"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(wrong, reason):
    with pytest.raises(SettingsError, match=reason):
        replace(SMALL, **wrong)


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(SettingsError, match='There is no profile "huge"; choose one of: tiny'):
        profile_settings("huge")


def test_the_configuration_carries_every_setting_that_trl_has(tmp_path):
    settings = Settings(
        profile="tiny",
        model="m",
        problems="tiny",
        prompts_per_step=5,
        num_generations=3,
        max_completion_length=17,
        max_steps=11,
        learning_rate=2e-5,
        lr_scheduler_type="linear",
        temperature=0.7,
        loss_type="dapo",
        scale_rewards="batch",
        beta=0.03,
        epsilon=0.1,
        max_grad_norm=0.5,
        mask_truncated_completions=True,
        per_device_train_batch_size=5,
        activation_checkpointing=True,
        save_steps=6,
        seed=9,
    )
    config = grpo_config(settings, tmp_path)
    ours_alone = {"device", "per_device_eval_batch_size"}  # TRL's own evaluation is not used
    shared = {name: value for name, value in asdict(settings).items() if hasattr(config, name)}
    shared = {name: value for name, value in shared.items() if name not in ours_alone}
    assert {name: getattr(config, name) for name in shared} == shared
    assert config.device.type == settings.device
    assert len(shared) == 16
    assert config.generation_batch_size == 15
    assert (config.steps_per_generation, config.gradient_accumulation_steps, config.num_iterations) == (3, 3, 1)
    assert config.save_strategy == "steps" and config.disable_tqdm


def test_a_step_is_one_micro_batch_unless_told_otherwise(tmp_path):
    config = grpo_config(SMALL, tmp_path)
    assert config.generation_batch_size == config.per_device_train_batch_size == 12
    assert (config.steps_per_generation, config.gradient_accumulation_steps) == (1, 1)
    assert replace(SMALL, prompts_per_step=2).micro_batch == 8  # follows the step


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_precision_is_autocast_of_trls(precision, tmp_path):
    config = grpo_config(replace(SMALL, precision=precision), tmp_path)
    assert (config.fp16, config.bf16) == (precision == "fp16", precision == "bf16")


def test_the_data_set_holds_what_policy_and_rewards_need():
    dataset = train_dataset(PROBLEMS, SMALL)
    assert set(dataset.column_names) == {"prompt", "code_prompt", "test", "entry_point", "task_id"}
    row, problem = dataset[2], PROBLEMS[2]
    assert row["prompt"] == row["code_prompt"] == problem.prompt
    assert (row["test"], row["entry_point"], row["task_id"]) == (problem.test, problem.entry_point, problem.task_id)


def test_too_few_problems_for_a_step_are_refused(train):
    with pytest.raises(SettingsError, match=r"One step needs 7 prompts \(prompts_per_step\), and there are 6\."):
        train(settings=replace(SMALL, prompts_per_step=7))


def test_the_same_seed_gives_the_same_run_with_or_without_the_check_for_signal(train):
    first, history = train()
    again, repeated = train()
    unchecked, without_check = train(allow_no_signal=True)
    other, _ = train(settings=replace(SMALL, seed=1))
    columns = [name for name in history if "seconds" not in name]
    assert history[columns].equals(repeated[columns])
    assert history[columns].equals(without_check[columns])
    assert torch.equal(weights(first), weights(again))
    assert torch.equal(weights(first), weights(unchecked))
    assert not torch.equal(weights(first), weights(other))


def test_training_climbs_the_reward(train):
    _, history = train(settings=replace(SMALL, max_steps=25))
    assert history["reward"].tail(5).mean() > history["reward"].head(5).mean() + 0.2


def test_the_history_has_one_row_per_step(train):
    _, history = train()
    assert list(history.columns) == [
        "step",
        "reward",
        "frac_reward_zero_std",
        "entropy",
        "completion_length",
        "clipped_ratio",
        "grad_norm",
        "loss",
        "learning_rate",
        "seconds",
        "grading_seconds",
    ]
    assert list(history["step"]) == [1, 2, 3, 4, 5, 6]
    assert not history.isna().any(axis=None)
    assert history["completion_length"].between(1, 12).all()
    assert (history["grading_seconds"] < history["seconds"]).all()
    assert (history["learning_rate"] == 1e-2).all()


def test_the_reward_gets_every_column_repeated_within_the_group(train):
    seen = []

    def spy(prompts, completions, *, test, entry_point, code_prompt, task_id, completion_ids, **columns):
        seen.append((prompts, completions, test, entry_point, code_prompt, task_id, completion_ids))
        return vowels(prompts, completions)

    train(spy)
    assert len(seen) == 1 + SMALL.max_steps  # one batch in the check for signal, then one a step
    for batch in seen:
        assert {len(column) for column in batch} == {12}
        prompts, _, test, entry_point, code_prompt, task_id, ids = batch
        for start in (0, 4, 8):
            assert len(set(prompts[start : start + 4])) == 1
            (problem,) = [problem for problem in PROBLEMS if problem.task_id == task_id[start]]
            group = slice(start, start + 4)
            assert set(zip(code_prompt[group], test[group], entry_point[group], strict=True)) == {
                (problem.prompt, problem.test, problem.entry_point)
            }
        assert all(1 <= len(sample) <= 12 for sample in ids)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "reward 0.*easier problems"),
        (1.0, "reward 1.*harder problems"),
        (None, "no completion could be graded"),
    ],
)
def test_no_signal_is_refused_with_what_was_seen(train, monkeypatch, value, said):
    monkeypatch.setattr(training, "end_token_ids", lambda *_: range(10_000))  # as if each completion had ended
    graded = []

    def constant(prompts, completions, **columns):
        graded.append(len(completions))
        return [value] * len(completions)

    with pytest.raises(NoSignalError, match=said) as caught:
        train(constant)
    assert "In all 6 groups" in str(caught.value) and "allow_no_signal" in str(caught.value)
    assert graded == [12, 12]  # all six problems in two batches, and no step of training


def test_no_signal_because_all_were_cut_off_names_the_length(train):
    with pytest.raises(NoSignalError, match=r"100% .* cut off .* raise max_completion_length \(now 12\)"):
        train(lambda completions, **columns: [0.0] * len(completions))


def test_no_signal_is_allowed_when_asked_for(folder, tmp_path):
    model, tokenizer = load_policy(folder)
    trainer = build_trainer(
        SMALL,
        model,
        tokenizer,
        PROBLEMS,
        lambda completions, **columns: [0.0] * len(completions),
        tmp_path,
        allow_no_signal=True,
    )
    before = weights(trainer).clone()
    trainer.train()
    assert torch.equal(weights(trainer), before)
    assert (history_frame(trainer)["frac_reward_zero_std"] == 1).all()


def test_signal_in_one_group_is_enough_and_what_was_not_graded_is_none(folder):
    model, tokenizer = load_policy(folder)

    def only_the_last_problem(prompts, completions, *, task_id, **columns):
        last = PROBLEMS[-1].task_id
        return [None if i % 4 == 0 else float(name == last and i % 4 == 1) for i, name in enumerate(task_id)]

    def only_missing(completions, **columns):
        return [None if i % 2 else 0.5 for i in range(len(completions))]

    dataset = train_dataset(PROBLEMS, SMALL)
    check_signal(SMALL, model, tokenizer, dataset, [only_the_last_problem])
    with pytest.raises(NoSignalError):
        check_signal(SMALL, model, tokenizer, dataset, [only_missing])


def test_rewards_that_cancel_in_the_sum_are_no_signal(folder):
    model, tokenizer = load_policy(folder)

    def opposite(**columns):
        return [-value for value in vowels(**columns)]

    with pytest.raises(NoSignalError):
        check_signal(SMALL, model, tokenizer, train_dataset(PROBLEMS, SMALL), [vowels, opposite])


def test_the_check_moves_no_random_stream_even_when_it_refuses(folder):
    model, tokenizer = load_policy(folder)

    def draws(completions, **columns):
        random.random(), np.random.rand(), torch.rand(3)
        return [0.0] * len(completions)

    python, numpy, pytorch = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with pytest.raises(NoSignalError):
        check_signal(SMALL, model, tokenizer, train_dataset(PROBLEMS, SMALL), [draws])
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()
    assert torch.equal(torch.get_rng_state(), pytorch)


def test_a_terminal_gets_a_line_every_five_steps_and_nothing_else(train, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        runtime.quieten()  # as notebooks and the command line do first
        train()
    output, errors = capfd.readouterr()
    assert [line.split()[1] for line in output.splitlines()] == ["1/6", "5/6", "6/6"]
    assert "reward 0." in output and "groups without signal" in output and "entropy" in output
    assert errors == ""


def test_a_notebook_gets_one_picture_redrawn_in_place(train, monkeypatch, capsys):
    shown = []

    class Handle:
        def update(self, image):
            shown.append(("update", image.metadata["alt"]))

    def display(image, display_id):
        shown.append(("display", image.metadata["alt"]))
        return Handle()

    monkeypatch.setattr(figures, "in_notebook", lambda: True)
    monkeypatch.setattr(figures, "display", display)
    train()
    assert [kind for kind, _ in shown] == ["display", "update", "update"]
    assert "over 6 steps" in shown[-1][1] and "reward" in shown[-1][1]
    printed = capsys.readouterr().out
    assert " ".join(printed.split()) == shown[-1][1]  # the sentence, once, below the last drawing
