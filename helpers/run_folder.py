"""Everything in a run's folder: its results, its checkpoints, and the record of a run that is not finished.

Nothing here imports torch, so a wrong folder is reported at once.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.runtime import CourseError

if TYPE_CHECKING:
    import pandas as pd

RESULT = "result.json"
UNFINISHED = "unfinished.json"  # exists until a run is finished: its settings and its first evaluation
HELD_OUT = "held_out_{}.jsonl"  # the problems of one held-out set, by its name
SAMPLES = "samples_{}_{}.jsonl"  # name of the set; before or after
MERGED = "merged"  # the folder of the model that an adapter was merged into
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
SOLVED = "solved.json"  # how often the untrained model solved each training problem
BEFORE, AFTER = "before.json", "after.json"  # the evaluations, with every completion and verdict
CHECKPOINT = "checkpoint-"
STATE = "trainer_state.json"  # transformers writes it last, so a checkpoint without it was cut short
CHECKSUMS = "checksums.json"  # SHA-256 of a checkpoint's files
# TRL's log keys and our column names. `kl` is logged only if beta > 0, sampling_seconds only with group sampling.
COLUMNS = {
    "step": "step",
    "reward": "reward",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "entropy": "entropy",
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "clipped_ratio",
    "sampling_seconds": "sampling_seconds",
    "grad_norm": "grad_norm",
    "loss": "loss",
    "kl": "kl",
    "learning_rate": "learning_rate",
    "step_time": "seconds",
    "grading_seconds": "grading_seconds",
}
SMALL_FILES = 10_000_000  # bytes, enough for tokenizers, samples and histories


class Interrupted(CourseError):
    """A run that ended early. `what` says where; `kept` is its last checkpoint; `status` is for the shell to return."""

    def __init__(self, where: str, folder: Path, status: int = 130, rebuild: bool = False) -> None:
        self.what, self.kept, self.status = f"{where}. There is no checkpoint yet.", last_checkpoint(folder), status
        way_on = ""
        if self.kept:
            step = step_of(self.kept)
            self.what = f"{where}. The checkpoint of step {step}, with the history up to it, is in {folder}."
            again = "build the trainer again, then call " if rebuild else ""
            way_on = f" To continue: {again}trainer.train(resume_from_checkpoint=True)"
        super().__init__(self.what + way_on)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn any failure of the writes in this block into one sentence: a CourseError.

    A full disk comes in many forms. Python raises OSError, safetensors its own SafetensorError, torch a RuntimeError.
    """
    try:
        yield
    except Exception as error:
        raise CourseError(f"Results cannot be written to {folder}: {reason_of(error, folder)}.") from error


def reason_of(error: Exception, folder: Path) -> str:
    """Return why a write to `folder` failed, in a few words without a full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # If the disk is full, torch only says "unexpected pos 64 vs 0".
    with suppress(OSError):
        if shutil.disk_usage(folder).free < 1_000_000:
            return os.strerror(errno.ENOSPC)
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def require_writable(folder: Path) -> None:
    """Create the folder and write to it. Raises CourseError if that fails."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0" * 4096)


def require_room(folder: Path, model: Any) -> None:
    """Check before training that the disk has room for the run. Raises CourseError if it has not.

    A run writes what is trained (the model or an adapter) and two checkpoints, because the old one is removed only when
    the new one is complete. A checkpoint contains the same and AdamW's two moments, each as large.
    """
    require_writable(folder)
    kept = sum(path.stat().st_size for old in checkpoint_folders(folder) for path in old.iterdir())
    trained = sum(weights.nbytes for weights in model.parameters() if weights.requires_grad)
    needed = (1 + 2 * 3) * trained + SMALL_FILES - kept
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CourseError(
            f"This run writes up to {needed / 1e6:.0f} MB (the model and two checkpoints), but the disk that contains "
            f"{folder} has only {free / 1e6:.0f} MB left: free some space, or choose another folder."
        )


def prepare_output(folder: Path, overwrite: bool) -> None:
    """Create the folder and check that it can be written to, before an hour is spent on the results.

    With `overwrite`, the files of an earlier run are removed, and nothing else in the folder is touched. Raises
    CourseError if the folder is not empty, is not a folder, or cannot be written to.
    """
    require_writable(folder)
    if any(folder.iterdir()) and not overwrite:
        raise CourseError(f"The folder {folder} is not empty: choose another one, or add --overwrite.")
    with writing(folder):
        discard_run(folder)


