"""From a profile's settings to TRL's GRPOTrainer, with a check for signal, a live curve and a history."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from helpers import figures
from helpers.checkpoints import require_room
from helpers.policy import end_token_ids, sample_completion_ids
from helpers.problems import Problem, prompt_of
from helpers.resumable import ResumableTrainer
from helpers.runtime import CourseError
from helpers.settings import Settings, SettingsError
from helpers.settings import profile_settings as profile_settings

RewardFunction = Callable[..., list[float | None]]

# TRL's log keys and the columns they become; `kl` is there only where beta > 0.
COLUMNS = {
    "step": "step",
    "reward": "reward",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "entropy": "entropy",
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "clipped_ratio",
    "grad_norm": "grad_norm",
    "loss": "loss",
    "kl": "kl",
    "learning_rate": "learning_rate",
    "step_time": "seconds",
    "grading_seconds": "grading_seconds",
}


class NoSignalError(CourseError):
    """Every group sampled has one and the same reward throughout, so that there is nothing to learn from."""


def grpo_config(settings: Settings, output_dir: str | Path) -> GRPOConfig:
    """The settings as TRL's GRPOConfig: one optimizer step per generation batch, no reporting."""
    return GRPOConfig(
        output_dir=str(output_dir),
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,  # TRL then samples once per optimizer step
        num_generations=settings.num_generations,
        max_completion_length=settings.max_completion_length,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        temperature=settings.temperature,
        loss_type=settings.loss_type,
        scale_rewards=settings.scale_rewards,
        beta=settings.beta,
        epsilon=settings.epsilon,
        max_grad_norm=settings.max_grad_norm,
        mask_truncated_completions=settings.mask_truncated_completions,
        seed=settings.seed,
        use_cpu=settings.device == "cpu",
        bf16=settings.precision == "bf16",  # TRL's default is True: slower on a CPU, and refused there
        fp16=settings.precision == "fp16",  # with gradient scaling
        gradient_checkpointing=settings.activation_checkpointing,  # TRL's name, and that of transformers before 5.23
        dataloader_pin_memory=settings.device != "cpu",
        logging_steps=1,
        save_strategy="steps",  # and at the end; a checkpoint replaces the one before it
        save_steps=settings.save_steps,
        report_to="none",
        disable_tqdm=True,
    )


def train_dataset(problems: Sequence[Problem], settings: Settings) -> Dataset:
    """One row per problem: what the policy reads (`prompt`: text or messages) and what grading needs.

    Raises SettingsError where the problems do not fill one step: TRL would then train for 0 steps without a word.
    """
    if len(problems) < settings.prompts_per_step:
        raise SettingsError(
            f"One step needs {settings.prompts_per_step} prompts (prompts_per_step), and there are {len(problems)}."
        )
    rows = [
        {
            "prompt": prompt_of(p, settings.conversational),
            "code_prompt": p.prompt,
            "test": p.test,
            "entry_point": p.entry_point,
            "task_id": p.task_id,
        }
        for p in problems
    ]
    return Dataset.from_list(rows)


def build_trainer(
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    reward_funcs: RewardFunction | Sequence[RewardFunction],
    output_dir: str | Path,
    *,
    allow_no_signal: bool = False,
) -> ResumableTrainer:
    """A GRPOTrainer that draws a live curve in a notebook and prints text lines elsewhere, and can be stopped.

    Raises SettingsError where the problems do not fill one step, CourseError where the disk of `output_dir` cannot
    hold the run, and NoSignalError where the first groups sampled carry no signal, unless `allow_no_signal`.
    """
    dataset = train_dataset(problems, settings)
    functions = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
    torch.set_num_threads(min(settings.threads, torch.get_num_threads()))  # OMP_NUM_THREADS may ask for fewer
    if not allow_no_signal:
        check_signal(settings, model, tokenizer, dataset, functions)
    trainer = ResumableTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[_timed(function) for function in functions],
        args=grpo_config(settings, output_dir),
        train_dataset=dataset,
    )
    require_room(Path(output_dir), trainer.model)
    trainer.remove_callback(PrinterCallback)  # prints some 25 raw numbers per step
    trainer.add_callback(Progress())
    return trainer


def check_signal(
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    reward_funcs: Sequence[RewardFunction],
) -> None:
    """Sample the groups of up to three steps and stop at the first step where the rewards of a group differ.

    No random stream that training draws from is moved. Raises NoSignalError, with what was seen and the way out,
    where in every group all rewards are equal: then all advantages are 0 (arXiv 2402.03300, section 4.1.2).
    """
    order = random.Random(settings.seed).sample(range(len(dataset)), min(len(dataset), 3 * settings.prompts_per_step))
    rewards, cut_off = [], []
    with _random_streams_kept():
        for start in range(0, len(order), settings.prompts_per_step):
            rows = [dataset[i] for i in order[start : start + settings.prompts_per_step]]
            groups, share_cut_off = _sample_rewards(settings, model, tokenizer, rows, reward_funcs)
            rewards.append(groups)
            cut_off.append(share_cut_off)
            if any(len(set(group[~np.isnan(group)])) > 1 for group in groups):
                return
    raise NoSignalError(_no_signal_message(np.concatenate(rewards), float(np.mean(cut_off)), settings))


