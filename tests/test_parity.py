"""The helpers' advantages, loss and gradient against TRL's own, inside running GRPOTrainers on the bundled model.

The trainer is a real one, configured through GRPOConfig; the probe only listens. Beside each of its micro-batches the
helpers compute theirs from what the outside world sees: prompts as text, completion ids, rewards. No formula is copied.
"""

import warnings

import pytest
import torch
from datasets import Dataset
from transformers import PrinterCallback

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import GRPOConfig, GRPOTrainer

from helpers import advantages, losses, policy
from helpers.losses import LOSS_TYPES
from helpers.problems import load_problems, split_problems

PROMPTS = [problem.prompt for problem in split_problems(load_problems("tiny"))[0][:4]]
OFF_POLICY = {"steps_per_generation": 2, "num_iterations": 2, "max_steps": 3}
LIMITS = {"mask": 0, "advantages": 1e-6, "loss": 1e-6, "gradient": 1e-5, "diagnostics": 1e-5}
CLIPPED = ("clip_ratio/region_mean", "cispo_clip_ratio")

pytestmark = pytest.mark.filterwarnings("ignore")


class Probe(GRPOTrainer):
    """A GRPOTrainer that has the helpers repeat what it does, and keeps the differences."""

    def __init__(self, **options):
        super().__init__(**options)
        self.remove_callback(PrinterCallback)
        self.differences = {name: [] for name in LIMITS}
        self.clipped = []  # one ratio a micro-batch, for the losses that log one
        self.steps = 0

    def note(self, name, difference):
        self.differences[name].append(float(difference))

    def logps(self, model, rows):
        prompt_ids = self.processing_class(self.prompts)["input_ids"]
        batch = policy.pad_completions(
            [prompt_ids[row] for row in rows], [self.completion_ids[row] for row in rows], self.pad_token_id
        )
        return *policy.per_token_logps(model, batch, self.temperature), batch.completion_mask

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids):
        self.prompts, self.completion_ids = prompts, completion_ids
        self.pad_token_id = self.processing_class.pad_token_id
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids)

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        scored = super()._generate_and_score_completions(inputs)
        rows = range(len(self.prompts))
        scored["row"] = torch.tensor(rows)  # the trainer shuffles what it scored: so each row says which it is
        self.old = self.logps(self.model, rows)[0]
        self.ref = self.logps(self.ref_model, rows)[0] if self.ref_model else None
        rewards = reward(self.completion_ids)
        self.advantages = advantages.group_advantages(rewards, self.num_generations, self.scale_rewards)
        self.note("advantages", (self.advantages - scored["advantages"]).abs().max())
        return scored

    def compute_loss(self, model, inputs, **kwargs):
        theirs = super().compute_loss(model, inputs, **kwargs)
        logged = {name: values[-1] for name, values in self._metrics["train"].items()}
        mine, mask, diagnostics = self.by_hand(model, inputs["row"].tolist())
        self.note("mask", abs(mask.sum(1) - inputs["completion_mask"].sum(1)).max())
        self.note("loss", abs(theirs - mine) / max(1, abs(theirs)))
        self.gradient = flat(torch.autograd.grad(mine, list(model.parameters())))
        for name, value in diagnostics.items():
            self.note("diagnostics", abs(value - logged[name]) / max(1, abs(logged[name])))
        self.clipped += [logged[name] for name in CLIPPED if name in logged]
        self.steps += 1
        return theirs

    def training_step(self, model, *args):
        loss = super().training_step(model, *args)
        theirs = flat([parameter.grad for parameter in model.parameters()])
        self.note("gradient", (self.gradient - theirs).norm() / theirs.norm())
        return loss

    def by_hand(self, model, rows):
        logps, entropies, mask = self.logps(model, rows)
        width, config = mask.shape[1], self.args
        off_policy = config.num_iterations > 1
        loss, diagnostics = losses.grpo_loss(
            logps,
            self.old[rows, :width] if off_policy else logps.detach(),
            self.advantages[rows],
            mask,
            ref_logps=self.ref[rows, :width] if self.ref is not None else None,
            entropies=entropies,
            num_items_in_batch=sum(map(len, self.completion_ids)) / config.steps_per_generation,
            **{name: getattr(config, name) for name in SHARED},
        )
        return loss, mask, diagnostics


SHARED = ("loss_type", "importance_sampling_level", "epsilon", "epsilon_high", "beta", "use_bias_correction_kl")
SHARED += ("max_completion_length", "sapo_temperature_pos", "sapo_temperature_neg")


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def reward(completion_ids, **columns):
    """Neither right nor wrong, but different for different completions; the second could not be graded."""
    rewards = [sum(ids) % 7 / 7 for ids in completion_ids]
    rewards[1] = None
    return rewards


def run(folder, **options):
    """A training run under the probe's eyes."""
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 24,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        # Hot: where the model is nearly certain of a token, the 1 - p of its gradient is mostly rounding in float32.
        "temperature": 2.0,
        "epsilon": 0.1,
        "epsilon_high": 1.02 if options.get("loss_type") == "cispo" else 0.15,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    model, tokenizer = policy.load_policy("data/tiny_coder")
    trainer = Probe(
        model=model,
        processing_class=tokenizer,
        args=GRPOConfig(**settings | options),
        reward_funcs=reward,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
    )
    trainer.train()
    return trainer


