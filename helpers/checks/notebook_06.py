"""Tests of the exercises of notebook 06, reading a run."""

from typing import Any

from helpers.checks import has_keys, hints, is_number, returns, same, shown
from helpers.runtime import project_root

FACTORS = {"half of the right ones refused": 0.5, "10 % of all flipped": 0.8}
NEAR = 6  # points by which a prediction may miss
PLAN = {"num_generations": 0, "prompts_per_step": 0, "max_steps": 0}
FAULTS = {"C": "unlearns to end", "O": "the KL's sign"}


@hints(
    "Which share of the right ones is refused, and which share of the wrong ones is paid?",
    "If 10 % of all are flipped, that concerns right ones and wrong ones.",
    "For the prediction: AdamW mostly cancels a constant factor. Does the run keep more or less than half of the gain?",
)
def exercise_1(factors: Any, pass_at_1: Any) -> None:
    """Compute what random errors do to an advantage, and predict what they do to a run."""
    import pandas as pd

    has_keys(factors, FACTORS, "factors")
    for name, factor in factors.items():
        assert is_number(factor), f"`{name}` should be a number, and {shown(factor)} is not."
        assert same(factor, FACTORS[name]), f"`{name}`: {shown(factor)} is not the factor. What are a and b here?"
    assert is_number(pass_at_1), f"`pass_at_1` should be a number, and {shown(pass_at_1)} is not."
    assert not 0 < pass_at_1 <= 1, "`pass_at_1` should be in per cent."
    scores = pd.read_csv(project_root() / "data/measurements/verifier_quality_scores.csv")
    recorded = 100 * scores[scores["run"] == "25 % flipped"]["pass@1"].mean()
    side = "high" if pass_at_1 > recorded else "low"
    assert abs(pass_at_1 - recorded) <= NEAR, (
        f"The factors are correct. Your prediction is more than {NEAR} points too {side}."
    )


@hints(
    "Compute `teaching(G)` for some group sizes between 2 and 32.",
    "A step samples problems x group size. Divide the budget by that.",
    "Small groups teach too rarely. With large ones the budget ends before the steps do.",
)
def exercise_2(plan: Any, because: Any) -> None:
    """Choose settings for 5,000 completions."""
    import pandas as pd

    has_keys(plan, PLAN, "plan")
    for name, value in plan.items():
        assert isinstance(value, int) and value > 0, f"`{name}` should be a whole number above 0, not {shown(value)}."
    size, problems, steps = (plan[name] for name in PLAN)
    completions = size * problems * steps
    assert completions <= 5000, f"This run samples {completions:,} completions, more than 5,000."
    assert completions >= 4800, f"This run samples {completions:,} completions. You have paid for more."
    counts = pd.read_csv(project_root() / "data/measurements/pass_at_k_problems.csv")
    p = counts[(counts["run"] == "before training") & (counts["seed"] == 0)]["correct"] / 64
    share = (1 - p**size - (1 - p) ** size).mean()
    assert share >= 0.75, f"With groups of {size}, {share:.0%} of the groups are expected to teach something."
    assert problems >= 8, f"{problems} problems in a step are too few."
    assert steps >= 40, f"{steps} steps are too few to see whether the reward rises."
    assert isinstance(because, str) and len(because.split()) >= 6, (
        "The settings are fine. Say why in a sentence, as text."
    )


@hints(
    "The sum of the squares of these numbers is the number of problems that changed.",
    "The variance is the mean of the squares minus the square of the mean.",
    "A change can also be a loss.",
)
def exercise_3(is_more_than_noise: Any) -> None:
    """Decide whether the change between two paired evaluations is more than noise."""
    for arguments, expected, why in (
        ((19, 11, 164), False, "30 problems changed, and the mean change is 4.9 points."),
        ((29, 17, 246), False, "With half as many problems more, the interval is narrower, but not by enough."),
        ((38, 22, 328), True, "With twice as many problems, the same change is more than noise."),
        ((8, 0, 164), True, "Only 8 problems changed, and all for the better."),
        ((40, 20, 164), True, "60 problems changed, and the mean change is 12.2 points."),
        ((20, 40, 164), True, "A loss can be more than noise, too."),
        ((11, 19, 164), False, "This is as much as the first case, in the other direction."),
        ((30, 30, 164), False, "Nothing was gained on the whole."),
    ):
        returns(is_more_than_noise, arguments, expected, why)


@hints(
    "For C, compare the first and the last steps of the completion length and of the truncated completions.",
    "For C, read the completions: what should have come after the first line?",
    "For O, look at the panel that the healthy patient's log does not have. A penalty would keep it low.",
)
def exercise_4(faults: Any) -> None:
    """Name the faults of two patients of the clinic."""
    has_keys(faults, FAULTS, "faults")
    for letter, name in faults.items():
        assert isinstance(name, str), f"`{letter}`: write the name of the fault as text, not {shown(name)}."
        assert name == FAULTS[letter], f"`{letter}`: {shown(name)} does not explain what you see there."
