"""Train a policy from the command line: python -m helpers.train --profile tiny --output DIR"""

import argparse
import inspect
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from helpers import rewards
from helpers.problems import ProblemError, load_problems, split_problems
from helpers.runtime import CourseError, offline, quieten, share_cores
from helpers.settings import Settings, profile_settings
from helpers.verifier import BrokenTestsError, GradingError

RESULT = "result.json"
REWARDS = list[float | None]  # what a reward function returns: one number per completion, None where not graded
PACKAGES = ("torch", "trl", "transformers", "datasets", "accelerate", "numpy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 with one sentence for a mistake in the arguments."""
    arguments = _parse(argv)
    try:
        settings = _settings(arguments)
        reward = find_reward(arguments.reward)
        output = Path(arguments.output)
        prepare_output(output, arguments.overwrite)
        result = run(settings, reward, output, allow_no_signal=arguments.allow_no_signal)
    except (CourseError, ProblemError, BrokenTestsError, GradingError) as error:
        print(f"helpers.train: {error}", file=sys.stderr)
        return 2
    write_result(result, output / RESULT)
    print(before_after_table(result))
    print(f"Saved in {output}: the model and {RESULT}.")
    return 0


def run(
    settings: Settings, reward: Callable[..., REWARDS], output: Path, *, allow_no_signal: bool = False
) -> dict[str, Any]:
    """Measure, train, measure again and save the model in `output`; returns the content of result.json."""
    started = perf_counter()
    quieten()
    share_cores()
    if settings.profile == "tiny":
        offline()
    train, held_out = split_problems(load_problems(settings.problems))
    # Imported here: they take seconds, and a wrong argument should be answered at once.
    from helpers.evaluation import compare, evaluate
    from helpers.policy import load_policy, save_policy

    model, tokenizer = load_policy(settings.model, device=settings.device)
    from helpers.training import build_trainer, history_frame

    trainer = build_trainer(settings, model, tokenizer, train, reward, output, allow_no_signal=allow_no_signal)
    sampling = {"num_samples": settings.eval_samples, "temperature": settings.eval_temperature}
    sampling |= {"max_completion_length": settings.max_completion_length, "seed": settings.seed}
    print(
        f"Profile {settings.profile}, model {settings.model}: {settings.max_steps} steps on {len(train)} problems; "
        f"{len(held_out)} are held out.",
        flush=True,
    )
    before = evaluate(model, tokenizer, held_out, **sampling)
    training_started = perf_counter()
    trainer.train()
    train_seconds = perf_counter() - training_started
    after = evaluate(model, tokenizer, held_out, **sampling)
    save_policy(model, tokenizer, output)
    return {
        **{name: getattr(settings, name) for name in ("profile", "model", "seed")},
        "reward": reward.__name__,
        "settings": asdict(settings),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "seconds": perf_counter() - started,
        "train_seconds": train_seconds,
        "before": before.summary(),
        "after": after.summary(),
        "change": compare(before, after),
        "history": history_frame(trainer).to_dict("records"),
    }


def find_reward(name: str) -> Callable[..., REWARDS]:
    """The reward function of that name in helpers.rewards; raises CourseError with the names there are."""
    functions = {
        key: value
        for key, value in vars(rewards).items()
        if inspect.isfunction(value) and inspect.signature(value).return_annotation == REWARDS
    }
    if name not in functions:
        raise CourseError(f'There is no reward "{name}" in helpers.rewards; choose one of: {", ".join(functions)}.')
    return functions[name]


def prepare_output(folder: Path, overwrite: bool) -> None:
    """Make the folder and see that it can be written to, before an hour is spent on what goes into it.

    With `overwrite` the files of an earlier run are replaced, and nothing else in the folder is touched. Raises
    CourseError for a folder that is not empty, no folder at all, or not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not overwrite:
            raise CourseError(f"The folder {folder} is not empty: name another one, or add --overwrite.")
        tempfile.TemporaryFile(dir=folder).close()
        (folder / RESULT).unlink(missing_ok=True)  # a result must never stand beside the model of another run
    except OSError as error:
        raise CourseError(f"Results cannot be written to {folder}: {error.strerror}.") from error


def write_result(result: dict[str, Any], path: Path) -> None:
    """Write strict JSON, whole or not at all; a number that is not finite becomes null."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(_finite(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def before_after_table(result: dict[str, Any]) -> str:
    """The held-out scores before and after, with their change and its 95 % interval, as lines of text."""
    before, after = result["before"], result["after"]
    lines = [
        f"{before['problems']} held-out problems, {before['samples']} samples each at temperature "
        f"{before['temperature']:g}; {result['train_seconds']:.0f} s of training",
        f"{'':8}{'before':>8}{'after':>8}{'change':>8}   95 % interval of the change",
    ]
    for name, change in result["change"].items():
        low, high = change["interval"]
        scores = f"{before[name]:8.3f}{after[name]:8.3f}{change['difference']:+8.3f}"
        lines.append(f"{name:8}{scores}   {low:+.3f} to {high:+.3f}")
    return "\n".join(lines)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m helpers.train", description="Train a policy with GRPO.")
    parser.add_argument("--profile", required=True, help="tiny: the bundled model and problems, on any CPU")
    parser.add_argument("--output", required=True, metavar="DIR", help=f"folder for the model and {RESULT}")
    parser.add_argument("--max-steps", type=int, metavar="N", help="optimizer steps")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of sampling and of the order of problems")
    parser.add_argument("--reward", default="passes_tests", metavar="NAME", help="a function in helpers.rewards")
    parser.add_argument("--model", help="folder or hub id to start from")
    parser.add_argument("--allow-no-signal", action="store_true", help="train even where no group carries signal")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run in DIR")
    return parser.parse_args(argv)


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {name: getattr(arguments, name) for name in ("max_steps", "seed", "model")}
    return replace(
        profile_settings(arguments.profile), **{name: value for name, value in given.items() if value is not None}
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
