"""How a run starts, with the untrained model of any profile, and twenty steps of training with a changed setting."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.evaluation import counted_progress, grade, print_progress
from helpers.lora import DTYPES, add_adapter
from helpers.memory import return_freed_memory
from helpers.policy import load_policy, sample_completions
from helpers.problems import Problem, first_problems, load_sets, prompt_text
from helpers.profiles import Settings, profile_settings
from helpers.rewards import passes_tests
from helpers.run_folder import SOLVED
from helpers.solvable import keep_solvable

STEPS = 20


@dataclass(frozen=True)
class Trial:
    """What twenty steps of training gave: its settings, its history (one row per step) and the trained model."""

    settings: Settings
    history: pd.DataFrame
    model: PreTrainedModel | None = None


def load_untrained(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model that a run starts from and its tokenizer, with a new adapter if the settings ask for one.

    Raises PolicyError as `load_policy` does, and ValueError if the model has no layer for the adapter.

    >>> load_untrained(profile_settings("tiny"))[0].num_parameters()
    919680
    """
    if settings.lora_rank:
        # The weights in float32 are freed after their conversion, and only a large model has an adapter.
        return_freed_memory()
    model, tokenizer = load_policy(settings.model, device=settings.device)
    if settings.lora_rank:
        dtype = DTYPES[settings.lora_base]
        model = add_adapter(model, settings.lora_rank, settings.lora_layers, dtype=dtype, seed=settings.seed)
    return model, tokenizer


def worth_training_on(
    problems: Sequence[Problem],
    settings: Settings,
    folder: Path,
    untrained: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
) -> list[Problem]:
    """Return at most `train_limit` problems and, if `keep_solvable` is set, only those that are solved sometimes.

    How often the model solved each of them is stored in `folder`. `untrained` is what `load_untrained` returned; it is
    called if the counts are needed and nothing is given. The profile tiny keeps all problems.
    """
    problems = first_problems(problems, settings.train_limit)
    if not settings.keep_solvable:
        return problems
    # The counts belong to the model, so the seed of a run does not change them.
    sampling: dict[str, Any] = settings.sampling | {"seed": 0}
    sampling |= {name: getattr(settings, name) for name in ("temperature", "max_completion_length")}
    names = ("model", "prompt", "temperature", "max_completion_length", "group_sampling", "precision")
    given = {name: getattr(settings, name) for name in names} | {"base": settings.base_precision}

    def count(chosen: Sequence[Problem]) -> list[int]:
        model, tokenizer = untrained or load_untrained(settings)
        prompts = [prompt_text(problem, tokenizer, str(settings.prompt)) for problem in chosen]
        progress = counted_progress(print_progress(), len(chosen) * settings.keep_solvable)
        completions = sample_completions(
            model, tokenizer, prompts, num_samples=settings.keep_solvable, progress=progress, **sampling
        )
        return [sum(passed) for passed in grade(chosen, completions)]

    return keep_solvable(problems, settings.keep_solvable, count, folder / SOLVED, given)


def twenty_steps(reward: Any = passes_tests, **changes: Any) -> Trial:
    """Train the bundled model from its untrained state for 20 steps, with `changes` to the settings of profile tiny.

    The share of completions that pass the tests is the history's column `passes_tests`, whatever the reward is. Two
    calls with the same arguments give the same run. Raises SettingsError for settings that do not fit together.
    """
    from helpers.training import Progress, build_trainer, history_frame

    settings = replace(profile_settings("tiny"), max_steps=STEPS, **changes)
    problems, _ = load_sets(settings.problems)
    model, tokenizer = load_untrained(settings)
    # Without a second function, TRL logs the tests' share as "reward" alone.
    functions, weights = ([passes_tests], None) if reward is passes_tests else ([reward, passes_tests], [1.0, 0.0])
    extra = ["passes_tests"] if weights else []
    with TemporaryDirectory() as folder:
        trainer = build_trainer(
            settings, model, tokenizer, problems, functions, folder, reward_weights=weights, progress=Progress(extra)
        )
        trainer.train()
    history = history_frame(trainer)
    return Trial(settings, history if weights else history.assign(passes_tests=history["reward"]), model)
