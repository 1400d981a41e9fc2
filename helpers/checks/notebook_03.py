"""Tests of the exercises of notebook 03, group-relative advantages."""

from typing import Any

from helpers.checks import hints, is_number, returns, same, shown

CLIPPED = {(1.3, 1.0): 0, (1.3, -1.0): 1, (0.7, 1.0): -1, (0.7, -1.0): 0, (1.1, 2.0): -1}
"""Ratio and advantage of the five tokens of exercise 3, and the sign of each gradient."""
SMALL = 0.01  # a smaller change of a probability counts as none


@hints(
    "Cut the rewards into groups of `G` first, then treat each group separately.",
    "Before you take the mean of a group, leave out what was not graded. 0.0 was graded.",
    "A reward that is `None` has an advantage of 0. It does not change the mean.",
)
def exercise_1(advantages_with_gaps: Any) -> None:
    """Compute reward minus group mean for a batch in which a reward may be None."""
    third = 1 / 3
    cases = (
        ([1.0, 0.0], 2, [0.5, -0.5], "No reward is missing: each one minus the mean."),
        ([None, 1.0, 0.0, 1.0], 4, [0.0, third, -2 * third, third], "What is the mean of the graded ones?"),
        ([4.0, 1.0, None, 1.0, None, -3.0], 3, [1.5, -1.5, 0.0, 2.0, 0.0, -2.0], "Every group has its own mean."),
        ([None, 0.0, 0.5, None], 2, [0.0] * 4, "One graded completion alone is its own mean."),
    )
    for rewards, size, expected, why in cases:
        returns(advantages_with_gaps, (rewards, size), expected, why)


@hints(
    "For the values 2, 4 and a padded 0, what does `mean` divide by, and what should it divide by?",
    "How many values count? The mask knows, whatever the values are.",
)
def exercise_2(masked_mean: Any) -> None:
    """Average the values whose mask is 1."""
    import torch

    cases = (
        ([2.0, 4.0, 0.0], [1, 1, 0], 3.0, "Two values count."),
        ([2.0, 4.0, 9.0], [1, 1, 0], 3.0, "A value in the padding must not matter."),
        ([9.0, 5.0, 0.0, 9.0, 1.0], [0, 1, 1, 0, 1], 2.0, "Three values count, and one of them is 0."),
        ([7.0, -2.0], [0, 1], -2.0, "One value counts."),
        ([1.0, 2.0, 3.0, 6.0], [1, 1, 1, 1], 3.0, "All values count."),
        ([[1.0, 2.0, 8.0], [6.0, 8.0, 8.0]], [[1, 1, 0], [1, 0, 0]], 3.0, "Three values count, in two rows."),
    )
    for values, mask, expected, why in cases:
        returns(masked_mean, (torch.tensor(values), torch.tensor(mask, dtype=torch.float32)), expected, why)


@hints(
    "Is the ratio outside 0.8 to 1.2? If so, does the minimum take the clipped side or the other one?",
    "A clipped loss does not change with the log-probability.",
    "If nothing is clipped, the loss is minus the advantage times the ratio, and the ratio rises with the "
    "log-probability.",
)
def exercise_3(signs: Any) -> None:
    """Give the sign of the gradient for five tokens."""
    signs = signs.tolist() if hasattr(signs, "tolist") else signs
    is_list = isinstance(signs, list | tuple) and len(signs) == len(CLIPPED)
    assert is_list, "Give a list with one sign for each of the five pairs."
    turned = [-sign for sign in CLIPPED.values()]
    assert not same(signs, turned), "These are the directions in which the token is pushed. Give the gradient's signs."
    for (pair, expected), sign in zip(CLIPPED.items(), signs, strict=True):
        assert same(sign, expected), f"For the pair `{pair}`, {shown(sign)} is not the sign. Is this token clipped?"


@hints(
    "Steps 3 to 8 are six lines, and section 1 has all of them. Which of them uses the rewards?",
    "Make a copy of the policy first. After the optimizer's step, ask the copy for its scores at the fork.",
    "For the prediction: what are the advantages in each case, and what does AdamW do with a constant factor?",
)
def exercise_4(predicted: Any, chance_after: Any, rewards: Any) -> None:
    """Predict what other rewards do to the probability of `>`, and write the update that shows it."""
    import torch

    cases = {"rewards x 10": 10 * rewards, "all rewards 1": torch.ones_like(rewards), "1 - rewards": 1 - rewards}
    assert isinstance(predicted, dict) and set(predicted) == set(cases), (
        f"Keep the dictionary with its three keys; `predicted` is {shown(predicted)}."
    )
    for case, word in predicted.items():
        assert word in ("up", "down", "same"), f'`{case}` should be "up", "down" or "same", not {shown(word)}.'
    assert callable(chance_after), f"`chance_after` should be a function, but it is {shown(chance_after)}."
    found = {}
    for case, values in ({"the real rewards": rewards} | cases).items():
        found[case] = chance_after(values.clone())
        assert is_number(found[case]) and 0 <= found[case] <= 1, (
            f"For {case}, `chance_after` returned {shown(found[case])}. It should return a probability, as a number."
        )
    real, start = found["the real rewards"], found["all rewards 1"]
    assert same(chance_after(rewards.clone()), real), (
        "Called twice with the same rewards, `chance_after` gives two results. Does it change the policy itself?"
    )
    assert real > start, (
        "With the real rewards the probability should end higher than with equal ones, which give no gradient. Is the "
        "mean subtracted, and is the sign of the loss right?"
    )
    shifted = chance_after(rewards + 5)
    assert abs(shifted - real) < SMALL, (
        f"Rewards of 5 and 6 should do what rewards of 0 and 1 do, but they end at {shifted:.1%}, and the real ones at "
        f"{real:.1%}. What removes a shift?"
    )
    for case in cases:
        change = found[case] - start
        went = "same" if abs(change) < SMALL else "up" if change > 0 else "down"
        assert predicted[case] == went, (
            f'For `{case}` you predicted "{predicted[case]}", but with your update the probability is '
            f"{found[case]:.1%}, and it was {start:.1%} before. Correct the prediction when you can say why."
        )
