"""Train with PPO and a critic: a value model, generalized advantage estimation, PPO's value loss, and the whole loop.

TRL 1.16 has no PPO trainer, so this is the place to read one and to see it run. Without a critic, the same loop is
GRPO, so the two can be compared with one difference between them.

Shapes: `rewards`, `values`, `returns`, `logps` and `mask` are (completions, tokens). The mask is 1 on a completion's
tokens, its EOS token included, and 0 on the padding after them.
"""

import copy
import random
from collections.abc import Callable, Sequence
from time import process_time
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.advantages import group_advantages
from helpers.losses import aggregate, clipped_losses, importance_ratio, per_token_kl
from helpers.policy import TokenBatch, pad_completions, per_token_logps, sample_completion_ids, tokenize_prompt
from helpers.problems import Problem

RewardOf = Callable[[Sequence[Problem], Sequence[str]], Sequence[float]]
"""From problems and completions, one of each per row, to rewards."""


class ValueModel(nn.Module):
    """A language model with a scalar head: at each token it predicts one number instead of the next token."""

    def __init__(self, policy: PreTrainedModel) -> None:
        """Copy the policy's layers. The head starts at 0, so every prediction is 0 before training."""
        super().__init__()
        self.body = copy.deepcopy(policy.model)
        self.head = nn.Linear(policy.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return a number for each token, made from this token and all before it: (texts, tokens), as both inputs."""
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(states).squeeze(-1)

    def before_each_token(self, batch: TokenBatch) -> Tensor:
        """Return what the model expects before each completion token is chosen, shape (completions, tokens)."""
        length = batch.completion_mask.shape[1]
        return self(batch.input_ids, batch.attention_mask)[:, -length - 1 : -1]


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, gae_lambda: float = 0.95) -> Tensor:
    """Return generalized advantage estimates, one per token (Schulman et al. 2015, arXiv 1506.02438, equation 16).

    `rewards[t]` is paid for token t, and `values[t]` is what the critic expects before token t. A surprise is
    `rewards[t] + gamma * values[t + 1] - values[t]`, where the value after the last token is 0. An advantage adds up
    the surprises from token t on, each discounted by gamma * gae_lambda per token. With gae_lambda 1 it is the return
    minus the value; with 0 it is one surprise.

    >>> paid_at_the_end, expected = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.75]])
    >>> gae(paid_at_the_end, expected, torch.ones(1, 2), gae_lambda=1.0)
    tensor([[0.7500, 0.2500]])
    >>> gae(paid_at_the_end, expected, torch.ones(1, 2), gae_lambda=0.0)
    tensor([[0.5000, 0.2500]])
    """
    advantages, following, value_after = torch.zeros_like(values), torch.zeros(len(values)), torch.zeros(len(values))
    for t in reversed(range(values.shape[1])):
        surprise = rewards[:, t] + gamma * value_after - values[:, t]
        # On padding both stay 0, so the last token of a shorter completion also has nothing after it.
        following = (surprise + gamma * gae_lambda * following) * mask[:, t]
        value_after = values[:, t] * mask[:, t]
        advantages[:, t] = following
    return advantages


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    """Return PPO's clipped value loss, a scalar: half the mean over tokens of the larger of two squared errors.

    One is the error of `values`; the other that of the values moved back to within `clip` of `old_values`, those at
    sampling time. So a value gains nothing by moving further in one batch. OpenAI's baselines and InstructGPT's code
    have it, and no paper of theirs describes it (Huang et al. 2022, "The 37 implementation details of PPO", detail 9).

    >>> value_loss(torch.tensor([[0.5]]), torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.ones(1, 1))
    tensor(0.3200)
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    errors = torch.max((values - returns).square(), (near - returns).square())
    return 0.5 * (errors * mask).sum() / mask.sum()


class Step(NamedTuple):
    """What one step of `train_ppo` saw."""

    step: int
    reward: float  # mean over the completions
    value_loss: float  # NaN without a critic
    kl: float  # mean over the tokens; NaN without a reference
    tokens: int  # completions times the length of the longest: what the padded batch holds
    seconds: float  # of computing in this process; a verifier computes in others


