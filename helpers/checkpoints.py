"""Checkpoints on disk: which one is complete, is there room for more, and the error that says a run was stopped.

Light: nothing here loads torch.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from helpers.runtime import CourseError

COMPLETE = "complete.json"  # written last into a checkpoint: the sizes of its files, and the seconds trained so far
SMALL_FILES = 10_000_000  # bytes, at least what tokenizers, samples and histories need


class Interrupted(CourseError):
    """A run was stopped on request; `what` says where and what is kept, `status` is the exit status for a shell."""

    def __init__(self, where: str, kept: str | None, status: int) -> None:
        self.what = f"{where}; {kept}." if kept else f"{where}, before the first checkpoint."
        super().__init__(self.what + (" To go on: trainer.train(resume_from_checkpoint=True)" if kept else ""))
        self.status = status


def checkpoint_folders(folder: Path) -> list[Path]:
    """The folders checkpoint-1, checkpoint-2, ... in `folder`, complete or not, in the order of their steps."""
    return sorted((path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    return int(checkpoint.name[11:])


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`; one that was cut short while it was written is passed over."""
    return next((path for path in reversed(checkpoint_folders(folder)) if _is_complete(path)), None)


def mark_complete(checkpoint: Path, train_seconds: float) -> None:
    """Declare a checkpoint complete, and only then remove all others beside it."""
    sizes = {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    write_json({"train_seconds": train_seconds, "sizes": sizes}, checkpoint / COMPLETE)
    for other in checkpoint_folders(checkpoint.parent):
        if other != checkpoint:
            shutil.rmtree(other)


def seconds_trained(checkpoint: Path) -> float:
    """Seconds of training that led to a checkpoint."""
    return json.loads((checkpoint / COMPLETE).read_text())["train_seconds"]


def require_writable(folder: Path) -> None:
    """Make the folder and write to it; raises CourseError where that does not work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0" * 4096)
    except OSError as error:
        raise CourseError(f"Results cannot be written to {folder}: {error.strerror}.") from error


def require_room(folder: Path, model: Any) -> None:
    """See before training that its disk takes all that a run writes; raises CourseError where it does not.

    That is the model, and two checkpoints, since the old one goes when the new one is complete. A checkpoint holds
    the model and, of the same size each, AdamW's two moments of every weight.
    """
    require_writable(folder)
    held = sum(path.stat().st_size for old in checkpoint_folders(folder) for path in old.iterdir())
    needed = (1 + 2 * 3) * sum(weights.nbytes for weights in model.parameters()) + SMALL_FILES - held
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CourseError(
            f"This run writes up to {needed / 1e6:.0f} MB (the model and two checkpoints), and the disk that holds "
            f"{folder} has {free / 1e6:.0f} MB left: make room, or choose another folder."
        )


def write_json(content: Any, path: Path) -> None:
    """Write strict JSON, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def _is_complete(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_text())["sizes"]
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False
