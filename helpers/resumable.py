"""A GRPOTrainer that can be stopped and go on: signals, complete checkpoints, and what TRL holds between steps."""

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import TrainOutput
from trl import GRPOTrainer

from helpers.checkpoints import Interrupted, last_checkpoint, mark_complete, seconds_trained, step_of
from helpers.runtime import CourseError


class StopOnSignal(TrainerCallback):
    """End training after the step in which a signal came, with a checkpoint; at the second signal end it at once."""

    signum = 0  # of the first signal

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the wish on to the trainer."""
        if self.signum:
            control.should_save = control.should_training_stop = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM, and put the handlers of before back; outside the main thread do neither."""
        self.signum = 0
        in_main = threading.current_thread() is threading.main_thread()
        signals = [signal.SIGINT, signal.SIGTERM] if in_main else []
        # One that is ignored stays ignored (a job in the background); None is a handler that Python cannot put back.
        before = {s: signal.getsignal(s) for s in signals if signal.getsignal(s) not in (signal.SIG_IGN, None)}
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
        with suppress(RuntimeError):  # the signal may have come in the middle of a print, which cannot be entered twice
            print("Stopping after this step. Once more stops at once.", flush=True)


class ResumableTrainer(GRPOTrainer):
    """GRPOTrainer that ends well on Ctrl-C and SIGTERM. `train_seconds` counts what led to the state it is in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.train_seconds = 0.0
        self._stop = StopOnSignal()
        self.add_callback(self._stop)

    def train(self, resume_from_checkpoint: bool | str | None = None) -> TrainOutput:
        """Train, or go on from a checkpoint; True takes the last complete one in the output folder.

        Raises Interrupted where a signal stopped it, and CourseError where there is no checkpoint to go on from.
        """
        checkpoint = self._find(resume_from_checkpoint) if resume_from_checkpoint else None
        self._epochs_done = int(_state(checkpoint).epoch) if checkpoint else 0
        self._started = perf_counter() - (seconds_trained(checkpoint) if checkpoint else 0.0)
        if checkpoint and step_of(checkpoint) >= self.args.max_steps:
            return self._restore_end(checkpoint)
        # What a step that was cut short left in TRL's hands; in a new process it would not be there either.
        self._step, self._buffered_inputs, self._current_train_step_time = 0, None, 0.0
        for unfinished in (self._metrics["train"], self._pending_metrics):
            unfinished.clear()
        try:
            with self._stop.listening():
                output = super().train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except KeyboardInterrupt:
            raise self._interrupted(f"Stopped at once in step {self.state.global_step + 1}") from None
        finally:
            self.train_seconds = perf_counter() - self._started
        if self._stop.signum:
            raise self._interrupted(f"Stopped after step {self.state.global_step}")
        return output

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: TRL would put a README.md for the hub beside each checkpoint."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        shutil.rmtree(folder, ignore_errors=True)  # one that was cut short must not mix with this one
        super()._save_checkpoint(model, trial)
        mark_complete(folder, perf_counter() - self._started)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's, moved on to the epoch: it takes the order of each from one stream, which begins anew on resuming."""
        sampler = super()._get_train_sampler(dataset)
        for _ in range(self._epochs_done):
            next(iter(sampler))
        return sampler

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that lacks weights. An output layer that is tied to the embedding is not one of them."""
        if lacking := {name for name, _ in self.model.named_parameters()} & set(load_result.missing_keys):
            raise CourseError(f"The checkpoint lacks weights of this model: {', '.join(sorted(lacking))}.")

    def _find(self, resume_from_checkpoint: bool | str) -> Path:
        folder = Path(self.args.output_dir)
        found = last_checkpoint(folder) if resume_from_checkpoint is True else Path(resume_from_checkpoint)
        if found is None:
            raise CourseError(f"There is no complete checkpoint in {folder} to go on from.")
        print(f"Going on from step {step_of(found)} of {self.args.max_steps}.", flush=True)
        return found

    def _restore_end(self, checkpoint: Path) -> TrainOutput:
        """Take model and history from the last step's checkpoint; transformers would train a step more."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = _state(checkpoint)
        self.train_seconds = seconds_trained(checkpoint)
        return TrainOutput(self.state.global_step, float("nan"), {"train_runtime": self.train_seconds})

    def _interrupted(self, where: str) -> Interrupted:
        folder = Path(self.args.output_dir)
        kept = last_checkpoint(folder)
        what = f"the checkpoint of step {step_of(kept)}, with the history up to there, is in {folder}" if kept else None
        signum = self._stop.signum or signal.SIGINT
        return Interrupted(f"{where} of {self.args.max_steps}", what, 128 + signum)


def _state(checkpoint: Path) -> TrainerState:
    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
