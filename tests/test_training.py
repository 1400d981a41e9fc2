import time
import warnings
from dataclasses import asdict, replace

import pandas as pd
import pytest
import torch
from chat_policies import FENCED_CODE, save_chat_policy
from random_policy import arithmetic_problems, save_random_policy
from trl import GRPOConfig, GRPOTrainer

from helpers import figures, profiles, runtime, training
from helpers.losses import LOSS_TYPES
from helpers.policy import load_policy, load_tokenizer
from helpers.profiles import Settings, SettingsError, profile_settings
from helpers.training import (
    NoSignalError,
    Progress,
    ResumableTrainer,
    build_trainer,
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
    """Return the fraction of vowels: a reward that a random model can climb."""
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in completions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def train(folder, tmp_path):
    """Train the random policy, with a chat template or without, and return trainer and history."""

    def run(reward=vowels, settings=SMALL, model=folder, chat=False, **options):
        model, tokenizer = load_policy(model)
        if chat:
            tokenizer.chat_template = FENCED_CODE
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
        ({"seed": 2**32}, "seed must be at least 0 and at most 4294967295, not 4294967296"),
        ({"eval_samples": 0}, "eval_samples must be at least 1"),
        ({"eval_limit": 0}, "eval_limit must be at least 1"),
        ({"eval_max_completion_length": 0}, "eval_max_completion_length must be at least 1"),
        ({"train_limit": 0}, "train_limit must be at least 1"),
        ({"lora_rank": -1}, "lora_rank must be at least 0"),
        ({"lora_base": "fp16"}, 'lora_base must be one of bf16, fp32, not "fp16"'),
        ({"keep_solvable": -1}, "keep_solvable must be at least 0"),
        ({"keep_solvable": 1}, "keep_solvable must be 0 or at least 2: one attempt is all or none"),
        ({"prompt": "caht"}, 'prompt must be one of chat, prefill, plain, not "caht"'),
        ({"scale_rewards": "std"}, "scale_rewards must be one of group, batch, none"),
        ({"loss_type": "gspo"}, f"loss_type must be one of {', '.join(LOSS_TYPES)}, not"),
        ({"loss_type": "vespo"}, "loss_type must be one of"),  # TRL has it, but helpers.losses does not compute it
        ({"loss_type": "cispo"}, "cispo caps the ratio at epsilon_high itself"),
        ({"precision": "fp8"}, "precision must be one of fp32, fp16, bf16"),
        ({"per_device_train_batch_size": 5}, "must divide the 12 completions of a step, and 5 does not"),
        ({"per_device_train_batch_size": 0}, "and 0 does not"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(wrong, reason):
    with pytest.raises(SettingsError, match=reason):
        replace(SMALL, **wrong)


def test_one_sample_and_limits_that_are_not_set_are_accepted():
    replace(SMALL, eval_samples=1, eval_limit=None, train_limit=1, keep_solvable=2, lora_rank=1, prompt=None)


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
        epsilon_high=0.3,
        max_grad_norm=0.5,
        mask_truncated_completions=True,
        per_device_train_batch_size=5,
        activation_checkpointing=True,
        save_steps=6,
        seed=9,
    )
    config = grpo_config(settings, tmp_path)
    ours_alone = {"device", "per_device_eval_batch_size"}  # TRL's own evaluation is not used
    shared = {name for name in asdict(settings) if hasattr(config, name)} - ours_alone
    assert all(getattr(config, name) == getattr(settings, name) for name in shared)
    assert (
        config.per_device_eval_batch_size
        == GRPOConfig(str(tmp_path), use_cpu=True, bf16=False).per_device_eval_batch_size
    )
    assert config.device.type == settings.device
    assert len(shared) == 17
    assert config.generation_batch_size == 15
    assert (config.steps_per_generation, config.gradient_accumulation_steps, config.num_iterations) == (3, 3, 1)
    assert config.save_strategy == "steps" and config.disable_tqdm


def test_a_step_is_one_micro_batch_unless_told_otherwise(tmp_path):
    config = grpo_config(SMALL, tmp_path)
    assert config.generation_batch_size == config.per_device_train_batch_size == 12
    assert (config.steps_per_generation, config.gradient_accumulation_steps) == (1, 1)
    assert replace(SMALL, prompts_per_step=2).micro_batch == 8  # follows the step


def test_with_group_sampling_the_rollout_masks_and_not_trl(tmp_path):
    masked = replace(SMALL, mask_truncated_completions=True)
    configs = (grpo_config(replace(masked, group_sampling=ours), tmp_path) for ours in (False, True))
    assert [config.mask_truncated_completions for config in configs] == [True, False]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_precision_is_autocast_of_trls(precision, tmp_path):
    config = grpo_config(replace(SMALL, precision=precision), tmp_path)
    assert (config.fp16, config.bf16) == (precision == "fp16", precision == "bf16")


def test_the_data_set_holds_what_policy_and_rewards_need(folder):
    dataset = train_dataset(PROBLEMS, SMALL, load_tokenizer(folder))
    assert set(dataset.column_names) == {"prompt", "code_prompt", "test", "entry_point", "task_id"}
    row, problem = dataset[2], PROBLEMS[2]
    assert row["prompt"] == row["code_prompt"] == problem.prompt
    assert (row["test"], row["entry_point"], row["task_id"]) == (problem.test, problem.entry_point, problem.task_id)


def test_too_few_problems_for_a_step_are_refused(train):
    with pytest.raises(SettingsError, match=r"One step needs 7 prompts \(prompts_per_step\), and there are 6\."):
        train(settings=replace(SMALL, prompts_per_step=7))


def test_the_same_seed_gives_the_same_run_whatever_is_shown_of_it(train, capsys):
    first, history = train()
    again, repeated = train()
    shown, with_completions = train(progress=Progress(prompt=PROBLEMS[0].prompt, every=2), allow_no_signal=True)
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith("writes:")] == [
        f"Step {step} writes:" for step in (2, 4, 6)
    ]
    other, _ = train(settings=replace(SMALL, seed=1))
    columns = [name for name in history if "seconds" not in name]
    assert history[columns].equals(repeated[columns])
    assert history[columns].equals(with_completions[columns])
    assert torch.equal(weights(first), weights(again))
    assert torch.equal(weights(first), weights(shown))
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
    assert len(seen) == SMALL.max_steps
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