def history_frame(trainer: GRPOTrainer) -> pd.DataFrame:
    """What TRL logged, one row per step, under the names in COLUMNS.

    frac_reward_zero_std: share of groups without signal. entropy: nats per token. completion_length: tokens.
    clipped_ratio: share of completions cut off. grading_seconds: a part of seconds.
    """
    return _frame(trainer.state.log_history)


class Progress(TrainerCallback):
    """Every few steps: redraw the learning curves in a notebook, print a line of text elsewhere."""

    def __init__(self, every: int = 5) -> None:
        self.every = every
        self.picture = figures.LivePicture()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a new picture: what goes on after an interruption is drawn in its own cell."""
        self.picture = figures.LivePicture()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the newest step if its turn has come; `state` holds the log so far."""
        due = state.global_step % self.every == 0 or state.global_step in (1, state.max_steps)
        if not due or "loss" not in state.log_history[-1]:
            return
        history = _frame(state.log_history)
        if figures.in_notebook():
            self.picture.draw(figures.learning_curves(history))
        else:
            print(_line(history.iloc[-1], state.max_steps), flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the last drawing with its sentence below."""
        if figures.in_notebook():
            self.picture.finish()


def _line(row: pd.Series, max_steps: int) -> str:
    return (
        f"step {row['step']:3.0f}/{max_steps}  reward {row['reward']:.2f}  groups without signal "
        f"{row['frac_reward_zero_std']:.2f}  entropy {row['entropy']:.3f}  length {row['completion_length']:.0f}  "
        f"{row['seconds']:.1f} s"
    )


def _timed(reward_function: RewardFunction) -> RewardFunction:
    """Log the seconds a reward function takes, under its own name and signature."""

    @wraps(reward_function)
    def timed(*args: Any, **kwargs: Any) -> list[float | None]:
        start = perf_counter()
        rewards = reward_function(*args, **kwargs)
        kwargs["log_metric"]("grading_seconds", perf_counter() - start)
        return rewards

    return timed


def _frame(log_history: Sequence[dict[str, Any]]) -> pd.DataFrame:
    steps = pd.DataFrame([entry for entry in log_history if "loss" in entry])  # the last entry sums up the run
    frame = steps.reindex(columns=list(COLUMNS)).rename(columns=COLUMNS).astype(float).astype({"step": int})
    return frame.drop(columns="kl") if frame["kl"].isna().all() else frame


@contextmanager
def _random_streams_kept() -> Iterator[None]:
    """Put the streams of random, numpy and torch back afterwards: a reward function may draw from any of them."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def _sample_rewards(
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    reward_funcs: Sequence[RewardFunction],
) -> tuple[np.ndarray, float]:
    """Rewards of one group per row, shape (rows, num_generations), NaN where not graded; and the share cut off."""
    groups = sample_completion_ids(
        model,
        tokenizer,
        [row["prompt"] for row in rows],
        num_samples=settings.num_generations,
        temperature=settings.temperature,
        **settings.sampling,
    )
    ids = [sample for group in groups for sample in group]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    columns = {name: [row[name] for row in rows for _ in range(settings.num_generations)] for name in rows[0]}
    prompts = columns.pop("prompt")
    columns |= {"completion_ids": ids, "log_metric": lambda *_: None, "log_extra": lambda *_: None}
    if settings.conversational:  # as TRL hands them over
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    rewards = [function(prompts=prompts, completions=texts, **columns) for function in reward_funcs]
    scores = np.array(rewards, dtype=float)  # (functions, completions); None becomes NaN
    total = np.where(np.isnan(scores).all(axis=0), np.nan, np.nansum(scores, axis=0))
    ends = set(end_token_ids(model, tokenizer))
    return total.reshape(len(rows), -1), float(np.mean([sample[-1] not in ends for sample in ids]))


def _no_signal_message(rewards: np.ndarray, cut_off: float, settings: Settings) -> str:
    seen = ", ".join(f"{value:g}" for value in np.unique(rewards[~np.isnan(rewards)])[:4])
    if not seen:
        what, way_out = "no completion could be graded", "look at the verifier first"
    elif cut_off > 0.5:
        what = f"reward {seen}; {cut_off:.0%} of the completions were cut off before their end"
        way_out = f"raise max_completion_length (now {settings.max_completion_length})"
    else:
        what = f"reward {seen}"
        way_out = "take easier problems" if np.nanmax(rewards) <= 0 else "take harder problems or a finer reward"
    return (
        f"In all {len(rewards)} groups sampled before training, the {rewards.shape[1]} completions of a group had "
        f"equal rewards ({what}), so every advantage is 0 and nothing can be learned: {way_out}, or go on all the "
        "same (allow_no_signal=True, --allow-no-signal)."
    )