def train_ppo(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    reward: RewardOf,
    *,
    critic: ValueModel | None,
    reference: PreTrainedModel | None = None,
    beta: float = 0.0,
    max_steps: int,
    prompts_per_step: int,
    num_generations: int,
    max_completion_length: int,
    learning_rate: float,
    value_learning_rate: float = 1e-3,
    gae_lambda: float = 0.95,
    epsilon: float = 0.2,
    max_grad_norm: float = 1.0,
    seed: int = 0,
    after_step: Callable[[Step], None] | None = None,
) -> list[Step]:
    """Train `policy` in place, by PPO with a critic, or by GRPO if `critic` is None. Returns one entry per step.

    Everything but the advantages is the same for both: the prompts, the number of completions, one update per batch,
    the clipped loss divided as in Dr. GRPO, and the KL penalty, which is in the loss (InstructGPT puts it into the
    reward). With one update per batch the ratio is 1 and nothing is clipped, as in this course's GRPO runs.
    """
    optimizers = [torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)]
    if critic is not None:
        optimizers.append(torch.optim.AdamW(critic.parameters(), lr=value_learning_rate, weight_decay=0.0))
    order, history = random.Random(seed), list[Step]()
    waiting: list[Problem] = []
    for step in range(1, max_steps + 1):
        start = process_time()
        if len(waiting) < prompts_per_step:
            waiting = order.sample(problems, len(problems))
        asked, waiting = waiting[:prompts_per_step], waiting[prompts_per_step:]
        # One number out of seed and step, so that no two steps of any two seeds share their draws.
        sampling = {"max_completion_length": max_completion_length, "seed": seed * 1_000_003 + step}
        prompts = [problem.prompt for problem in asked]
        groups = sample_completion_ids(policy, tokenizer, prompts, num_samples=num_generations, **sampling)
        ids = [completion for group in groups for completion in group]
        rows = [problem for problem in asked for _ in range(num_generations)]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        scores = torch.tensor(reward(rows, texts), dtype=torch.float32)
        prompt_ids = [tokenize_prompt(tokenizer, problem.prompt) for problem in rows]
        batch = pad_completions(prompt_ids, ids, tokenizer.pad_token_id)
        mask = batch.completion_mask
        critic_loss = torch.tensor(float("nan"))
        if critic is None:
            advantages = group_advantages(scores, num_generations, "none")[:, None].expand_as(mask)
        else:
            values = critic.before_each_token(batch)
            old_values = values.detach()
            advantages = gae(at_the_last_token(scores, mask), old_values, mask, gae_lambda=gae_lambda)
            critic_loss = value_loss(values, old_values, advantages + old_values, mask)
            critic_loss.backward()
        logps, _ = per_token_logps(policy, batch)
        ratio = importance_ratio(logps, logps.detach(), mask, "token")
        losses = clipped_losses(ratio, advantages, epsilon, epsilon)
        divergence = torch.tensor(float("nan"))
        if reference is not None:
            with torch.no_grad():
                ref_logps, _ = per_token_logps(reference, batch)
            kl = per_token_kl(logps, ref_logps) * ratio
            losses = losses + beta * kl
            divergence = (kl.detach() * mask).sum() / mask.sum()
        aggregate(losses, mask, "dr_grpo", max_completion_length).backward()
        for optimizer in optimizers:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        seconds = process_time() - start
        means = scores.mean().item(), critic_loss.item(), divergence.item()
        history.append(Step(step, *means, mask.numel(), seconds))
        if after_step:
            after_step(history[-1])
    return history


def at_the_last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """Return rewards per token: the score of the completion at its last token, and 0 everywhere else.

    >>> at_the_last_token(torch.tensor([3.0]), torch.tensor([[1.0, 1.0, 0.0]]))
    tensor([[0., 3., 0.]])
    """
    rewards = torch.zeros_like(mask)
    rewards[torch.arange(len(mask)), mask.sum(1).long() - 1] = scores
    return rewards