def test_a_reward_of_weight_zero_is_watched_and_changes_nothing(train):
    def length(completions, **columns):
        return [float(len(text)) for text in completions]

    alone, history = train()
    watched, with_length = train([vowels, length], reward_weights=[1, 0])
    assert torch.equal(weights(alone), weights(watched))
    assert list(with_length.columns) == [*history.columns, "vowels", "length"]
    assert with_length["reward"].equals(history["reward"])
    assert with_length["vowels"].to_list() == pytest.approx(history["reward"].to_list())
    assert with_length["length"].nunique() > 1
    assert (with_length["grading_seconds"] < with_length["seconds"]).all()


def test_grading_seconds_add_up_over_the_reward_functions(train):
    def slow(completions, **columns):
        time.sleep(0.05)
        return [float("nan")] * len(completions)

    _, history = train([vowels, slow, slow], settings=replace(SMALL, max_steps=1), allow_no_signal=True)
    assert 0.1 <= history["grading_seconds"].item() < 0.15


def test_each_reward_function_has_its_weight(train):
    with pytest.raises(SettingsError, match="There are 1 reward functions and 2 weights"):
        train(reward_weights=[1, 0])


def constant(value):
    return lambda completions, **columns: [value] * len(completions)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "mean reward 0.*easier problems"),
        (1.0, "mean reward 1.*harder problems"),
        (None, "no completion could be graded.*verifier"),
    ],
)
def test_no_signal_ends_training_with_what_was_seen(value, said, train, monkeypatch):
    frame = training.steps_frame
    # As if each completion had ended.
    monkeypatch.setattr(training, "steps_frame", lambda log: frame(log).assign(clipped_ratio=0.0))
    graded = []

    def counted(completions, **columns):
        graded.append(len(completions))
        return constant(value)(completions)

    with pytest.raises(NoSignalError, match=f"The first 3 steps gave no signal .*{said}.*allow_no_signal"):
        # With a KL penalty there is a gradient nevertheless.
        train(counted, settings=replace(SMALL, beta=0.04))
    assert graded == [12, 12, 12]


def test_no_signal_in_a_run_of_fewer_steps(train):
    with pytest.raises(NoSignalError, match="The first 2 steps gave no signal"):
        train(constant(0.0), settings=replace(SMALL, max_steps=2))


