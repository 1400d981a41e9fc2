"""Tests of the exercises of notebook 01, RLHF and RLVR."""

import ast
from typing import Any

from helpers.checks import hints, is_number, same, shown

MODELS = {
    "PPO, learned reward, KL penalty": ((2, 2), "Did you count the critic and the reference?"),
    "GRPO, learned reward, KL penalty": ((1, 2), "What does the mean of the group replace?"),
    "GRPO, verifier, KL penalty": ((1, 1), "Is a verifier a model?"),
    "GRPO, verifier, no KL penalty": ((1, 0), "What is the reference for?"),
}
SMALL, LARGE = 1_543_714_304, 7_615_616_512
"""The weights of the two models in exercise 2, as in the cell above it."""
INPUTS = {
    "equation": ({"answer", "solution"}, {"answer", "equation"}),
    "function": ({"program", "tests"},),
    "json": ({"text", "schema"},),
    "poem": (),
    "proof": ({"proof", "statement"},),
    "apology": (),
}
"""For each task of exercise 4, the sets of inputs with which a program can decide."""


@hints(
    "Go through the four roles: policy, critic, reward model, reference. Which of them does the setup need?",
    "The optimizer changes a trained model during reinforcement learning. A frozen model is only asked.",
    "The critic is trained along with the policy. The reward model and the reference do not change.",
)
def exercise_1(trained_and_frozen: Any) -> None:
    """Count the models of four setups as pairs (trained, frozen)."""
    assert isinstance(trained_and_frozen, dict), "Keep the dictionary with its four names."
    for name in MODELS:
        pair = trained_and_frozen.get(name)
        assert isinstance(pair, list | tuple) and len(pair) == 2, f"`{name}` needs a pair: (trained, frozen)."
    pairs = {name: tuple(trained_and_frozen[name]) for name in MODELS}
    turned = all(pairs[name][::-1] == pair for name, (pair, _) in MODELS.items())
    assert not turned, "The pairs are the wrong way round: the trained models come first."
    for name, (pair, question) in MODELS.items():
        assert same(pairs[name], pair), f"`{name}`: not {shown(pairs[name])}. {question}"


@hints(
    "List the models of each setup first. Exercise 1 counted them.",
    "Training takes 16 bytes for each weight, as counted above. What does a frozen model need in bf16?",
    "With PPO, add up policy, critic, reference and reward model. Which of them does the second setup keep?",
)
def exercise_2(with_ppo: Any, with_grpo: Any) -> None:
    """Give the bytes that the models take with PPO, and with GRPO and a verifier."""
    in_ppo, in_grpo = 34 * SMALL + 2 * LARGE, 18 * SMALL
    for answer, right in ((with_ppo, in_ppo), (with_grpo, in_grpo)):
        assert is_number(answer), f"Both answers are numbers, and {shown(answer)} is not."
        in_gb = same(answer, right / 1e9, 0.01) or same(answer, right / 2**30, 0.01)
        assert not in_gb, f"{shown(answer)} looks like gigabytes. Give the bytes."
    reasons = {
        34 * SMALL + 16 * LARGE: "Is the reward model trained during PPO?",
        48 * SMALL + 2 * LARGE: "Is the reference trained?",
        18 * SMALL + 2 * LARGE: "Which model besides the policy does PPO train?",
        32 * SMALL + 2 * LARGE: "What does the KL penalty need?",
    }
    _is_about(with_ppo, in_ppo, "with_ppo", reasons)
    reasons = {
        34 * SMALL: "Does GRPO train a critic?",
        32 * SMALL: "Does GRPO train two models?",
        16 * SMALL: "What does the KL penalty need?",
        18 * SMALL + 2 * LARGE: "What does the verifier replace?",
    }
    _is_about(with_grpo, in_grpo, "with_grpo", reasons)


