"""PPO's parts against values computed independently, and one loop that is PPO with a critic and GRPO without."""

import copy

import numpy as np
import pytest
import torch
from random_policy import arithmetic_problems, save_random_policy

from helpers import critic
from helpers.critic import ValueModel, at_the_last_token, gae, train_ppo, value_loss
from helpers.losses import grpo_loss
from helpers.policy import load_policy, pad_completions, per_token_logps

LOOP = {"max_steps": 2, "prompts_per_step": 2, "num_generations": 4, "max_completion_length": 6, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(save_random_policy(tmp_path_factory.mktemp("policy")))


def test_gae_on_a_trajectory_computed_by_hand():
    rewards, values, mask = (torch.tensor([row]) for row in ([1.0, 0.0, 2.0], [0.5, 1.0, 1.5], [1.0, 1.0, 1.0]))
    # Surprises: 1 + 0.9 * 1 - 0.5 = 1.4; 0 + 0.9 * 1.5 - 1 = 0.35; 2 + 0 - 1.5 = 0.5. The discount is 0.9 * 0.8 = 0.72.
    expected = [1.4 + 0.72 * (0.35 + 0.72 * 0.5), 0.35 + 0.72 * 0.5, 0.5]
    assert gae(rewards, values, mask, gamma=0.9, gae_lambda=0.8)[0].tolist() == pytest.approx(expected)


def test_gae_is_the_sum_of_the_paper_and_ignores_padding():
    torch.manual_seed(0)
    rewards, values = torch.randn(3, 7), torch.randn(3, 7)
    lengths, gamma, lam = (7, 4, 1), 0.97, 0.9
    mask = torch.tensor([[float(t < length) for t in range(7)] for length in lengths])
    found = gae(rewards, values, mask, gamma=gamma, gae_lambda=lam)
    for row, length in enumerate(lengths):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        surprises = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** later * surprises[t + later] for later in range(length - t))
            assert found[row, t].item() == pytest.approx(expected, abs=1e-5)
        assert found[row, length:].abs().sum() == 0


def test_with_lambda_one_and_a_critic_of_zeros_an_advantage_is_the_return():
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    rewards = at_the_last_token(torch.tensor([1.0, -2.0]), mask)
    assert rewards.tolist() == [[0, 0, 0, 1], [0, -2, 0, 0]]
    assert gae(rewards, torch.zeros(2, 4), mask, gae_lambda=1.0).tolist() == [[1, 1, 1, 1], [-2, -2, 0, 0]]


def test_the_value_loss_is_clipped_only_where_moving_on_would_pay():
    def loss(value, old, target):
        values = torch.tensor([[value]], requires_grad=True)
        result = value_loss(values, torch.tensor([[old]]), torch.tensor([[target]]), torch.ones(1, 1))
        return result.item(), torch.autograd.grad(result, values)[0].item()

    assert loss(0.1, 0.0, 1.0) == pytest.approx((0.5 * 0.9**2, -0.9))  # near the old value: the plain squared error
    assert loss(0.5, 0.0, 1.0) == pytest.approx((0.5 * 0.8**2, 0.0))  # far towards the return: no gradient
    assert loss(-0.5, 0.0, 1.0) == pytest.approx((0.5 * 1.5**2, -1.5))  # far away from it: the plain error again
    values, mask = torch.tensor([[1.0, 9.0]]), torch.tensor([[1.0, 0.0]])
    assert value_loss(values, values, torch.zeros(1, 2), mask).item() == 0.5  # padding does not count


def test_the_critic_reads_before_each_token_what_the_token_cannot_change(policy):
    model, tokenizer = ValueModel(policy[0]), policy[1]
    torch.nn.init.normal_(model.head.weight)
    batch = pad_completions([[5, 6, 7], [5]], [[1, 2, 3], [4, 9]], tokenizer.pad_token_id)
    other = pad_completions([[5, 6, 7], [5]], [[1, 2, 8], [4, 9]], tokenizer.pad_token_id)
    values, others = (model.before_each_token(each) for each in (batch, other))
    assert values.shape == (2, 3)
    assert torch.allclose(values, others, atol=1e-5)  # the last token comes after all three values
    alone = model(torch.tensor([[5, 6, 7, 1, 2]]), torch.ones(1, 5))[0, 2:]
    assert torch.allclose(values[0], alone, atol=1e-4)
    assert set(ValueModel(policy[0]).before_each_token(batch).flatten().tolist()) == {0.0}


@pytest.mark.parametrize("with_critic", [False, True])
def test_the_loop_learns_what_is_rewarded(policy, with_critic):
    model, tokenizer = copy.deepcopy(policy[0]), policy[1]
    value_model = ValueModel(model) if with_critic else None
    loop = LOOP | {"max_steps": 25, "seed": 1}

    def reward(problems, texts):
        return [sum("a" <= sign <= "z" for sign in text) / max(1, len(text)) for text in texts]

    history = train_ppo(model, tokenizer, arithmetic_problems(), reward, critic=value_model, **loop)
    rewards = [step.reward for step in history]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.15
    assert all(np.isnan(step.value_loss) != with_critic for step in history)
    if with_critic:
        assert value_model.head.weight.abs().sum() > 0


def test_a_constant_reward_moves_the_policy_only_through_the_critic(policy):
    for value_model in (None, ValueModel(policy[0])):
        model = copy.deepcopy(policy[0])
        train_ppo(model, policy[1], arithmetic_problems(), lambda p, t: [1.0] * len(t), critic=value_model, **LOOP)
        weights = zip(model.parameters(), policy[0].parameters(), strict=True)
        same = all(torch.equal(new, old) for new, old in weights)
        # A critic that has learned nothing yet is surprised by every reward; the mean of a group is not.
        assert same == (value_model is None)


def test_without_a_critic_a_step_has_the_gradient_of_grpo_loss(policy, monkeypatch):
    model, reference = copy.deepcopy(policy[0]), copy.deepcopy(policy[0])
    with torch.no_grad():
        for weight in reference.parameters():
            weight.mul_(1.01)
    seen, batches = {}, []
    monkeypatch.setattr(critic, "pad_completions", lambda *args: batches.append(pad_completions(*args)) or batches[-1])

    def look(parameters, limit):
        seen["gradient"] = torch.cat([weight.grad.flatten() for weight in parameters])

    monkeypatch.setattr(critic.nn.utils, "clip_grad_norm_", look)
    scores = [1.0, 0.0, 0.0, 0.0, 0.5, 0.25, 0.0, 0.0]
    kl = {"reference": reference, "beta": 0.3}
    one = LOOP | {"max_steps": 1, "learning_rate": 1e-9}
    train_ppo(model, policy[1], arithmetic_problems(), lambda p, t: scores, critic=None, **kl, **one)
    [batch] = batches
    fresh = copy.deepcopy(policy[0])
    logps, ref_logps = per_token_logps(fresh, batch)[0], per_token_logps(reference, batch)[0].detach()
    advantages = torch.tensor([0.75, -0.25, -0.25, -0.25, 0.3125, 0.0625, -0.1875, -0.1875])
    options = {"loss_type": "dr_grpo", "max_completion_length": 6, "beta": 0.3, "ref_logps": ref_logps}
    loss, _ = grpo_loss(logps, logps.detach(), advantages, batch.completion_mask, **options)
    loss.backward()
    expected = torch.cat([weight.grad.flatten() for weight in fresh.parameters()])
    assert torch.allclose(seen["gradient"], expected, atol=1e-5) and expected.abs().max() > 1e-3