def test_no_signal_because_all_were_truncated_names_the_length(train):
    with pytest.raises(
        NoSignalError, match=r"100% .* truncated.* raise max_completion_length \(now 12, --max-completion-length\)"
    ):
        train(constant(0.0))


def by_problem(completions, *, task_id, **columns):
    """Give all completions of a problem the same reward, but not those of all problems."""
    return [float(PROBLEMS[0].task_id == name) for name in task_id]


def half_graded(completions, **columns):
    return [None if i % 2 else 0.5 for i in range(len(completions))]


@pytest.mark.parametrize("reward", [by_problem, half_graded])
@pytest.mark.parametrize("scale_rewards", ["none", "batch"])
def test_rewards_that_differ_only_between_groups_are_no_signal(reward, scale_rewards, train):
    with pytest.raises(NoSignalError):
        train(reward, settings=replace(SMALL, scale_rewards=scale_rewards))


def test_rewards_that_cancel_in_the_sum_are_no_signal(train):
    def opposite(**columns):
        return [-value for value in vowels(**columns)]

    with pytest.raises(NoSignalError):
        train([vowels, opposite])


def test_truncated_completions_that_are_masked_are_no_signal(train):
    with pytest.raises(NoSignalError, match="raise max_completion_length"):
        train(settings=replace(SMALL, max_completion_length=1, mask_truncated_completions=True), chat=True)


def test_a_base_model_learns_from_truncated_completions_though_the_settings_mask_them(train):
    trainer, history = train(settings=replace(SMALL, max_completion_length=1, mask_truncated_completions=True))
    assert trainer.state.global_step == 6
    assert (history["clipped_ratio"] == 1).all() and (history["grad_norm"] > 0).any()


@pytest.mark.parametrize(
    ("truncated", "masked", "ends"), [(0.95, True, True), (0.95, False, False), (0.9, True, False)]
)
def test_a_run_that_leaves_out_nearly_all_completions_ends_at_once(
    truncated, masked, ends, train, tmp_path, monkeypatch
):
    model = save_chat_policy(tmp_path / "model")  # its completions have ten tokens or so
    frame = training.steps_frame
    monkeypatch.setattr(training, "steps_frame", lambda log: frame(log).assign(clipped_ratio=truncated))
    settings = replace(SMALL, max_completion_length=30, max_steps=4, mask_truncated_completions=masked)
    try:
        trainer, _ = train(settings=settings, model=model)
    except NoSignalError as error:
        assert ends
        assert "95% of the completions in the first 3 steps were truncated" in str(error)
        assert "raise max_completion_length (now 30, --max-completion-length)" in str(error)
    else:
        assert not ends and trainer.state.global_step == 4


def test_a_completion_that_the_rule_ended_is_not_counted_as_truncated_though_trl_does(train, monkeypatch):
    short = replace(SMALL, max_completion_length=2, max_steps=2, group_sampling=True)
    monkeypatch.setattr(profiles, "function_ended", lambda text: True)  # every completion ends with its first token
    trainer, history = train(settings=short)
    assert (history["completion_length"] == 1).all()
    assert [log["completions/clipped_ratio"] for log in trainer.state.log_history if "loss" in log] == [1, 1]
    assert (history["clipped_ratio"] == 0).all()
    monkeypatch.setattr(profiles, "function_ended", lambda text: False)
    _, history = train(settings=replace(short, max_completion_length=1))
    assert (history["clipped_ratio"] == 1).all()


def test_group_sampling_tells_its_seconds_and_gives_the_same_run_again(train):
    grouped = replace(SMALL, group_sampling=True)
    (first, history), (again, repeated) = train(settings=grouped), train(settings=grouped)
    assert "sampling_seconds" in history and not history.isna().any(axis=None)
    spent = history["sampling_seconds"] + history["grading_seconds"]
    assert (history["sampling_seconds"] > 0).all() and (spent < history["seconds"]).all()
    columns = [name for name in history if "seconds" not in name]
    assert history[columns].equals(repeated[columns]) and torch.equal(weights(first), weights(again))
    other, _ = train(settings=replace(grouped, seed=1))
    assert not torch.equal(weights(first), weights(other))