def discard_run(folder: Path) -> None:
    """Remove the files that a run writes, except a whole model, which the next one replaces.

    Files of an earlier run must never lie next to the model of a new one, and nobody should resume from them. An old
    adapter would even be loaded instead of it.
    """
    own = [RESULT, UNFINISHED, BEFORE, AFTER, SOLVED, MERGED, *ADAPTER]
    sets = [path for pattern in (HELD_OUT, SAMPLES) for path in folder.glob(pattern.replace("{}", "*"))]
    discard(*(folder / name for name in own), *sets, *checkpoint_folders(folder))


def discard(*paths: Path) -> None:
    """Remove files and whole folders. A path that does not exist is not an error."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the folders checkpoint-1, checkpoint-2, ... in `folder`, complete or not, in the order of their steps."""
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdecimal()]
    return sorted(found, key=step_of)


def checkpoint_folder(folder: str | Path, step: int) -> Path:
    """Return the folder in which transformers saves the checkpoint of a step."""
    return Path(folder, f"{CHECKPOINT}{step}")


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was saved.

    >>> step_of(Path("my-run/checkpoint-20"))
    20
    """
    return int(checkpoint.name.removeprefix(CHECKPOINT))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in `folder`, or None. One that was cut short does not count."""
    complete = [path for path in checkpoint_folders(folder) if _read_json(path / STATE)]
    return complete[-1] if complete else None


def seal_checkpoint(checkpoint: Path) -> None:
    """Write the checksums of a complete checkpoint, and only then remove the checkpoints that it replaces."""
    write_json({path.name: _digest(path) for path in sorted(checkpoint.iterdir())}, checkpoint / CHECKSUMS)
    discard(*(other for other in checkpoint_folders(checkpoint.parent) if other != checkpoint))


def checkpoint_to_resume(folder: Path) -> Path:
    """Return the newest complete checkpoint in `folder`. Raises CourseError if there is none, or if it is damaged.

    Without the checksums, weights with a few wrong bytes would load without an error, and training would continue with
    a ruined model. A run that was killed just before it wrote them leaves none, and then there is nothing to compare.
    """
    kept = last_checkpoint(folder)
    if kept is None:
        raise CourseError(f"There is no complete checkpoint in {folder} to resume from.")
    if (kept / CHECKSUMS).exists():
        saved = _read_json(kept / CHECKSUMS) or {CHECKSUMS: "unreadable"}
        if damaged := [name for name, digest in saved.items() if _digest(kept / name) != digest]:
            raise CourseError(
                f"The checkpoint {kept} is damaged: {', '.join(damaged)} changed after it was saved. "
                "Start the run again from the beginning."
            )
    return kept