def _is_about(answer: Any, right: int, name: str, reasons: dict[int, str]) -> None:
    """Assert that an answer is within half a percent. If not, the message hints at what was probably overlooked."""
    reason = next((why for wrong, why in reasons.items() if same(answer, wrong, 0.001)), "")
    size = "too much" if answer > right else "too little"
    assert same(answer, right, 0.005), f"`{name}`: {answer / 1e9:.1f} GB is {size}. {reason}".rstrip()


@hints(
    "Compute the colleague's loss by hand for two pairs: one far right, one far wrong. Which pair does it see?",
    "Every pair needs a loss of its own. Take the mean last.",
    "In float32 the sigmoid of -200 is 0. `torch.nn.functional` has a function for the logarithm of the sigmoid.",
)
def exercise_3(mended_loss: Any) -> None:
    """Write the Bradley-Terry loss: one loss for each pair, stable for large gaps, with a gradient."""
    import torch

    cases = (
        ([2.0], [1.0], "The one pair has a gap of 1, and the scores agree with the labeler."),
        ([1.0], [3.0], "The one pair has a gap of 2, and the scores disagree with the labeler."),
        ([2.0, 1.0, 0.0], [1.0, 3.0, 0.5], "Each pair has a loss of its own. Their mean comes last."),
        ([200.0, -200.0], [0.0, 0.0], "One pair is far right, one far wrong. Do you take the logarithm of 0?"),
    )
    assert callable(mended_loss), f"This should be a function, but it is {shown(mended_loss)}."
    for chosen, rejected, why in cases:
        scores = [torch.tensor(numbers, requires_grad=True) for numbers in (chosen, rejected)]
        gaps = torch.tensor(chosen) - torch.tensor(rejected)
        loss = mended_loss(*scores)
        call = f"For chosen {shown(chosen)} and rejected {shown(rejected)}"
        value = loss.tolist() if hasattr(loss, "tolist") else loss
        assert is_number(value), f"{call} it returned {shown(loss)}. Return one number for the whole batch."
        assert same(loss, torch.nn.functional.softplus(-gaps).mean()), f"{call} it returned {shown(loss)}. {why}"
        trains = isinstance(loss, torch.Tensor) and loss.requires_grad
        slopes = torch.autograd.grad(loss, scores, allow_unused=True) if trains else (None, None)
        none = "The number is right, but it has no gradient, so nothing can be trained with it. Return a tensor."
        assert all(slope is not None for slope in slopes), none
        right = torch.sigmoid(-gaps) / len(gaps)
        steep = same(slopes[0], -right) and same(slopes[1], right)
        assert steep, f"{call} the loss is right, but its gradient is {shown(slopes[0])} for the chosen scores."


@hints(
    "For each task, ask what a program would compare. If it had to feel or to understand, the answer is `None`.",
    "A verifier needs what the model wrote, and something that decides. A description in words decides nothing.",
)
def exercise_4(my_verifiers: Any) -> None:
    """Give the signature of a verifier for each task, or None if no program can decide."""
    assert isinstance(my_verifiers, dict), "Keep the dictionary with its six tasks."
    for task, sufficient in INPUTS.items():
        assert task in my_verifiers, f"The task `{task}` is missing."
        given = my_verifiers[task]
        assert given is None or isinstance(given, str), f"`{task}`: write a signature in quotes, or `None`."
        assert (given is None) == (not sufficient), f"`{task}`: can a program decide this, or only a person?"
        if given is None:
            continue
        inputs = _inputs_of(given, task)
        assert not any(inputs > enough for enough in sufficient), f"`{task}`: there is an input that it does not need."
        assert inputs in sufficient, f"`{task}`: can a program decide from {' and '.join(sorted(inputs)) or 'nothing'}?"


def _inputs_of(signature: str, task: str) -> set[str]:
    """Return the names of a signature's parameters, with or without type hints."""
    try:
        [function] = ast.parse(f"def {signature.strip().removeprefix('def ').rstrip(':')}: ...").body
        return {parameter.arg for parameter in function.args.args}  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, AttributeError):
        raise AssertionError(f"`{task}`: write it as `verify(...)`, with names between the brackets.") from None