def test_signal_in_one_group_is_enough(train):
    def one_completion(completions, *, task_id, **columns):
        last = PROBLEMS[-1].task_id
        return [None if i % 4 == 0 else float(name == last and i % 4 == 1) for i, name in enumerate(task_id)]

    trainer, _ = train(one_completion)
    assert trainer.state.global_step == 6


def test_no_signal_is_allowed_if_asked_for(train, folder):
    trainer, history = train(constant(0.0), allow_no_signal=True)
    assert torch.equal(torch.cat([p.detach().flatten() for p in load_policy(folder)[0].parameters()]), weights(trainer))
    assert (history["frac_reward_zero_std"] == 1).all()


@pytest.mark.parametrize("name", ["_get_train_sampler", "_issue_warnings_after_load"])
def test_the_two_private_methods_that_we_override_still_exist(name):
    assert hasattr(GRPOTrainer, name), (
        f"TRL and transformers no longer have {name}: rewrite ResumableTrainer.{name} in helpers/training.py. Its "
        "docstring says what goes wrong without it, and tests/maintenance/test_resume.py shows whether it still does."
    )


def test_no_other_private_method_is_overridden():
    private = {name for name in vars(ResumableTrainer) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if hasattr(GRPOTrainer, name)} == {
        "_get_train_sampler",
        "_issue_warnings_after_load",
    }


class Clock:
    """A clock on which every look takes a quarter of a second."""

    now = 0.0

    def __call__(self):
        self.now += 0.25
        return self.now


def test_a_terminal_gets_a_line_now_and_then_with_the_time_that_is_left(train, monkeypatch, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        runtime.prepare_libraries()  # as notebooks and the command line do first
        monkeypatch.setattr(training, "perf_counter", Clock())
        monkeypatch.setattr(training, "LINE_SECONDS", 2.0)  # looks: two to grade, one to decide, two to show
        train()
    output, errors = capfd.readouterr()
    lines = output.splitlines()
    assert [line.split()[1] for line in lines] == ["1/6", "4/6", "6/6"]
    assert all("reward 0." in line and "groups without signal" in line and "entropy" in line for line in lines)
    assert lines[1].endswith("about 2 s left") and "left" not in lines[-1]
    assert errors == ""


def test_a_notebook_gets_one_picture_that_the_clock_redraws_in_place(train, monkeypatch, capsys):
    shown = []

    class Picture:
        def __init__(self):
            shown.append("new")

        def draw(self, drawn):
            shown.append(drawn)

        def finish(self):
            shown.append("finished")

    monkeypatch.setattr(figures, "in_notebook", lambda: True)
    monkeypatch.setattr(figures, "LivePicture", Picture)
    monkeypatch.setattr(figures, "learning_curves", lambda history, **options: options | {"steps": len(history)})
    monkeypatch.setattr(training, "perf_counter", Clock())
    train(progress=Progress(extra=["clipped_ratio"]))
    new, *drawn, finished = shown
    assert (new, finished) == ("new", "finished")
    assert [one["steps"] for one in drawn] == [1, 4, 6]
    assert {(one["max_steps"], one["extra"]) for one in drawn} == {(6, ("clipped_ratio",))}
    assert drawn[1]["seconds_left"] == pytest.approx(2, abs=1) and drawn[-1]["seconds_left"] == 0
    assert capsys.readouterr().out == ""


def test_a_run_of_no_steps_says_so(folder, tmp_path, capsys):
    trainer = build_trainer(SMALL, *load_policy(folder), PROBLEMS, vowels, tmp_path / "run")
    trainer.train_dataset = trainer.train_dataset.select(range(SMALL.prompts_per_step - 1))
    trainer.train()
    assert trainer.state.global_step == 0 and history_frame(trainer).empty
    assert capsys.readouterr().out.startswith("No step was taken: one step needs more prompts")


def test_a_column_that_the_history_lacks_is_named(train):
    with pytest.raises(SettingsError, match="The history has no column truth; it has: step, reward,"):
        train(progress=Progress(extra=["truth"]))


@pytest.mark.parametrize(("seconds", "said"), [(None, "1.0 s"), (40.4, "about 40 s left"), (600, "about 10 min left")])
def test_the_time_that_is_left_in_words(seconds, said):
    row = {"step": 1, "reward": 0.5, "frac_reward_zero_std": 0, "entropy": 1, "completion_length": 8, "seconds": 1.0}
    assert training._line(pd.Series(row), 9, seconds).endswith(said)
