"""Tests of the exercises of notebook 05, losses and variants."""

from typing import Any

from helpers.checks import has_keys, hints, is_number, returns, same, shown

COUNTS = {"optimizer steps": 640, "with ratio 1": 80}
SILENT = {
    "clip, 0.2 and 0.2": "ac",
    "clip, 0.2 and 0.4": "c",
    "two-sided, 0.2, delta 1.5": "acd",
    "CISPO, cap 5": "",
}
GUESSES = {"lambda 0": [0.4, -0.7, -0.2], "lambda 1": [-0.5, -0.9, -0.2]}


@hints(
    "How many batches are sampled? Each has 16 x 8 completions.",
    "One pass over a batch takes two optimizer steps, and there are four passes.",
    "The ratio is 1 only while the model is the one that sampled.",
)
def exercise_1(counts: Any) -> None:
    """Count the optimizer steps of a run that reuses its batches, and those with a ratio of 1."""
    has_keys(counts, COUNTS, "counts")
    steps, ones = counts.values()
    for name, value in counts.items():
        assert is_number(value), f"`{name}` should be a number, and {shown(value)} is not."
    assert not same(steps, 320), "`optimizer steps`: one pass over a batch takes more than one optimizer step."
    assert not same(steps, 80), "`optimizer steps`: so many batches are sampled. How often is each used?"
    assert same(steps, COUNTS["optimizer steps"]), (
        f"`optimizer steps`: {shown(steps)} is not the number. Count batches."
    )
    assert not same(ones, 160), "`with ratio 1`: has the model moved when the second half of a batch is used?"
    assert same(ones, COUNTS["with ratio 1"]), (
        f"`with ratio 1`: {shown(ones)} is not the number. After which optimizer step of a batch does the model differ "
        "from the one that sampled?"
    )


@hints(
    "The clip silences a token only if it has already moved far in the direction that the update wants.",
    "A bad token that has become likelier has moved against the update. Which loss has a limit for it?",
    "In CISPO the ratio is only a weight on the log-probability, and the cap does not stop the gradient.",
)
def exercise_2(silent: Any) -> None:
    """Name the tokens whose gradient is 0, for four losses."""
    has_keys(silent, SILENT, "silent")
    for name, letters in silent.items():
        assert isinstance(letters, str), f'`{name}`: write the letters in one string, as in "ab" or "".'
        found = set(letters.lower()) - set(" ,")
        assert found <= set("abcd"), f"`{name}`: the tokens are a, b, c and d, not {shown(letters)}."
        expected = set(SILENT[name])
        for token in sorted(found - expected):
            raise AssertionError(f"`{name}`: token {token} still has a gradient.")
        missing = len(expected - found)
        assert not missing, f"`{name}`: {missing} more of the tokens {'is' if missing == 1 else 'are'} silent."


@hints(
    "A surprise is the reward plus the guess after the token minus the guess before it. After the end the guess is 0.",
    "At one end of lambda an advantage is the surprise itself.",
    "At the other end it is the sum of all surprises from this token on. Can you write that sum more simply?",
)
def exercise_3(advantages: Any) -> None:
    """Compute GAE's advantages of a completion that fails, for lambda 0 and lambda 1."""
    has_keys(advantages, GUESSES, "advantages")
    swapped = [GUESSES[name] for name in reversed(GUESSES)]
    values = list(advantages.values())
    assert not same(values, swapped), "The two ends are the wrong way round."
    for name, expected in GUESSES.items():
        given = advantages[name]
        given = given.tolist() if hasattr(given, "tolist") else given
        assert isinstance(given, list | tuple) and len(given) == 3, f"`{name}` needs a list of three numbers."
        assert not same(given, [-x for x in expected]), f"`{name}`: all signs are the wrong way round."
        for number, (got, right) in enumerate(zip(given, expected, strict=True), 1):
            assert same(got, right), f"`{name}`: {shown(got)} is not the advantage of token {number}."


@hints(
    "Compute one number for each completion first: how far the policy has left it, on average over its tokens.",
    "Padding must not count, neither in the sum nor in what you divide by.",
    "A completion is dropped only if two conditions hold together. `|` and `&` combine tensors of True and False.",
)
def exercise_4(keep: Any) -> None:
    """Write the off-policy mask: drop a completion that is bad and that the policy has left."""
    import torch

    old = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, -1.0, -9.0], [-2.0, -1.0, -1.0], [-1.0, -1.0, -1.0]])
    new = torch.tensor([[-3.0, -1.0, -2.0], [-1.3, -1.3, -1.0], [-1.0, -0.5, -1.0], [-3.0, -1.0, -2.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    cases = (
        ([-1.0, -1.0, -1.0, 1.0], 0.5, [0.0, 1.0, 1.0, 1.0], "Only the first is both bad and left by the policy."),
        ([-1.0, -1.0, -1.0, -1.0], 0.25, [0.0, 0.0, 1.0, 0.0], "The second has two tokens, each 0.3 less likely."),
        ([0.0, 0.0, 0.0, 0.0], 0.1, [1.0, 1.0, 1.0, 1.0], "An advantage of 0 is not bad."),
        ([-1.0, -1.0, -1.0, -1.0], 2.0, [1.0, 1.0, 1.0, 1.0], "None has been left so far."),
        ([1.0, -1.0, -1.0, -1.0], -0.2, [1.0, 0.0, 1.0, 0.0], "The third has become likelier."),
    )
    for advantages, threshold, expected, why in cases:
        returns(keep, (new, old, torch.tensor(advantages), mask, threshold), torch.tensor(expected), why)
