"""The settings of a training run, the named profiles, and what this machine changes about them."""

import os
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING, Any

import torch

from helpers import hub, processes
from helpers.answers import EndRule, function_ended
from helpers.losses import LOSS_TYPES
from helpers.problems import PROMPT_MODES, choose_prompt_mode
from helpers.runtime import CourseError, offline

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    lora_rank: int = 0  # 0: train all weights; above: train an adapter of this rank on the frozen model
    lora_layers: tuple[int, ...] | None = None  # the transformer layers that get an adapter; None: all
    lora_base: str = "bf16"  # the frozen weights under an adapter: "bf16" or "fp32"; trained weights are always float32
    problems: str  # a source for load_problems
    held_out: tuple[str, ...] = ()  # sources of problems to evaluate on; none: a part of `problems`
    train_limit: int | None = None  # at most this many training problems; None: all
    keep_solvable: int = 0  # train on problems that some of so many completions solve, but not all; 0: on all problems
    prompt: str | None = None  # a mode of choose_prompt_mode; None: by the model's chat template
    # What a step samples.
    prompts_per_step: int  # groups per step
    num_generations: int  # completions per group
    max_completion_length: int  # tokens
    group_sampling: bool = False  # True: the course's own sampler for groups; False: TRL's use of `generate`
    # How a step learns.
    max_steps: int  # optimizer steps
    learning_rate: float
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
    eval_samples: int = 8  # sampled completions per held-out problem; pass@8 needs 8
    eval_temperature: float = 1.0
    eval_max_completion_length: int | None = None  # tokens; None: as in training
    eval_limit: int | None = None  # at most this many problems of each held-out set; None: all
    # The machine.
    seed: int = 0
    device: str = "cpu"
    threads: int = 2  # at most; only one thread (OMP_NUM_THREADS=1) guarantees bit-identical runs

    def __post_init__(self) -> None:
        sizes = ("prompts_per_step", "max_completion_length", "max_steps", "save_steps", "per_device_eval_batch_size")
        optional = ("train_limit", "eval_max_completion_length", "eval_limit")
        for name in (*sizes, "eval_samples", "threads", *(n for n in optional if getattr(self, n) is not None)):
            _demand(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("lora_rank", "keep_solvable"):
            _demand(getattr(self, name) >= 0, f"{name} must be at least 0, not {getattr(self, name)}.")
        _demand(self.keep_solvable != 1, "keep_solvable must be 0 or at least 2: one attempt is all or none.")
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
            self.micro_batch >= 1 and self.completions_per_step % self.micro_batch == 0,
            f"per_device_train_batch_size must divide the {self.completions_per_step} completions of a step, "
            f"and {self.micro_batch} does not.",
        )
        allowed = {
            "lora_base": ("bf16", "fp32"),
            "scale_rewards": ("group", "batch", "none"),
            "precision": ("fp32", "fp16", "bf16"),
        }
        if self.prompt is not None:
            allowed["prompt"] = PROMPT_MODES
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

    def share(self, count: int) -> "Settings":
        """Return the settings of one of `count` processes that share each step: whole groups, equally many for each.

        A micro-batch stays as large as it is, or becomes the largest part of it that divides the share. Raises
        SettingsError if the groups cannot be shared equally.

        >>> profile_settings("tiny").share(2).completions_per_step
        32
        """
        fitting = [str(n) for n in range(1, self.prompts_per_step + 1) if self.prompts_per_step % n == 0]
        _demand(
            str(count) in fitting,
            f"{count} processes cannot share the {self.prompts_per_step} groups of a step (prompts_per_step) equally; "
            f"start {', '.join(fitting[:-1])} or {fitting[-1]}.",
        )
        prompts = self.prompts_per_step // count
        micro_batch = gcd(self.micro_batch, prompts * self.num_generations)
        return replace(self, prompts_per_step=prompts, per_device_train_batch_size=micro_batch)

    @property
    def base_precision(self) -> str:
        """The precision of the untrained model's weights in this run."""
        return self.lora_base if self.lora_rank else "fp32"

    @property
    def ends(self) -> EndRule | None:
        """The rule that ends a completion besides the EOS token: with group sampling, if only a body is written."""
        return function_ended if self.group_sampling and self.prompt in ("prefill", "plain") else None

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `sample_completion_ids`, the same before and after training."""
        return {
            "max_completion_length": self.eval_max_completion_length or self.max_completion_length,
            "batch_size": self.per_device_eval_batch_size,
            "precision": self.precision,
            "seed": self.seed,
            "ends": self.ends,
        }

    def require_problems(self, number: int) -> None:
        """Raise SettingsError if so many problems do not fill one step. TRL would train for 0 steps without a word."""
        if number < self.prompts_per_step:
            raise SettingsError(
                f"One step needs {self.prompts_per_step} prompts (prompts_per_step), and there are {number}."
            )

    def with_prompt(self, tokenizer: "PreTrainedTokenizerBase") -> "Settings":
        """Return these settings with the prompt mode that fits the model's tokenizer.

        A base model that continues plain text rarely ends by itself. If its truncated completions were left out of the
        loss, nothing would be left, so the mode "plain" keeps them in. Raises CourseError as `choose_prompt_mode` does.
        """
        prompt = choose_prompt_mode(tokenizer, self.prompt)
        masked = self.mask_truncated_completions and prompt != "plain"
        return replace(self, prompt=prompt, mask_truncated_completions=masked)


# A learning rate of 1e-6 is DeepSeekMath's (arXiv 2402.03300, section 4.2) and TRL's default. It hardly moves a model
# of a million parameters; for the tiny model we measured that 3.5e-4 works. As for lengths, HumanEval's
# canonical solutions have at most 240 of Qwen's tokens. With the prompt repeated and a code fence around it, as chat
# models answer, they have at most 561, and all but one fit into 512.
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
QWEN_CPU = Settings(
    profile="qwen-cpu",
    description="a code model of half a billion parameters with LoRA on the bundled problems; an hour or two on a CPU",
    model="Qwen/Qwen2.5-Coder-0.5B-Instruct",
    lora_rank=16,
    lora_layers=tuple(range(16, 24)),  # the backward pass ends at layer 16
    # Without instructions for it, a CPU multiplies bfloat16 matrices 4 to 6 times as slowly as float32 ones (measured
    # on an AMD EPYC with AVX2). With avx512_bf16 it is 4 to 5 times as fast (another AMD EPYC).
    lora_base="fp32",
    problems="tiny",
    held_out=("tiny", "humaneval"),  # near the training problems, and far from them
    train_limit=240,  # sampling all 1,560 eight times would take more than an hour
    keep_solvable=8,
    prompt="prefill",  # a third of the tokens of a chat answer
    prompts_per_step=6,
    num_generations=8,
    max_completion_length=64,
    group_sampling=True,
    max_steps=40,
    learning_rate=1.5e-4,
    save_steps=10,
    per_device_eval_batch_size=48,
    eval_samples=2,
    eval_max_completion_length=256,
)
# No machine has run the two profiles for a GPU in full.
QWEN = Settings(
    profile="qwen",
    description="the same model, all its weights, on MBPP, sized for a GPU of 16 GB",
    model=QWEN_CPU.model,
    problems="mbpp",
    held_out=("mbpp-test", "humaneval"),
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
PROFILES = {settings.profile: settings for settings in (TINY, QWEN_CPU, QWEN, QWEN_FULL)}


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
    settings.share(processes.count())  # refuses a number of processes that does not fit
    if name == "tiny":
        offline()
    gpu_is_missing = settings.device == "cuda" and not has_gpu()
    _demand(
        not gpu_is_missing or "model" in named,
        f"The profile {name} needs a GPU for {settings.model}, and there is none here: run the profile tiny, or name a "
        "small model of your own (GRPO_MODEL, or --model) to try the path on the CPU.",
    )
    _demand(
        not hub.is_adapter(hub.locate(settings.model)),
        f"{settings.model} is an adapter. To train on from it, name the model that it was merged into (--merge).",
    )
    if gpu_is_missing:
        print(f"No GPU here: {settings.model} runs on the CPU, in fp32 instead of {settings.precision} autocast.")
        return replace(settings, device="cpu", precision="fp32")
    # Older GPUs such as the T4 only emulate bf16.
    if settings.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        print("This GPU has no native bf16; using fp16 autocast instead.")
        return replace(settings, precision="fp16")
    return settings


def has_gpu() -> bool:
    """Return whether PyTorch finds a CUDA device. If there are several, one process uses only the first one."""
    # TRL refuses to run on several GPUs in one process. This takes effect only before the first use of CUDA.
    if processes.count() == 1:
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
