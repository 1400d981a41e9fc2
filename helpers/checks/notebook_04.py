"""Tests of the exercises of notebook 04, a full GRPO run."""

from typing import Any

from helpers.checks import hints, is_number, returns, same, shown

FLAT = 0.05  # a smaller change of the mean reward is noise
CLOSE = 0.1  # a prediction of a share counts as right within this distance


@hints(
    "The formula subtracts from 1 the chance that all picks are wrong.",
    "How many ways are there to pick `k` samples? And how many ways to pick only wrong ones?",
)
def exercise_1(my_pass_at_k: Any) -> None:
    """Write the unbiased estimator of pass@k."""
    cases = (
        (8, 2, 3, 1 - 20 / 56, "Two of eight are correct."),
        (10, 3, 5, 1 - 21 / 252, "Three of ten are correct."),
        (8, 8, 1, 1.0, "All are correct."),
        (8, 0, 8, 0.0, "None is correct."),
        (8, 3, 6, 1.0, "Six picks cannot all be among five wrong ones."),
        (20, 5, 1, 0.25, "One pick out of twenty."),
    )
    for n, c, k, expected, why in cases:
        returns(my_pass_at_k, (n, c, k), expected, why)


@hints(
    "`num_generations` is the number of completions in a group.",
    "Two completions get the same reward if both pass or both fail. How likely is each, for p = 0.5 and for p = 0.2?",
)
def exercise_2(predicted: Any, experiment: Any) -> None:
    """Predict the share of groups without signal, then run 20 steps with groups of two."""
    assert is_number(predicted), f"`predicted` should be a number, and {shown(predicted)} is not."
    assert 0 <= predicted <= 1, f"`predicted` should be a share between 0 and 1, and it is {shown(predicted)}."
    trial = _run(experiment)
    groups = trial.settings.num_generations
    assert groups == 2, f"Your run has groups of {groups}. This exercise is about groups of 2."
    _only_change(trial, "num_generations")
    silent = float(trial.history["frac_reward_zero_std"].mean())
    assert abs(predicted - silent) <= CLOSE, (
        f"You predicted {shown(predicted)}, and in your run the share was {shown(round(silent, 2))}. Which groups have "
        "no signal? Correct the prediction when you can say why."
    )


@hints(
    "`learning_rate` takes a number. Ten times 3.5e-4 is 3.5e-3.",
    "Look at all curves of your run, also at the entropy and the length: does the model still write programs?",
)
def exercise_3(reward_goes: Any, because: Any, experiment: Any) -> None:
    """Predict what ten times the learning rate does to the reward, run 20 steps, and say why."""
    ways = ("up", "down", "flat")
    assert reward_goes in ways, f'`reward_goes` should be "up", "down" or "flat", not {shown(reward_goes)}.'
    assert because in ("a", "b", "c"), f'`because` should be "a", "b" or "c", not {shown(because)}.'
    trial = _run(experiment)
    rate = trial.settings.learning_rate
    assert same(rate, 3.5e-3), f"Your run has a learning rate of {shown(rate)}, which is not ten times the course's."
    _only_change(trial, "learning_rate")
    reward = trial.history["reward"]
    change = float(reward.tail(5).mean() - reward.head(5).mean())
    went = "flat" if abs(change) < FLAT else "up" if change > 0 else "down"
    assert reward_goes == went, (
        f'You predicted "{reward_goes}", but from the first five to the last five steps the mean reward of your run '
        f"changed by {change:+.2f}."
    )
    wrong = {
        "a": "If the rate only set the speed, the reward would have risen faster than with the course's rate.",
        "c": "With one update for each batch of samples the ratio is 1, so nothing is clipped.",
    }
    assert because not in wrong, (
        f"The reward went as you predicted, but the reason is another one. {wrong.get(because)}"
    )


def _run(experiment: Any) -> Any:
    """Run the experiment and return its Trial."""
    from helpers.trials import STEPS, Trial

    assert callable(experiment), f"`experiment` should be a function, but it is {shown(experiment)}."
    trial = experiment()
    assert isinstance(trial, Trial), "`experiment` should return what `twenty_steps(...)` returns."
    steps = len(trial.history)
    assert steps == STEPS, f"Your run has {steps} steps. The exercise needs all {STEPS}."
    return trial


def _only_change(trial: Any, name: str) -> None:
    """Assert that the run differs from the course's in this setting alone."""
    from dataclasses import asdict

    from helpers.profiles import profile_settings

    course = asdict(profile_settings("tiny"))
    changed = {key for key, value in asdict(trial.settings).items() if value != course[key]} - {"max_steps", name}
    assert not changed, f"Your run also changes {', '.join(sorted(changed))}. Change one thing at a time."
