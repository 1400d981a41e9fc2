"""Make the bundled problems and model again: python -m helpers.tiny_coder --output DIR"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.problems import Problem, write_problems
from helpers.runtime import CourseError, offline, prepare_libraries

CHEAT = re.compile(r"SystemExit|exit\(")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 after printing one sentence about a bad argument."""
    parser = argparse.ArgumentParser(prog="python -m helpers.tiny_coder", description=__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder; it gets the layout of data/")
    parser.add_argument("--steps", type=int, metavar="N", help="number of pre-training steps (fewer for a quick trial)")
    arguments = parser.parse_args(argv)
    try:
        remake(_empty_folder(Path(arguments.output)), arguments.steps)
    except CourseError as error:
        print(f"helpers.tiny_coder: {error}", file=sys.stderr)
        return 2
    return 0


def remake(folder: Path, steps: int | None = None) -> None:
    """Write `folder/tiny_problems.jsonl` and the model in `folder/tiny_coder`, then print the model's held-out scores.

    `steps` replaces the recipe's number of pre-training steps. Raises CourseError if a file cannot be written.
    """
    prepare_libraries()
    offline()
    started = time.monotonic()
    print("Making the problems (about a minute) ...", flush=True)
    from helpers.tiny_coder.build import build_bundle, corpus_specifications

    bundle = build_bundle()
    train, held_out = ([problem for problem, _ in part] for part in (bundle.train, bundle.held_out))
    write_problems([*train, *held_out], folder / "tiny_problems.jsonl")
    print(f"{len(train)} training problems, {len(held_out)} held out.", flush=True)

    # These imports take seconds, so they come after the arguments were checked.
    import torch

    from helpers.policy import load_policy, save_policy
    from helpers.tiny_coder.pretrain import Recipe, corpus_of, pretrain

    # The committed weights were trained on one thread. Two threads add in another order and give other weights.
    torch.set_num_threads(1)
    recipe = Recipe() if steps is None else Recipe(steps=steps)
    corpus = corpus_of(corpus_specifications([spec for _, spec in bundle.held_out]))
    model, tokenizer = pretrain(corpus, recipe, _Progress(recipe.steps))
    # The weights are stored in bfloat16 to keep the repository small, so evaluate the model after that rounding.
    save_policy(model.bfloat16(), tokenizer, folder / "tiny_coder")
    _measure(*load_policy(folder / "tiny_coder"), held_out)
    print(f"{time.monotonic() - started:.0f} s in all; written to {folder}.")


def _empty_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CourseError(f"The folder {folder} is not empty. Name a new one.")
    except OSError as error:
        raise CourseError(f"Cannot write to {folder}: {error.strerror}. Name another folder.") from error
    return folder


class _Progress:
    """Prints step, loss, elapsed and remaining seconds on one line, and starts a new line every tenth of the run."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, step: int, loss: float, seconds: float) -> None:
        left = seconds / step * (self.steps - step)
        line = f"pre-training: step {step}/{self.steps}  loss {loss:.3f}  {seconds:.0f} s, {left:.0f} s left"
        milestone = step % max(1, self.steps // 10) == 0
        if sys.stdout.isatty():
            print(f"\r{line}   ", end="\n" if milestone else "", flush=True)
        elif milestone:
            print(line, flush=True)


def _measure(model: Any, tokenizer: Any, held_out: list[Problem]) -> None:
    from helpers.evaluation import evaluate

    scores = evaluate(model, tokenizer, held_out, num_samples=16, max_completion_length=56)
    completions = [text for texts in scores.completions for text in texts]
    cheats = sum(bool(CHEAT.search(text)) for text in completions)
    summary: dict[str, Any] = scores.summary()
    for name in ("greedy", "pass@1", "pass@8"):
        low, high = summary["interval"][name]
        print(f"held-out {name}: {summary[name]:.3f} (95 % interval {low:.3f} to {high:.3f})")
    print(f"completions that exit the program: {cheats} of {len(completions)} ({cheats / len(completions):.1%})")


if __name__ == "__main__":
    sys.exit(main())
