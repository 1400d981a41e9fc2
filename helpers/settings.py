"""The settings of a training run, one set per profile. Light: torch is loaded only to ask what GPU is here."""

import os
from dataclasses import dataclass, replace
from typing import Any

from helpers.hub import locate
from helpers.runtime import CourseError, bf16_gpu, has_gpu

PRECISIONS = ("fp32", "fp16", "bf16")
SCALE_REWARDS = ("group", "batch", "none")
LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")  # TRL 1.16; it checks only late


class SettingsError(CourseError, ValueError):
    """Settings that cannot work together; the message says which and why."""


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise SettingsError(message)


@dataclass(frozen=True)
class Settings:
    """Every setting of a run that matters; names as in TRL's GRPOConfig where it has one.

    Raises SettingsError where a batch cannot hold a group, or a value is out of range.
    """

    profile: str
    model: str  # folder or hub id
    problems: str  # as for load_problems
    prompts_per_step: int  # groups per step
    num_generations: int  # completions per group: what each is compared with
    max_completion_length: int  # tokens
    max_steps: int  # optimizer steps
    learning_rate: float
    conversational: bool = False  # True: the prompt is a user's message and goes through the chat template
    lr_scheduler_type: str = "constant"
    temperature: float = 1.0  # 1.0: the samples come from the very distribution that is trained
    loss_type: str = "dr_grpo"
    scale_rewards: str = "none"  # "group" divides each advantage by the spread of its group
    beta: float = 0.0  # weight of the KL penalty; 0 loads no reference model
    epsilon: float = 0.2  # clipping range of the probability ratio; on-policy the ratio is 1 and nothing is clipped
    max_grad_norm: float = 1.0
    save_steps: int = 20  # steps between checkpoints; an interruption loses at most so many
    mask_truncated_completions: bool = False  # False: a completion that was cut off counts as the failure it is
    per_device_train_batch_size: int | None = None  # completions learned from at a time; None: the whole step
    precision: str = "fp32"  # "fp16" and "bf16": autocast over float32 weights
    activation_checkpointing: bool = False  # True: less memory, a second forward pass
    per_device_eval_batch_size: int = 256  # completions sampled at a time when the policy is measured
    eval_samples: int = 8  # sampled completions per held-out problem
    eval_temperature: float = 1.0
    seed: int = 0
    device: str = "cpu"
    threads: int = 2  # at most; one thread (OMP_NUM_THREADS=1) gives the same run twice to the bit, two may not

    def __post_init__(self) -> None:
        sizes = ("prompts_per_step", "max_completion_length", "max_steps", "save_steps", "per_device_eval_batch_size")
        for name in (*sizes, "threads"):
            _demand(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("learning_rate", "temperature", "eval_temperature", "max_grad_norm"):
            _demand(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}.")
        _demand(
            self.num_generations >= 2,
            f"num_generations must be at least 2, not {self.num_generations}: a completion is judged against the "
            "others of its group, and alone its advantage is always 0.",
        )
        _demand(self.beta >= 0, f"beta must be at least 0, not {self.beta}.")
        _demand(self.seed >= 0, f"seed must be at least 0, not {self.seed}.")
        _demand(
            self.eval_samples >= 8,
            f"eval_samples must be at least 8, not {self.eval_samples}: the result reports pass@8.",
        )
        _demand(
            self.micro_batch >= 1 and self.completions_per_step % self.micro_batch == 0,
            f"per_device_train_batch_size must divide the {self.completions_per_step} completions of a step, "
            f"and {self.micro_batch} does not.",
        )
        allowed = {"scale_rewards": SCALE_REWARDS, "loss_type": LOSS_TYPES, "precision": PRECISIONS}
        for name, choices in allowed.items():
            value = getattr(self, name)
            _demand(value in choices, f'{name} must be one of {", ".join(choices)}, not "{value}".')

    @property
    def completions_per_step(self) -> int:
        """Completions sampled, graded and learned from in one step: whole groups by construction."""
        return self.prompts_per_step * self.num_generations

    @property
    def micro_batch(self) -> int:
        """Completions learned from at a time; the gradients of a step's micro-batches are accumulated."""
        return (
            self.completions_per_step if self.per_device_train_batch_size is None else self.per_device_train_batch_size
        )

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches in a step: one optimizer step for each batch of samples keeps sampling on-policy."""
        return self.completions_per_step // self.micro_batch

    @property
    def sampling(self) -> dict[str, Any]:
        """What every sampling of completions shares, before, in and after training; as `helpers.policy` takes it."""
        return {
            "max_completion_length": self.max_completion_length,
            "batch_size": self.per_device_eval_batch_size,
            "precision": self.precision,
            "seed": self.seed,
        }


# Learning rates: 1e-6 is DeepSeekMath's (arXiv 2402.03300, section 4.2) and TRL's default; it moves a model of a
# million weights nowhere, and 3.5e-4 was measured here. Lengths: in Qwen's tokens HumanEval's canonical solutions have
# at most 240, and with the prompt before them and a fence around, as chat models answer, at most 561; 512 hold all but
# one. Nothing else about the two qwen profiles is measured: no GPU has run them yet.
TINY = Settings(
    profile="tiny",
    model="data/tiny_coder",
    problems="tiny",
    prompts_per_step=8,
    num_generations=8,
    max_completion_length=56,
    max_steps=68,
    learning_rate=3.5e-4,
)
QWEN = Settings(
    profile="qwen",
    model="Qwen/Qwen2.5-Coder-0.5B-Instruct",
    problems="humaneval",
    conversational=True,
    prompts_per_step=8,
    num_generations=8,
    max_completion_length=512,
    max_steps=60,
    learning_rate=1e-6,
    mask_truncated_completions=True,  # an answer that was cut off says nothing about its tokens (arXiv 2503.14476)
    per_device_train_batch_size=8,
    precision="fp16",  # a T4 has no bf16
    activation_checkpointing=True,
    per_device_eval_batch_size=64,
    device="cuda",
)
QWEN_FULL = replace(
    QWEN,
    profile="qwen-full",
    num_generations=16,
    max_completion_length=768,
    max_steps=200,
    per_device_train_batch_size=4,
    precision="bf16",
    activation_checkpointing=False,
    per_device_eval_batch_size=128,
)
PROFILES = {settings.profile: settings for settings in (TINY, QWEN, QWEN_FULL)}


def profile_settings(name: str) -> Settings:
    """The settings of a profile; change some with `dataclasses.replace`. Raises SettingsError for an unknown name."""
    _demand(name in PROFILES, f'There is no profile "{name}"; choose one of: {", ".join(PROFILES)}.')
    return PROFILES[name]


def settings_here(name: str, **changes: Any) -> Settings:
    """The settings of a profile as they can run on this machine; what had to differ for lack of a GPU is printed.

    `changes` come before the environment's GRPO_MAX_STEPS and, for the profiles that train Qwen, GRPO_MODEL (a folder
    or a hub id). Raises SettingsError for an unknown profile, for values that do not fit, and where Qwen itself is
    asked for without a GPU (another model may be, a small one, to try the path); PolicyError where it cannot be had.
    """
    settings = profile_settings(name)
    named = _from_environment(settings) | changes
    settings = replace(settings, **named)
    on_gpu = settings.device == "cuda" and has_gpu()
    _demand(
        settings.device == "cpu" or on_gpu or "model" in named,
        f"The profile {name} needs a GPU for {settings.model}, and there is none here: run the profile tiny, or name a "
        "small model of your own (GRPO_MODEL, or --model) to try the path on the CPU.",
    )
    locate(settings.model)
    if settings.device == "cuda" and not on_gpu:
        print(f"No GPU here: {settings.model} runs on the CPU, in fp32 instead of {settings.precision} autocast.")
        return replace(settings, device="cpu", precision="fp32")
    if settings.precision == "bf16" and not bf16_gpu():
        print("This GPU computes no bf16: fp16 autocast instead.")
        return replace(settings, precision="fp16")
    return settings


def _from_environment(settings: Settings) -> dict[str, Any]:
    named: dict[str, Any] = {}
    if os.environ.get("GRPO_MODEL") and settings.profile != "tiny":
        named["model"] = os.environ["GRPO_MODEL"]
    if steps := os.environ.get("GRPO_MAX_STEPS"):
        _demand(steps.isdigit(), f'GRPO_MAX_STEPS must be a number of steps, not "{steps}".')
        named["max_steps"] = int(steps)
    return named