def beyond(trainer):
    """The differences that are too large; a NaN is, and none at all is an error."""
    assert all(trainer.differences.values())
    within = {name: all(value <= LIMITS[name] for value in found) for name, found in trainer.differences.items()}
    return {name: max(trainer.differences[name]) for name in LIMITS if not within[name]}


VARIANTS = [
    {"loss_type": loss_type, "importance_sampling_level": level, "beta": beta}
    for loss_type in LOSS_TYPES
    for level in ("token", "sequence")
    for beta in (0.0, 0.04)
]
OPTIONS = [
    {"scale_rewards": "batch"},
    {"scale_rewards": "none", "use_bias_correction_kl": False, "beta": 0.1},
    {"loss_type": "sapo", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0},
]


def clips(trainer):
    """Whether this loss clips; sapo's bound is soft, and it must not log a ratio."""
    clipping = trainer.args.loss_type != "sapo"
    assert len(trainer.clipped) == trainer.steps * clipping
    return clipping


def name(options):
    return " ".join(str(value) for value in options.values())


@pytest.mark.parametrize("options", [*VARIANTS, *OPTIONS], ids=name)
def test_equal_to_trl_off_policy_with_clipping(options, tmp_path):
    trainer = run(tmp_path, **OFF_POLICY | options)
    assert beyond(trainer) == {}
    assert trainer.steps == 3
    assert not clips(trainer) or trainer.clipped[-1] >= 0.05
    ends = {ids[-1] == trainer.processing_class.eos_token_id for ids in trainer.completion_ids}
    assert ends == {True, False} and len(set(map(len, trainer.completion_ids))) > 2  # ended, cut off, unlike


@pytest.mark.parametrize("options", [*VARIANTS, *OPTIONS], ids=name)
def test_equal_to_trl_on_policy(options, tmp_path):
    # A penalty is 0 until the first update has moved the policy away from the reference.
    steps = 2 if options.get("beta") else 1
    trainer = run(tmp_path, **options, max_steps=steps)
    assert beyond(trainer) == {}
    assert trainer.steps == steps
    assert trainer.clipped == [0] * steps * clips(trainer)


def test_equal_to_trl_where_padding_is_the_end_token(tmp_path, monkeypatch):
    load = policy.load_policy

    def load_with_one_special_token(*args):
        model, tokenizer = load(*args)
        tokenizer.pad_token = tokenizer.eos_token
        return model, tokenizer

    monkeypatch.setattr(policy, "load_policy", load_with_one_special_token)
    trainer = run(tmp_path, **OFF_POLICY)
    assert trainer.pad_token_id == trainer.processing_class.eos_token_id
    assert beyond(trainer) == {}


# --- the comparison bites: each fault alone makes it fail ---


def population_std(values, dim):
    return (values - values.nanmean(dim, keepdim=True)).square().nanmean(dim, keepdim=True).sqrt()


def swapped_kl(logps, ref_logps, estimator, right=losses.per_token_kl):
    return right(ref_logps, logps, estimator)


def swapped_bounds(ratio, advantages, epsilon, epsilon_high, right=losses.clipped_losses):
    return right(ratio, advantages, epsilon_high, epsilon)


def mean_of_means(values, mask, loss_type, *normalisers, right=losses.aggregate):
    return right(values, mask, "grpo", *normalisers)


def end_token_masked(prompt_ids, completion_ids, pad_token_id, right=policy.pad_completions):
    return right(prompt_ids, [ids[:-1] if ids[-1] == 0 else ids for ids in completion_ids], pad_token_id)


def padding_not_masked(prompt_ids, completion_ids, pad_token_id, right=policy.pad_completions):
    batch = right(prompt_ids, completion_ids, pad_token_id)
    return policy.TokenBatch(batch.input_ids, batch.attention_mask, torch.ones_like(batch.completion_mask))


def temperature_left_out(model, batch, temperature, right=policy.per_token_logps):
    return right(model, batch)


@pytest.mark.parametrize(
    ("module", "function", "fault", "differs"),
    [
        (advantages, "standard_deviation", population_std, "advantages"),
        (losses, "per_token_kl", swapped_kl, "loss"),
        (losses, "clipped_losses", swapped_bounds, "loss"),
        (losses, "aggregate", mean_of_means, "loss"),
        (policy, "pad_completions", end_token_masked, "mask"),
        (policy, "pad_completions", padding_not_masked, "mask"),
        (policy, "per_token_logps", temperature_left_out, "gradient"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)).rpartition(".")[2],
)
def test_a_fault_makes_the_comparison_fail(module, function, fault, differs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, function, fault)
    trainer = run(tmp_path, beta=0.04, **OFF_POLICY)
    found = beyond(trainer)
    assert {differs, "gradient"} <= set(found)
    assert found["gradient"] > 10 * LIMITS["gradient"]
