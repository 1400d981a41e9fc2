"""The settings of a training run, one set per profile. Light: nothing here loads torch."""

from dataclasses import dataclass

from helpers.runtime import CourseError

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
    lr_scheduler_type: str = "constant"
    temperature: float = 1.0  # 1.0: the samples come from the very distribution that is trained
    loss_type: str = "dr_grpo"
    scale_rewards: str = "none"  # "group" divides each advantage by the spread of its group
    beta: float = 0.0  # weight of the KL penalty; 0 loads no reference model
    epsilon: float = 0.2  # clipping range of the probability ratio; on-policy the ratio is 1 and nothing is clipped
    max_grad_norm: float = 1.0
    mask_truncated_completions: bool = False  # False: a completion that was cut off counts as the failure it is
    eval_samples: int = 8  # sampled completions per held-out problem
    eval_temperature: float = 1.0
    seed: int = 0
    device: str = "cpu"
    threads: int = 2  # at most; one thread (OMP_NUM_THREADS=1) gives the same run twice to the bit, two may not

    def __post_init__(self) -> None:
        for name in ("prompts_per_step", "max_completion_length", "max_steps", "threads"):
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
        for name, choices in (("scale_rewards", SCALE_REWARDS), ("loss_type", LOSS_TYPES)):
            value = getattr(self, name)
            _demand(value in choices, f'{name} must be one of {", ".join(choices)}, not "{value}".')

    @property
    def completions_per_step(self) -> int:
        """Completions sampled, graded and learned from in one step: whole groups by construction."""
        return self.prompts_per_step * self.num_generations


# Rates that are right for a model of a billion weights (1e-6) move one of a million nowhere; 3.5e-4 was measured here.
PROFILES = {
    "tiny": Settings(
        profile="tiny",
        model="data/tiny_coder",
        problems="tiny",
        prompts_per_step=8,
        num_generations=8,
        max_completion_length=56,
        max_steps=68,
        learning_rate=3.5e-4,
    ),
}


def profile_settings(name: str) -> Settings:
    """The settings of a profile; change some with `dataclasses.replace`. Raises SettingsError for an unknown name."""
    _demand(name in PROFILES, f'There is no profile "{name}"; choose one of: {", ".join(PROFILES)}.')
    return PROFILES[name]
