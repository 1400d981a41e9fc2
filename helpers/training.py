"""Train with TRL's GRPOTrainer: settings to GRPOConfig, a trainer that can stop and continue, progress, history."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from functools import wraps
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, TrainerState
from transformers.trainer_utils import TrainOutput
from trl import GRPOConfig, GRPOTrainer

from helpers import figures, processes, run_folder
from helpers.policy import Prompt, load_policy, sample_completions
from helpers.problems import Problem, choose_prompt_mode, columns, prompt_text
from helpers.profiles import Settings, SettingsError
from helpers.rollout import group_rollout, score_completions
from helpers.run_folder import Interrupted, step_of, steps_frame
from helpers.runtime import CourseError

RewardFunction = Callable[..., Sequence[float | None]]

PICTURE_SECONDS, LINE_SECONDS = 2.0, 5.0  # between two pictures in a notebook, two lines of text in a terminal
STEPS_WITHOUT_SIGNAL = 3  # after so many steps without signal, training stops
MOST = 0.9  # a run stops if more than this share of its first completions is truncated, and these are left out


class NoSignalError(CourseError):
    """The first steps gave no signal: within every group all rewards were equal, so there is nothing to learn."""


def grpo_config(settings: Settings, output_dir: str | Path) -> GRPOConfig:
    """Return the settings as TRL's GRPOConfig, with one optimizer step per batch of samples and no reporting.

    Each setting that TRL has goes to it under the same name. Several processes share a step's groups equally.

    >>> from helpers.profiles import profile_settings
    >>> grpo_config(profile_settings("tiny"), "my-run").generation_batch_size
    64
    """
    # The evaluation's batch size stays ours, because TRL's own evaluation is not used.
    theirs = {field.name for field in fields(GRPOConfig)} - {"per_device_eval_batch_size"}
    share = settings.share(processes.count())
    shared = {name: value for name, value in asdict(settings).items() if name in theirs}
    # TRL counts a completion that the sampler's own rule has ended as truncated, so with group sampling the rollout
    # masks instead.
    masked = settings.mask_truncated_completions and not settings.group_sampling
    return GRPOConfig(
        **shared | {"per_device_train_batch_size": share.micro_batch, "mask_truncated_completions": masked},
        output_dir=str(output_dir),
        gradient_accumulation_steps=share.gradient_accumulation_steps,  # TRL then samples once per optimizer step
        use_cpu=settings.device == "cpu",
        bf16=settings.precision == "bf16",  # TRL's default is True, which is slower on a CPU and refused there
        fp16=settings.precision == "fp16",  # with gradient scaling
        gradient_checkpointing=settings.activation_checkpointing,  # the name before transformers 5.23, and still TRL's
        dataloader_pin_memory=settings.device != "cpu",
        # Every trained weight takes part in every step.
        ddp_find_unused_parameters=False if processes.count() > 1 else None,
        logging_steps=1,
        save_strategy="steps",  # and after the last step
        report_to="none",
        disable_tqdm=True,
    )


def train_dataset(problems: Sequence[Problem], settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Return one row per problem: the `prompt` as text, chat template included, and the columns that the rewards need.

    Raises SettingsError if the problems do not fill one step.
    """
    settings.require_problems(len(problems))
    mode = choose_prompt_mode(tokenizer, settings.prompt)
    prompts = [prompt_text(problem, tokenizer, mode) for problem in problems]
    return Dataset.from_dict({"prompt": prompts, **columns(problems)})


def build_trainer(
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    reward_funcs: RewardFunction | Sequence[RewardFunction],
    output_dir: str | Path,
    *,
    reward_weights: Sequence[float] | None = None,
    progress: "Progress | None" = None,
    allow_no_signal: bool = False,
) -> "ResumableTrainer":
    """Return a GRPOTrainer that shows its progress, and that can be stopped and continued.

    TRL adds up the rewards of several functions, each times its entry in `reward_weights` (default 1). A function of
    weight 0 is only watched: it grades the same completions, and its mean becomes a column of the history.

    Raises SettingsError if the problems do not fill one step, and CourseError if the disk of `output_dir` has no room
    for the run. Unless `allow_no_signal` is set, training raises NoSignalError if its first steps have no signal.
    """
    settings = settings.with_prompt(tokenizer)
    functions = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
    config = grpo_config(settings, output_dir)
    if reward_weights is not None:
        if len(reward_weights) != len(functions):
            raise SettingsError(f"There are {len(functions)} reward functions and {len(reward_weights)} weights.")
        config.reward_weights = list(reward_weights)
    run_folder.require_room(Path(output_dir), model)
    # Never more threads than now: OMP_NUM_THREADS may ask for fewer than the settings do.
    torch.set_num_threads(min(settings.threads, torch.get_num_threads()))
    # Activation checkpointing computes a layer twice and keeps no cache to share a prompt with.
    shares_prompts = settings.group_sampling and not settings.activation_checkpointing
    trainer = (GroupTrainer if shares_prompts else ResumableTrainer)(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[_timed(function, len(functions)) for function in functions],
        args=config,
        train_dataset=train_dataset(problems, settings, tokenizer),
        rollout_func=_rollout(settings) if settings.group_sampling else None,
        callbacks=[progress or Progress(), *([] if allow_no_signal else [StopWithoutSignal(settings)])],
    )
    trainer.remove_callback(PrinterCallback)  # it prints about 25 raw numbers per step
    return trainer


