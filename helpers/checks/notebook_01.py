"""Tests of the exercises of notebook 01, RLHF and RLVR."""

from typing import Any

from helpers.checks import hints, is_number, same, shown

MODELS = {
    "PPO, learned reward, KL penalty": ((2, 2), "Did you count the critic and the reference?"),
    "GRPO, learned reward, KL penalty": ((1, 2), "What does the mean of the group replace?"),
    "GRPO, verifier, KL penalty": ((1, 1), "Is a verifier a model?"),
    "GRPO, verifier, no KL penalty": ((1, 0), "What is the reference for?"),
}
TASKS = {
    "equation": ("program", "D"),
    "function": ("program", "B"),
    "invoice": ("program", "C"),
    "advice": ("rubric", "E"),
    "proof": ("program", "F"),
    "poem": ("person", "A"),
}
"""For each task of exercise 4, who decides, and how that reward would be cheated."""
CHEATS = {
    "A": "What does nobody but a reader decide, and what do readers like?",
    "B": "What would beat fixed inputs?",
    "C": "What does the schema not say?",
    "D": "What does a checker do with two answers?",
    "E": "What does a judge look for who has a list?",
    "F": "What could one assume?",
}
"""A question that leads to each cheat."""


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
    "Compute the colleague's loss by hand for two pairs: one far right, one far wrong. Which pair does it see?",
    "Every pair needs a loss of its own. Take the mean last.",
    "In float32 the sigmoid of -200 is 0. `torch.nn.functional` has a function for the logarithm of the sigmoid.",
)
def exercise_2(mended_loss: Any) -> None:
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
    "Begin with n = 8: all eight completions are there, and a random number decides. Among how many things?",
    "Per text there are three numbers, and each text is as likely as the others to get the highest one.",
    "Per sample there are eight numbers. Is the policy's favourite still ahead?",
)
def exercise_3(chances: Any) -> None:
    """Predict how often a score that knows nothing chooses a completion that passes."""
    expected = {
        "n = 1": (5 / 8, "With n = 1 nothing is chosen: one of the eight is drawn."),
        "n = 8, a number per text": (1 / 3, "How many different texts are there, and how many of them pass?"),
        "n = 8, a number per sample": (5 / 8, "Each of the eight completions is as likely as the others to win."),
    }
    assert isinstance(chances, dict), "Keep the dictionary with its three lines."
    for name in expected:
        assert name in chances, f"The line `{name}` is missing."
        assert is_number(chances[name]), f"`{name}` needs a number, and {shown(chances[name])} is not one."
        in_percent = f"`{name}`: a probability lies between 0 and 1, and {shown(chances[name])} does not."
        assert 0 <= chances[name] <= 1, in_percent
    for name, (right, why) in expected.items():
        assert same(chances[name], right, 0.006), f"`{name}`: not {shown(chances[name])}. {why}"


@hints(
    "Ask first what a program could compare: a number, a value, a form. What it cannot compare needs a reader.",
    "A rubric is a list of points that a reader with knowledge wrote. It decides if the points can be listed.",
    "For the cheat, ask what the judge does not look at.",
)
def exercise_4(rewards: Any) -> None:
    """Say for each task who decides, and how that reward would be cheated."""
    assert isinstance(rewards, dict), "Keep the dictionary with its six tasks."
    for task in TASKS:
        pair = rewards.get(task)
        assert isinstance(pair, list | tuple) and len(pair) == 2, f"`{task}` needs a pair: who decides, and a letter."
        who, letter = pair
        assert who in ("program", "rubric", "person"), f"`{task}`: who decides? Not {shown(who)}."
        assert letter in CHEATS, f"`{task}`: the cheats have the letters A to F, and {shown(letter)} is not one."
    for task, (who, _) in TASKS.items():
        question = {
            "program": "could a program compare something here?",
            "rubric": "can the points of a good answer be listed, and can a program tell whether a text makes them?",
            "person": "is there a list of points that makes such a text good?",
        }[who]
        assert rewards[task][0] == who, f"`{task}`: {question}"
    for task, (_, letter) in TASKS.items():
        assert rewards[task][1] == letter, f"`{task}`: another cheat fits better. {CHEATS[letter]}"
