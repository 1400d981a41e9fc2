"""A run that takes a second, on a random model and twelve problems.

As a script: `python small_run.py FOLDER`, followed by the options of `python -m helpers.train`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from random_policy import arithmetic_problems, save_random_policy

from helpers import profiles, rewards, train
from helpers.problems import Problem, load_problems, write_problems


def vowels(completions, **columns) -> list[float | None]:
    """Return the fraction of vowels: a reward that a random model can climb."""
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in completions]


def twelve_problems() -> list[Problem]:
    """Return the six problems of `arithmetic_problems`, and six more that ask for twice their results."""
    return arithmetic_problems() + [
        Problem(
            task_id=f"{one.task_id}/2",
            prompt=one.prompt.replace("def ", "def twice_").replace("Return ", "Return twice "),
            canonical_solution=one.canonical_solution.replace("return ", "return 2 * (").rstrip() + ")\n",
            test=one.test.replace("== ", "== 2 * "),
            entry_point=f"twice_{one.entry_point}",
        )
        for one in arithmetic_problems()
    ]


def small_settings(folder: Path) -> profiles.Settings:
    """Return settings for such a run. Model and problems are written to `folder` if they are not there yet."""
    if not (folder / "problems.jsonl").exists():
        save_random_policy(folder / "model")
        write_problems(twelve_problems(), folder / "problems.jsonl")
    return replace(
        profiles.PROFILES["tiny"],
        model=str(folder / "model"),
        problems=str(folder / "problems.jsonl"),
        held_out=("0.5",),
        prompts_per_step=3,
        num_generations=4,
        max_completion_length=8,
        max_steps=4,
        save_steps=2,
        learning_rate=1e-2,
    )


def small_trainer(settings: profiles.Settings, output: Path, reward=vowels):
    """Return the trainer of such a run, as a notebook builds it."""
    from helpers.policy import load_policy
    from helpers.training import build_trainer

    problems = load_problems(settings.problems)
    return build_trainer(settings, *load_policy(settings.model), problems, reward, output, allow_no_signal=True)


if __name__ == "__main__":
    profiles.PROFILES["tiny"] = small_settings(Path(sys.argv[1]))
    rewards.vowels = vowels
    sys.exit(train.main(sys.argv[2:]))