def _rollout(settings: Settings) -> Callable[..., dict[str, Any]]:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # TRL warns that rollout_func may change
    return group_rollout(
        temperature=settings.temperature,
        max_completion_length=settings.max_completion_length,
        batch_size=settings.completions_per_step,
        precision=settings.precision,
        seed=settings.seed,
        ends=settings.ends,
        mask_cut_off=settings.mask_truncated_completions,
    )


class Checkpoints(TrainerCallback):
    """Keep the last complete checkpoint, and stop after a step when a signal asks for it.

    The first Ctrl-C or SIGTERM ends training after the current step, with a checkpoint; the second one ends it at once.
    """

    signum = 0  # the first signal that came
    saving = False  # a checkpoint is being written

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a signal to any of the processes, tell the trainer to save and stop."""
        if processes.highest(self.signum):
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make room for the next checkpoint. The trainer logs each step just before it saves."""
        if control.should_save:
            self.saving = True
            # A checkpoint of the same step may have been cut short earlier. Its files must not mix with the new ones.
            if processes.rank() == 0:
                run_folder.discard(run_folder.checkpoint_folder(args.output_dir, state.global_step))
            processes.wait()  # each process saves its random state, and the others must not begin too early

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep only the new checkpoint. (`save_total_limit` would log a warning about file times to the terminal.)"""
        processes.wait()
        if processes.rank() == 0:
            run_folder.seal_checkpoint(run_folder.checkpoint_folder(args.output_dir, state.global_step))
        self.saving = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM in this block. Python allows that only in the main thread."""
        self.signum, self.saving = 0, False
        in_main = threading.current_thread() is threading.main_thread()
        signals = [signal.SIGINT, signal.SIGTERM] if in_main else []
        # A job in the background ignores SIGINT, and must go on ignoring it.
        before = {s: signal.getsignal(s) for s in signals if signal.getsignal(s) != signal.SIG_IGN}
        for signum in before:
            signal.signal(signum, self._receive)
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _receive(self, signum: int, frame: Any) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
        # The signal may arrive in the middle of a print, and print cannot be entered a second time.
        with suppress(RuntimeError):
            print("Stopping after this step. Press Ctrl-C again to stop now.", flush=True)