def steps_frame(log_history: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """Return what a trainer logged, one row per step, under the column names in COLUMNS (see `history_frame`)."""
    import pandas as pd

    steps = pd.DataFrame([entry for entry in log_history if "loss" in entry])  # the last entry is a summary
    rewards = {key: key.split("/")[1] for key in steps.columns if key.startswith("rewards/") and key.endswith("/mean")}
    names = COLUMNS | {key: name for key, name in rewards.items() if len(rewards) > 1 and name not in COLUMNS.values()}
    if "cut_off" in steps:
        steps["completions/clipped_ratio"] = steps["cut_off"]
    frame = steps.reindex(columns=list(names)).rename(columns=names).astype(float).astype({"step": int})
    return frame.drop(columns=[name for name in ("kl", "sampling_seconds") if frame[name].isna().all()])


def write_unfinished(record: dict[str, Any], folder: Path) -> None:
    """Write the record of a run that is not finished, with a checksum."""
    write_json({"record": record, "checksum": _checksum(record)}, folder / UNFINISHED)


def read_unfinished(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return the record of the run that was interrupted in `folder`, and add the step from which it resumes.

    Raises CourseError if there is no such run, if its record is damaged, or if it was not `given` these settings.
    """
    if (folder / RESULT).exists():
        raise CourseError(f"The run in {folder} is complete ({RESULT} exists), so there is nothing to resume.")
    kept = last_checkpoint(folder)
    if not (folder / UNFINISHED).exists() or kept is None:
        raise CourseError(
            f"There is no complete checkpoint in {folder} to resume from: start again with --overwrite instead."
        )
    content = _read_json(folder / UNFINISHED)
    record = content.get("record", {})
    if content.get("checksum") != _checksum(record):
        raise CourseError(f"{folder / UNFINISHED} is damaged: start again with --overwrite instead of --resume.")
    old = record["given"]
    if names := [name for name in given if old.get(name) != given[name]]:
        changes = ", ".join(f"{name} {old.get(name)} (now {given[name]})" for name in names)
        raise CourseError(f"The run in {folder} was started with other settings: {changes}. Resume with the same ones.")
    record["resumed"].append(step_of(kept))
    return record


def write_evaluations(evaluations: dict[str, Any], given: dict[str, Any], path: Path) -> None:
    """Write the evaluations of the held-out sets, by name, with the settings that they depend on."""
    write_json({"given": given, "evaluations": evaluations}, path)


def read_evaluations(path: Path, given: dict[str, Any]) -> dict[str, Any] | None:
    """Return the evaluations in a file, or None if there is no file.

    Raises CourseError if the file is damaged, or if they had other settings.
    """
    if not path.exists():
        return None
    content = _read_json(path)
    if not content:
        raise CourseError(f"{path} is damaged: start again with --overwrite instead of --resume.")
    old = content["given"]
    if names := [name for name in given if old.get(name) != given[name]]:
        changes = ", ".join(f"{name} {old.get(name)} (now {given[name]})" for name in names)
        raise CourseError(f"The evaluation in {path} belongs to other settings: {changes}.")
    return content["evaluations"]


def take_over(measured: Path, output: Path) -> None:
    """Copy what another run measured before training: its first evaluation and its counts of solved problems.

    Files that are already in `output` stay. Raises CourseError if there is nothing to copy.
    """
    if not any((measured / name).is_file() for name in (BEFORE, SOLVED)):
        raise CourseError(f"The folder {measured} has no {BEFORE} to take over.")
    for name in (BEFORE, SOLVED):
        if (measured / name).is_file() and not (output / name).exists():
            with writing(output):
                shutil.copyfile(measured / name, output / name)


def write_result(result: dict[str, Any], path: Path) -> None:
    """Write strict JSON, completely or not at all. A number that is not finite becomes null."""
    finite = json.loads(json.dumps(result), parse_constant=lambda name: None)
    write_json(finite, path)


def write_json(content: Any, path: Path) -> None:
    """Write strict JSON, completely or not at all: a crash leaves the old file or the new one."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def before_after_table(result: dict[str, Any]) -> str:
    """Return the held-out scores of a result.json before and after training, in percent, as lines of text.

    The change is in percentage points. Raises KeyError or TypeError if `result` is not the content of a result.json.

    >>> before = {"pass@1": 0.25, "interval": {"pass@1": [0.2, 0.3]}, "problems": 204, "samples": 8}
    >>> after = {"pass@1": 0.75, "interval": {"pass@1": [0.7, 0.8]}, "problems": 204, "samples": 8}
    >>> change = {"pass@1": {"difference": 0.5, "interval": [0.45, 0.55]}}
    >>> scores = {"before": before, "after": after, "change": change}
    >>> print(before_after_table({"held_out": {"tiny": scores}}).splitlines()[-1])
    pass@1     25.0 % [20.0, 30.0]     75.0 % [70.0, 80.0]    +50.0 [45.0, 55.0]
    """
    return "\n\n".join(_scores_table(name, **scores) for name, scores in result["held_out"].items())


def _scores_table(name: str, before: dict[str, Any], after: dict[str, Any], change: dict[str, Any]) -> str:
    lines = [
        f"Before and after training, on {after['problems']} held-out problems of {name},"
        f" with {after['samples']} samples each",
        "(share solved, with 95 % intervals)",
        "",
        f"{'':<8}  {'before':<22}  {'after':<22}  change in points",
    ]
    for score in change:
        shares = [f"{100 * at[score]:5.1f} % {_interval(at['interval'][score])}" for at in (before, after)]
        points = f"{100 * change[score]['difference']:+5.1f} {_interval(change[score]['interval'])}"
        lines.append(f"{score:<8}  {shares[0]:<22}  {shares[1]:<22}  {points}")
    return "\n".join(lines)


def _interval(bounds: Sequence[float]) -> str:
    low, high = (100 * bound for bound in bounds)
    return f"[{low:.1f}, {high:.1f}]"


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. A file that is absent, damaged or cut short gives an empty one."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "cannot be read"


def _checksum(record: Any) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()
