"""The settings of a training run, the named profiles, and what this machine changes about them."""

import os
from dataclasses import dataclass, replace
from typing import Any

import torch

from helpers import hub
from helpers.losses import LOSS_TYPES
from helpers.runtime import CourseError, offline


class SettingsError(CourseError, ValueError):
    """Settings that cannot work together. The message says which ones and why."""


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise SettingsError(message)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run, under TRL's names from GRPOConfig where TRL has the setting.

    The fields come in five groups: what is trained, what a step samples, how the step learns, how the policy is
    evaluated, and the machine. Raises SettingsError if a value is out of range or if two values do not fit together.
    """

    # What is trained.
    profile: str
    description: str = ""  # of the profile, in one line
    model: str  # folder or Hub id
    problems: str  # a source for load_problems
    # What a step samples.
    prompts_per_step: int  # groups per step
    num_generations: int  # completions per group
    max_completion_length: int  # tokens
    # How a step learns.
    max_steps: int  # optimizer steps
    learning_rate: float
    conversational: bool = False  # True: the prompt is a user message and goes through the chat template
    lr_scheduler_type: str = "constant"
    temperature: float = 1.0  # 1.0: sample from exactly the distribution that is trained
    loss_type: str = "dr_grpo"
    scale_rewards: str = "none"  # "group" divides each advantage by the standard deviation of its group
    beta: float = 0.0  # weight of the KL penalty; 0 loads no reference model
    epsilon: float = 0.2  # clip range of the probability ratio; on-policy the ratio is 1 and nothing is clipped
    epsilon_high: float | None = None  # upper end of the clip range, 1 + epsilon_high; None: the same as epsilon
    max_grad_norm: float = 1.0
    save_steps: int = 20  # steps between checkpoints; a crash loses at most this many
    mask_truncated_completions: bool = False  # False: truncated completions stay in the loss
    per_device_train_batch_size: int | None = None  # completions per micro-batch; None: the whole step
    precision: str = "fp32"  # "fp16" and "bf16": autocast over float32 weights
    activation_checkpointing: bool = False  # True: less memory, but a second forward pass
    # How the policy is evaluated.
    per_device_eval_batch_size: int = 256  # batch size for sampling during evaluation
    eval_samples: int = 8  # sampled completions per held-out problem
    eval_temperature: float = 1.0
    # The machine.
    seed: int = 0
    device: str = "cpu"
    threads: int = 2  # at most; only one thread (OMP_NUM_THREADS=1) guarantees bit-identical runs

    def __post_init__(self) -> None:
        sizes = ("prompts_per_step", "max_completion_length", "max_steps", "save_steps", "per_device_eval_batch_size")
        for name in (*sizes, "threads"):
            _demand(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("learning_rate", "temperature", "eval_temperature", "max_grad_norm"):
            _demand(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}.")
        _demand(
            self.num_generations >= 2,
            f"num_generations must be at least 2, not {self.num_generations}: a completion is compared with the "
            "others of its group, and alone its advantage is always 0.",
        )
        _demand(
            self.loss_type != "cispo" or self.epsilon_high is not None,
            "cispo caps the ratio at epsilon_high itself, not at 1 + epsilon_high: set epsilon_high, for example to 5.",
        )
        _demand(self.beta >= 0, f"beta must be at least 0, not {self.beta}.")
        # NumPy accepts no larger seed, and transformers seeds NumPy too.
        _demand(0 <= self.seed < 2**32, f"seed must be at least 0 and at most {2**32 - 1}, not {self.seed}.")
        _demand(
            self.eval_samples >= 8,
            f"eval_samples must be at least 8, not {self.eval_samples}: the result reports pass@8.",
        )
        _demand(
            self.micro_batch >= 1 and self.completions_per_step % self.micro_batch == 0,
            f"per_device_train_batch_size must divide the {self.completions_per_step} completions of a step, "
            f"and {self.micro_batch} does not.",
        )
        allowed = {"scale_rewards": ("group", "batch", "none"), "precision": ("fp32", "fp16", "bf16")}
        for name, choices in (allowed | {"loss_type": LOSS_TYPES}).items():
            value = getattr(self, name)
            _demand(value in choices, f'{name} must be one of {", ".join(choices)}, not "{value}".')

    @property
    def completions_per_step(self) -> int:
        """Completions sampled and graded in one step. They always form whole groups."""
        return self.prompts_per_step * self.num_generations

    @property
    def micro_batch(self) -> int:
        """Completions in one forward and backward pass. A step adds up the gradients of its micro-batches."""
        chosen = self.per_device_train_batch_size
        return self.completions_per_step if chosen is None else chosen

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches per step. One optimizer step per batch of samples keeps the training on-policy."""
        return self.completions_per_step // self.micro_batch

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling arguments for `helpers.policy`, the same before, during and after training."""
        return {
            "max_completion_length": self.max_completion_length,
            "batch_size": self.per_device_eval_batch_size,
            "precision": self.precision,
            "seed": self.seed,
        }


# A learning rate of 1e-6 is DeepSeekMath's (arXiv 2402.03300, section 4.2) and TRL's default. It hardly moves a model
# of a million parameters; for the tiny model we measured that 3.5e-4 works. As for lengths, HumanEval's
# canonical solutions have at most 240 of Qwen's tokens. With the prompt repeated and a code fence around it, as chat
# models answer, they have at most 561, and all but one fit into 512. Nothing else about the two qwen profiles has been
# measured, because no GPU has run them yet.
TINY = Settings(
    profile="tiny",
    description="the bundled model and its problems, on any CPU, offline",
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
    description="a code model of half a billion parameters on HumanEval, sized for a GPU of 16 GB",
    model="Qwen/Qwen2.5-Coder-0.5B-Instruct",
    problems="humaneval",
    conversational=True,
    prompts_per_step=8,
    num_generations=8,
    max_completion_length=512,
    max_steps=60,
    learning_rate=1e-6,
    mask_truncated_completions=True,  # the tests say nothing about an answer that was cut off (arXiv 2503.14476)
    per_device_train_batch_size=8,
    precision="fp16",  # a T4 has no bf16
    activation_checkpointing=True,
    per_device_eval_batch_size=64,
    device="cuda",
)
QWEN_FULL = replace(
    QWEN,
    profile="qwen-full",
    description="the same model with larger groups and more steps, sized for a GPU of 24 GB",
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
    """Return the settings of a profile. Raises SettingsError for an unknown name.

    To change some of them, use `dataclasses.replace`.

    >>> profile_settings("tiny").completions_per_step
    64
    """
    _demand(name in PROFILES, f'There is no profile "{name}"; choose one of: {", ".join(PROFILES)}.')
    return PROFILES[name]


def settings_here(name: str, **changes: Any) -> Settings:
    """Return the settings of a profile as this machine can run them, and print what a missing GPU changes.

    `changes` override the environment, which overrides the profile: GRPO_MAX_STEPS, and for the profiles that train
    Qwen also GRPO_MODEL (a folder or a Hub id). The profile tiny keeps Hugging Face's libraries off the network. Raises
    SettingsError for an unknown profile, for values that do not fit, and for Qwen itself without a GPU (a small model
    of your own may run there); PolicyError if the model can neither be found nor fetched.

    >>> settings_here("tiny", max_steps=5).max_steps
    5
    """
    settings = profile_settings(name)
    named = _from_environment(name) | changes
    settings = replace(settings, **named)
    if name == "tiny":
        offline()
    gpu_is_missing = settings.device == "cuda" and not has_gpu()
    _demand(
        not gpu_is_missing or "model" in named,
        f"The profile {name} needs a GPU for {settings.model}, and there is none here: run the profile tiny, or name a "
        "small model of your own (GRPO_MODEL, or --model) to try the path on the CPU.",
    )
    hub.locate(settings.model)
    if gpu_is_missing:
        print(f"No GPU here: {settings.model} runs on the CPU, in fp32 instead of {settings.precision} autocast.")
        return replace(settings, device="cpu", precision="fp32")
    # Older GPUs such as the T4 only emulate bf16.
    if settings.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        print("This GPU has no native bf16; using fp16 autocast instead.")
        return replace(settings, precision="fp16")
    return settings


def has_gpu() -> bool:
    """Return whether PyTorch finds a CUDA device. If there are several, only the first one is used."""
    # TRL refuses to run on several GPUs in one process. This takes effect only before the first use of CUDA.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    return torch.cuda.is_available()


def _from_environment(profile: str) -> dict[str, Any]:
    """Return the settings that GRPO_MODEL and GRPO_MAX_STEPS name."""
    named: dict[str, Any] = {}
    if os.environ.get("GRPO_MODEL") and profile != "tiny":
        named["model"] = os.environ["GRPO_MODEL"]
    if steps := os.environ.get("GRPO_MAX_STEPS"):
        try:
            named["max_steps"] = int(steps)
        except ValueError:
            raise SettingsError(f'GRPO_MAX_STEPS must be a number of steps, not "{steps}".') from None
    return named