class ResumableTrainer(GRPOTrainer):
    """A GRPOTrainer that ends cleanly on Ctrl-C and SIGTERM, and continues from its last checkpoint.

    A run that was stopped and continued gives the same weights, to the bit, as one that was not. TRL and transformers
    do almost all of it; each method below says what you would see without it. Two of them override private methods,
    `_get_train_sampler` and `_issue_warnings_after_load`, and a test fails if a new release drops one of these.
    """

    model: PreTrainedModel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._epochs_done, self._cut_short = 0, False
        self._checkpoints = Checkpoints()
        self.add_callback(self._checkpoints)

    @property
    def train_seconds(self) -> float:
        """Seconds spent on the steps in the history, also on those before an interruption."""
        return float(history_frame(self)["seconds"].sum())

    def train(self, resume_from_checkpoint: bool = False) -> TrainOutput:  # type: ignore[override]
        """Train, or continue from the last complete checkpoint in the output folder.

        Raises Interrupted if a signal or a full disk ended it, and CourseError if there is no intact checkpoint to
        continue from.
        """
        # After half a step, TRL still holds that step's completions, counters and metrics. A second run would use
        # them, and would end with other weights without any error. They cannot be reset except by private names.
        if self._cut_short:
            raise CourseError("This trainer was stopped in the middle of a step. To continue, build the trainer again.")
        folder, max_steps = Path(str(self.args.output_dir)), self.args.max_steps
        kept = run_folder.checkpoint_to_resume(folder) if resume_from_checkpoint else None
        if kept:
            print(f"Resuming from step {step_of(kept)} of {max_steps}.", flush=True)
            if step_of(kept) >= max_steps:
                return self._restore_end(kept)
            self._epochs_done = int(_state(kept).epoch or 0)
        self._cut_short = True
        try:
            with self._checkpoints.listening():
                output = super().train(resume_from_checkpoint=str(kept) if kept else None)
        except KeyboardInterrupt:
            where = f"Stopped at once in step {self.state.global_step + 1} of {max_steps}"
            raise Interrupted(where, folder, 128 + self._checkpoints.signum, rebuild=True) from None
        except Exception as error:
            if not self._checkpoints.saving:
                raise
            where = f"The checkpoint of step {self.state.global_step} cannot be written to {folder}"
            raise Interrupted(f"{where}: {run_folder.reason_of(error, folder)}", folder, 2, rebuild=True) from error
        self._cut_short = False
        if signum := processes.highest(self._checkpoints.signum):
            where = f"Stopped after step {self.state.global_step} of {max_steps}"
            raise Interrupted(where, folder, 128 + signum)
        return output

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card. TRL would put a README.md for the Hub into the results at each checkpoint."""

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """Return TRL's sampler, moved on to the epoch in which the run continues.

        The sampler draws the order of each epoch from one random stream, and a new trainer starts that stream again.
        Without this, a run that continues in its second epoch repeats the order of the first one.
        """
        sampler = super()._get_train_sampler(dataset)
        for _ in range(self._epochs_done):
            next(iter(sampler))
        return sampler

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that lacks weights.

        Without this, each resume would warn about a missing "lm_head.weight" that is not missing: the output layer is
        tied to the embedding, so it is not saved. And if weights were really missing, it would only warn.
        """
        if lacking := {name for name, _ in self.model.named_parameters()} & set(load_result.missing_keys):
            raise CourseError(f"The checkpoint lacks weights of this model: {', '.join(sorted(lacking))}.")

    def _restore_end(self, checkpoint: Path) -> TrainOutput:
        """Take model and history from the last step's checkpoint. Without this, transformers trains one step more."""
        saved = load_policy(checkpoint, device=str(self.model.device))[0].state_dict()
        own = self.model.state_dict()
        self.model.load_state_dict({name: weights.to(own[name].dtype) for name, weights in saved.items()})
        self.state = _state(checkpoint)
        return TrainOutput(self.state.global_step, float("nan"), {"train_runtime": self.train_seconds})


class GroupTrainer(ResumableTrainer):
    """A ResumableTrainer that reads each prompt once for all its completions in a micro-batch.

    The method below is private in TRL, and a test fails if a new release renames it or passes other arguments.
    """

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Return the log-probabilities of the completions and, if asked, the entropies, in parts of `batch_size` rows.

        Mixture-of-experts models and images, which need the other arguments, are not supported.
        """
        size = batch_size or len(input_ids)
        parts = zip(input_ids.split(size), attention_mask.split(size), strict=True)
        with self.accelerator.autocast():
            scores = [score_completions(model, ids, mask, logits_to_keep) for ids, mask in parts]
        logps, entropies = zip(*scores, strict=True)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None


def _state(checkpoint: Path) -> TrainerState:
    return TrainerState.load_from_json(str(checkpoint / run_folder.STATE))


class StopWithoutSignal(TrainerCallback):
    """End training if the first steps have no signal: every advantage was 0 (arXiv 2402.03300, section 4.1.2)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise NoSignalError, with what was seen and what to do about it."""
        seen = steps_frame(state.log_history)
        if state.global_step == len(seen) == min(STEPS_WITHOUT_SIGNAL, state.max_steps):
            # TRL counts a group in which nothing was graded as one with signal, hence the second condition. The third
            # covers truncated completions that are masked, and scale_rewards="batch", where TRL counts whole batches.
            silent = seen["frac_reward_zero_std"] == 1, seen["reward"].isna(), seen["grad_norm"] == 0
            if any(steps.all() for steps in silent):
                raise NoSignalError(_no_signal_message(seen, self.settings))
            truncated = seen["clipped_ratio"].mean()
            if self.settings.mask_truncated_completions and truncated > MOST:
                raise NoSignalError(
                    f"{truncated:.0%} of the completions in the first {len(seen)} steps were truncated, and truncated "
                    "completions do not count (mask_truncated_completions): raise max_completion_length (now "
                    f"{self.settings.max_completion_length}, --max-completion-length)."
                )


class Progress(TrainerCallback):
    """Show the progress of a training run: learning curves in a notebook, lines of text elsewhere.

    The curves are redrawn every two seconds. `extra` names more columns of the history to draw, for example that
    of a reward function of weight 0. Given a `prompt`, its greedy completion is printed every `every` steps.
    """

    def __init__(self, extra: Sequence[str] = (), prompt: Prompt | None = None, every: int = 20) -> None:
        self.extra, self.prompt, self.every = tuple(extra), prompt, every

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start a new picture. A run that continues draws into the output of its own cell."""
        self.picture = figures.LivePicture()
        self.begun, self.first_step = perf_counter(), state.global_step
        self.shown_at, self.shown_step = float("-inf"), -1

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the newest step, unless the last picture or line is too recent."""
        if "loss" not in state.log_history[-1]:
            return  # the summary at the end of the run
        if perf_counter() - self.shown_at >= (PICTURE_SECONDS if figures.in_notebook() else LINE_SECONDS):
            self._show(state)
        if self.prompt is not None and state.global_step % self.every == 0:
            # Greedy decoding uses a random stream of its own, so the run stays the same with and without it.
            [[completion]] = sample_completions(
                kwargs["model"],
                kwargs["processing_class"],
                [self.prompt],
                temperature=0,
                max_completion_length=args.max_completion_length,
                precision="fp16" if args.fp16 else "bf16" if args.bf16 else "fp32",
            )
            print(f"Step {state.global_step} writes:\n{completion}", flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the last step, and leave the picture with its caption."""
        if state.global_step == 0:
            print("No step was taken: one step needs more prompts than the data set has.", flush=True)
        elif self.shown_step != state.global_step:
            self._show(state)
        if figures.in_notebook():
            self.picture.finish()

    def _show(self, state: Any) -> None:
        history = steps_frame(state.log_history)
        if absent := [name for name in self.extra if name not in history]:
            raise SettingsError(f"The history has no column {', '.join(absent)}; it has: {', '.join(history)}.")
        done, steps_left = state.global_step - self.first_step, state.max_steps - state.global_step
        seconds_left = steps_left * (perf_counter() - self.begun) / done if done else None
        if figures.in_notebook():
            shown = {"max_steps": state.max_steps, "seconds_left": seconds_left, "extra": self.extra}
            self.picture.draw(figures.learning_curves(history, **shown))
        else:
            print(_line(history.iloc[-1], state.max_steps, seconds_left), flush=True)
        self.shown_at, self.shown_step = perf_counter(), state.global_step


