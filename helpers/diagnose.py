"""Say what is wrong with a training run, from what it logged: python -m helpers.diagnose RUN_FOLDER

Each rule reads a few metrics that TRL logs. It does not see the completions, so it can only name a suspicion.
Nothing here imports torch or TRL, so the answer comes at once.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from helpers.run_folder import COLUMNS, RESULT, STATE, checkpoint_folders, steps_frame
from helpers.runtime import CourseError

if TYPE_CHECKING:
    import pandas as pd

# Logged steps. In fewer than ENOUGH, noise hides a trend. LONG is for a reward that does not rise: with four prompts
# a step, the reward of one healthy run did not rise visibly in 30 steps.
ENOUGH, LONG = 20, 40
BEFORE, AFTER = "pass@1 before", "pass@1 after"  # in the history too, so that a rule can ask for them


class Rule(NamedTuple):
    """One suspicion. `seen` gets the history, one row per logged step, and returns what it saw, or None."""

    name: str
    needs: tuple[str, ...]  # columns of the history
    seen: Callable[["pd.DataFrame"], str | None]
    means: str
    remedy: str
    shown: str  # notebook and section
    steps: int = 1  # so many must be logged


# --- what the rules look for ---


def trend(values: "pd.Series") -> float:
    """Return the slope of a line through the values in standard errors; NaN for fewer than 3 values, or equal ones.

    Below 1 in size, the values neither rise nor fall visibly. Two is the usual bound for a trend.

    >>> import pandas as pd
    >>> trend(pd.Series([0.1, 0.3, 0.2, 0.4])) > 1
    True
    """
    import numpy as np

    y = values.dropna().to_numpy(float)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    if len(y) < 3 or y.std() < 1e-9:
        return float("nan")
    slope = (x @ y) / (x @ x)
    rest = y - y.mean() - slope * x
    error = np.sqrt((rest @ rest) / (len(y) - 2) / (x @ x))
    return float(slope / max(error, 1e-12))


def ends(values: "pd.Series") -> tuple[float, float]:
    """Return the mean of the first third of the values, and of the last third."""
    third = max(1, len(values) // 3)
    return float(values.iloc[:third].mean()), float(values.iloc[-third:].mean())


def _from_to(values: "pd.Series") -> str:
    first, last = ends(values)
    return f"from {first:.3g} (first third of the steps) to {last:.3g} (last third)"


def _ungraded(history: "pd.DataFrame") -> str | None:
    share = history["reward"].isna().mean()
    return f"no reward at all in {share:.0%} of the steps" if share > 0.1 else None


def _no_signal(history: "pd.DataFrame") -> str | None:
    silent, reward = ends(history["frac_reward_zero_std"])[0], ends(history["reward"])[0]
    seen = f"in the first third of the steps, {silent:.0%} of the groups without signal, reward {reward:.3g}"
    return seen if silent > 0.9 else None


def _broken_weights(history: "pd.DataFrame") -> str | None:
    # Before they are NaN, ruined weights write one token again and again: no entropy, reward or gradient is left.
    entropy, gradient = history["entropy"], history["grad_norm"]
    dead = (entropy < entropy.iloc[0] / 20) & (gradient == 0) & (history["reward"] == 0)
    broken = history[dead | entropy.isna() | ~gradient.abs().lt(float("inf"))]
    if broken.empty:
        return None
    return f"in {len(broken)} of {len(history)} steps, first in step {broken['step'].iloc[0]:.0f}"


def _cut_off(history: "pd.DataFrame") -> str | None:
    share = history["clipped_ratio"].mean()
    return f"{share:.0%} of all completions were cut off" if share > 0.5 else None


def _runs_on(history: "pd.DataFrame") -> str | None:
    first, last = ends(history["clipped_ratio"])
    return f"cut off: {_from_to(history['clipped_ratio'])}" if last > first + 0.1 else None


def _can_rise(history: "pd.DataFrame") -> bool:
    return history["reward"].std() > 1e-6 and history["reward"].mean() < 0.9


def _does_not_rise(history: "pd.DataFrame") -> str | None:
    level = -2 <= trend(history["reward"]) < 1
    return f"reward {_from_to(history['reward'])}" if _can_rise(history) and level else None


def _falls(history: "pd.DataFrame") -> str | None:
    first, last = ends(history["reward"])
    falls = last < first - 0.1 and trend(history["reward"]) < -2
    return f"reward {_from_to(history['reward'])}" if falls else None


def _small_rate(history: "pd.DataFrame") -> str | None:
    rate = history["learning_rate"].max()
    if rate > 1e-5 or not _can_rise(history) or trend(history["reward"]) >= 2:
        return None
    return f"learning rate at most {rate:g}, and reward {_from_to(history['reward'])}"


def _earns_nothing(history: "pd.DataFrame") -> str | None:
    # Silent groups earn everything or nothing. If those with signal earn a half, the rest follows from the mean reward.
    late = history.tail(max(1, len(history) // 3))
    if not late["reward"].between(0, 1).all():
        return None
    share = (1 + late["frac_reward_zero_std"].mean()) / 2 - late["reward"].mean()
    return f"about {share:.0%} of the groups of the last third earned nothing" if share > 0.15 else None


def _solved(history: "pd.DataFrame") -> str | None:
    reward, silent = ends(history["reward"])[1], ends(history["frac_reward_zero_std"])[1]
    both = reward > 0.9 and silent > 0.8
    return f"in the last third, reward {reward:.2f} and {silent:.0%} of the groups without signal" if both else None


def _shorter(history: "pd.DataFrame") -> str | None:
    (first, last), length = ends(history["completion_length"]), history["completion_length"]
    falls = last < 0.9 * first and trend(length) < -2 and trend(history["reward"]) > 2
    return f"length {_from_to(length)}, while reward {_from_to(history['reward'])}" if falls else None


def _kl_is_paid(history: "pd.DataFrame") -> str | None:
    # A penalty adds beta times kl to the loss. The rest of the loss is near 0, whatever the model learns.
    together = history["kl"].corr(history["loss"])
    return f"kl {_from_to(history['kl'])}; its correlation with the loss is {together:.2f}" if together < -0.8 else None


def _same_score(history: "pd.DataFrame") -> str | None:
    before, after = history[BEFORE].iloc[-1], history[AFTER].iloc[-1]
    return f"pass@1 is {before:.4f} before training and after it" if before == after else None


RULES = (
    Rule(
        "nothing is graded",
        ("reward",),
        _ungraded,
        "the reward function returned None for every completion of a step",
        "grade a known solution with it, and read the warnings of the verifier",
        "03.2",
    ),
    Rule(
        "no signal from the start",
        ("reward", "frac_reward_zero_std"),
        _no_signal,
        "the completions of a group earn the same, so every advantage is 0: answers cut off or not found in the text, "
        "a prompt in a form that the model does not know, problems too hard or too easy, or a grader that always says "
        "the same",
        "read three completions, and grade a known solution and a wrong one with your reward function",
        "03.2",
        3,
    ),
    Rule(
        "the weights are ruined",
        ("grad_norm", "entropy", "reward"),
        _broken_weights,
        "mostly weights in fp16, where AdamW's squared gradients round to 0 and its steps become huge; TRL then logs "
        "a loss and a gradient of 0",
        "keep the weights in float32 (`dtype`), with `bf16=True`, or `fp16=True` on a GPU without bf16",
        "05.7",
    ),
    Rule(
        "completions are cut off",
        ("clipped_ratio",),
        _cut_off,
        "the completions reach `max_completion_length` before they end, and the grader sees half an answer",
        "raise `max_completion_length`; if the model never writes its end token, check the prompt's form",
        "04.5",
    ),
    Rule(
        "completions no longer end",
        ("clipped_ratio",),
        _runs_on,
        "the model unlearns its end token: unfinished answers are paid, or end tokens are punished",
        "give an unfinished answer 0, and check that the loss mask keeps the end token",
        "03.3",
        ENOUGH,
    ),
    Rule(
        "the reward does not rise",
        ("reward",),
        _does_not_rise,
        "the steps are too small or too few, the reward has nothing to do with the answer, or the loss is wrong",
        "measure pass@1 and pass@8 before training, train longer on few problems, then raise the learning rate",
        "04.4",
        LONG,
    ),
    Rule(
        "the reward falls",
        ("reward",),
        _falls,
        "the steps are so large that they spoil what the model could do, or the loss has the wrong sign",
        "try a tenth of the learning rate; if the reward still falls, compare one loss with the formula by hand",
        "04.7",
        ENOUGH,
    ),
    Rule(
        "the learning rate is small",
        ("learning_rate", "reward"),
        _small_rate,
        "the weights hardly move; 1e-6 is usual for a large model, and too small for a small one and for adapters",
        "raise `learning_rate` tenfold, again and again, until the reward moves",
        "04.7",
        ENOUGH,
    ),
    Rule(
        "some groups never earn",
        ("reward", "frac_reward_zero_std"),
        _earns_nothing,
        "some problems are too hard, or cannot be graded and count as 0",
        "return None for what cannot be graded, and count per problem how often it is solved",
        "03.2",
        ENOUGH,
    ),
    Rule(
        "the problems are solved",
        ("reward", "frac_reward_zero_std"),
        _solved,
        "hardly a group has signal left, because nearly all completions earn everything",
        "stop, or take harder problems; compare with the held-out score, because a cheat looks the same",
        "03.2",
        ENOUGH,
    ),
    Rule(
        "answers get shorter as the reward rises",
        ("reward", "completion_length"),
        _shorter,
        "possibly a short answer that the grader accepts, such as an early exit",
        "read what earns the reward, and grade it with tests that the program cannot reach",
        "02.8",
        ENOUGH,
    ),
    Rule(
        "the loss falls as kl grows",
        ("kl", "loss"),
        _kl_is_paid,
        "the KL term has the wrong sign, so the distance from the reference is rewarded",
        "check the sign: the loss contains plus `beta` times kl",
        "05.3",
        ENOUGH,
    ),
    Rule(
        "the score is the same as before",
        (BEFORE, AFTER),
        _same_score,
        "the model that was measured is the untrained one: an adapter was not loaded or merged, or nothing was learned",
        "load the saved model anew, and compare its weights and a completion with those of the trained one",
        "04.6",
    ),
)
# Faults that leave no trace in the log, and what shows them instead.
NEEDS_MORE = {
    "a group of two prompts": "print completions with their prompts (`log_completions=True`); a group has one prompt",
    "an end token left out of the loss": "print ids and mask of one completion; the mask of the end token is 1",
    "a reward that pays for the wrong thing": "read the completions that earn it, and evaluate held-out problems",
}


# --- the command ---


def read_history(folder: Path) -> "tuple[Path, pd.DataFrame]":
    """Return the file with a run's log, and what was logged, one row per step, without metrics that were not logged.

    The file is `result.json`, else `trainer_state.json` in the folder or in its newest checkpoint, as plain TRL writes
    it too. Raises CourseError if there is none, if it is damaged, or if it has no step.
    """
    import pandas as pd

    newest = [path / STATE for path in reversed(checkpoint_folders(folder))]
    path = next((path for path in (folder / RESULT, folder / STATE, *newest) if path.is_file()), None)
    if path is None:
        what = f"has no {RESULT} and no checkpoint with a {STATE}" if folder.is_dir() else "is not a folder"
        raise CourseError(f"{folder} {what}: name the folder of a run (its output_dir).")
    try:
        content = json.loads(path.read_bytes())
        entries = [dict(entry) for entry in content["history" if path.name == RESULT else "log_history"]]
        if path.name == RESULT:
            history = pd.DataFrame(entries).astype(float)
        else:
            logged = {COLUMNS.get(key, key) for entry in entries for key in entry}
            history = steps_frame(entries)
            history = history[[name for name in history if name in logged]]
        if "held_out" in content:
            scores = next(iter(content["held_out"].values()))
            both = {BEFORE: scores["before"]["pass@1"], AFTER: scores["after"]["pass@1"]}
            history = history.assign(**{name: score for name, score in both.items() if score is not None})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CourseError(f"{path} is damaged, or is no record of a run ({type(error).__name__}: {error}).") from error
    if history.empty:
        raise CourseError(
            f"{path} has no training step: one step needs more prompts than the data set has, or it has just begun."
        )
    if "reward" not in history:
        raise CourseError(f"{path} logs no reward, so it is not a run of GRPO.")
    return path, history


def findings(history: "pd.DataFrame") -> list[tuple[Rule, str]]:
    """Return the rules that fire, each with what it saw. A rule needs its metrics and enough logged steps."""
    able = [rule for rule in RULES if set(rule.needs) <= set(history) and rule.steps <= len(history)]
    return [(rule, seen) for rule in able if (seen := rule.seen(history))]


def report(history: "pd.DataFrame") -> str:
    """Return the findings as text, and what was not judged."""
    lines = []
    for number, (rule, seen) in enumerate(findings(history), 1):
        lines += [
            f"{number}. {rule.name} ({', '.join(map(log_key, rule.needs))})",
            f"   seen:  {seen}",
            f"   means: {rule.means}",
            f"   try:   {rule.remedy}",
            f"   shown: notebook {rule.shown[:2]}, section {rule.shown[3:]}",
            "",
        ]
    if not lines:
        lines = ["Nothing suspicious.", ""]
    for rule in RULES:
        if absent := [log_key(name) for name in rule.needs if name not in history]:
            lines.append(f'Not logged: {", ".join(absent)}. So "{rule.name}" is not judged.')
        elif len(history) < rule.steps:
            lines.append(f'Fewer than {rule.steps} steps are logged. So "{rule.name}" is not judged.')
    lines += ["The log cannot show:", *(f"- {fault}: {what}" for fault, what in NEEDS_MORE.items())]
    return "\n".join(lines)


def log_key(column: str) -> str:
    """Return the key under which TRL logs a column of the history.

    >>> log_key("clipped_ratio")
    'completions/clipped_ratio'
    """
    return next((key for key, name in COLUMNS.items() if name == column), column)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, suspicious or not, and 2 with one sentence if there is no run to read."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.diagnose", description="Say what is suspicious in the log of a training run."
    )
    parser.add_argument("folder", metavar="RUN_FOLDER", help="output folder of helpers.train or of a TRL trainer")
    try:
        path, history = read_history(Path(os.path.expanduser(parser.parse_args(argv).folder)))
    except CourseError as error:
        print(f"helpers.diagnose: {error}", file=sys.stderr)
        return 2
    print(f"{path}: {len(history)} logged steps\n\n{report(history)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
