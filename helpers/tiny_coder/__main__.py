"""Remake the bundled problems and model: python -m helpers.tiny_coder --output DIR"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from helpers.problems import Problem, write_problems
from helpers.runtime import CourseError, offline, quieten

CHEAT = re.compile(r"SystemExit|exit\(")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 with one sentence for a mistake in the arguments."""
    parser = argparse.ArgumentParser(prog="python -m helpers.tiny_coder", description=__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder, laid out like data/")
    parser.add_argument("--steps", type=int, metavar="N", help="pre-training steps, for a quick trial")
    arguments = parser.parse_args(argv)
    try:
        remake(_empty_folder(Path(arguments.output)), arguments.steps)
    except CourseError as error:
        print(f"helpers.tiny_coder: {error}", file=sys.stderr)
        return 2
    return 0


def remake(folder: Path, steps: int | None = None) -> None:
    """Write DIR/tiny_problems.jsonl and the model in DIR/tiny_coder, and print what the model can do."""
    quieten()
    offline()
    started = time.monotonic()
    print("Making the problems (about a minute) ...", flush=True)
    from helpers.tiny_coder.build import build_bundle, corpus_specifications

    bundle = build_bundle()
    train, held_out = ([problem for problem, _ in part] for part in (bundle.train, bundle.held_out))
    write_problems([*train, *held_out], folder / "tiny_problems.jsonl")
    print(f"{len(train)} training problems, {len(held_out)} held out.", flush=True)

    # Imported here: they take seconds, and a wrong argument should be answered at once.
    import torch

    from helpers.policy import load_policy, save_policy
    from helpers.tiny_coder.pretrain import Recipe, corpus_of, pretrain

    torch.set_num_threads(1)  # as committed; one thread gives the same weights twice, two do not
    recipe = Recipe() if steps is None else Recipe(steps=steps)
    corpus = corpus_of(corpus_specifications([spec for _, spec in bundle.held_out]))
    model, tokenizer = pretrain(corpus, recipe, _Progress(recipe.steps))
    # Stored in bfloat16 to keep the repository small; everything below is measured after that rounding.
    save_policy(model.to(torch.bfloat16), tokenizer, folder / "tiny_coder")
    _measure(*load_policy(folder / "tiny_coder"), held_out)
    print(f"{time.monotonic() - started:.0f} s in all; written to {folder}.")


def _empty_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CourseError(f"The folder {folder} is not empty: name another one.")
    except OSError as error:
        raise CourseError(f"Nothing can be written to {folder}: {error.strerror}.") from error
    return folder


class _Progress:
    """One line on the way: step, loss, seconds and what is left; a new line each tenth of the way."""

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


def _measure(model, tokenizer, held_out: list[Problem]) -> None:
    from helpers.evaluation import evaluate

    scores = evaluate(model, tokenizer, held_out, num_samples=16, max_completion_length=56)
    completions = [text for texts in scores.completions for text in texts]
    cheats = sum(bool(CHEAT.search(text)) for text in completions)
    summary = scores.summary()
    for name in ("greedy", "pass@1", "pass@8"):
        low, high = summary["interval"][name]
        print(f"held-out {name}: {summary[name]:.3f} (95 % interval {low:.3f} to {high:.3f})")
    print(f"cheating completions: {cheats} of {len(completions)} ({cheats / len(completions):.1%})")


if __name__ == "__main__":
    sys.exit(main())