def history_frame(trainer: GRPOTrainer) -> pd.DataFrame:
    """Return what TRL logged, one row per step, under the column names in `run_folder.COLUMNS`.

    frac_reward_zero_std: fraction of groups without signal. entropy: nats per token. completion_length: tokens.
    clipped_ratio: fraction of truncated completions. sampling_seconds and grading_seconds: parts of seconds. With
    several reward functions there is one more column for each of them, its mean under its own name.
    """
    return steps_frame(trainer.state.log_history)


def _line(row: pd.Series, max_steps: int, seconds_left: float | None) -> str:
    left = f"  about {figures.duration(seconds_left)} left" if seconds_left else ""
    return (
        f"step {row['step']:3.0f}/{max_steps}  reward {row['reward']:.2f}  groups without signal "
        f"{row['frac_reward_zero_std']:.2f}  entropy {row['entropy']:.3f}  length {row['completion_length']:.0f}  "
        f"{row['seconds']:.1f} s{left}"
    )


def _timed(reward_function: RewardFunction, functions: int) -> RewardFunction:
    """Log a reward function's seconds, and what `group_rollout` reports. The function keeps its name and signature."""

    @wraps(reward_function)
    def timed(*args: Any, **kwargs: Any) -> Sequence[float | None]:
        start = perf_counter()
        rewards = reward_function(*args, **kwargs)
        # TRL logs the mean over all calls in a step, and a step calls each function once. We want their sum.
        log = kwargs["log_metric"]
        log("grading_seconds", functions * (perf_counter() - start))
        if "cut_off" in kwargs:
            log("cut_off", mean(kwargs["cut_off"]))
            log("sampling_seconds", kwargs["sampling_seconds"][0])
        return rewards

    return timed


def _no_signal_message(seen: pd.DataFrame, settings: Settings) -> str:
    reward, truncated = seen["reward"].mean(), seen["clipped_ratio"].mean()
    what, way_out = f"mean reward {reward:g}", f"take {'harder' if reward > 0 else 'easier'} problems"
    if pd.isna(reward):
        what, way_out = "no completion could be graded", "check the verifier first"
    elif truncated > 0.5:
        what += f"; {truncated:.0%} of the completions were truncated"
        way_out = f"raise max_completion_length (now {settings.max_completion_length}, --max-completion-length)"
    return (
        f"The first {len(seen)} steps gave no signal ({what}). A group teaches the model something only if its "
        f"{settings.num_generations} completions get different rewards, so nothing can be learned: {way_out}, or "
        "continue all the same (allow_no_signal=True, --allow-no-signal)."
    )
