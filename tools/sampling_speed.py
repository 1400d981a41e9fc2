"""Measure how fast groups are sampled: the course's own sampler and transformers' `generate`, in turn.

    python -m tools.sampling_speed [--model FOLDER]

Both sample 8 completions of each of 6 held-out problems at temperature 1. The median of the ratios of all pairs counts.
"""

import argparse
import sys
from collections.abc import Sequence
from statistics import median
from time import perf_counter

from helpers.runtime import CourseError, offline, prepare_libraries

PROMPTS, SAMPLES, TOKENS = 6, 8, 56


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="data/tiny_coder", help="folder of the model (default: the bundled one)")
    parser.add_argument("--pairs", type=int, default=7)
    chosen = parser.parse_args(arguments)
    prepare_libraries()
    offline()
    try:
        own, theirs = measure(chosen.model, chosen.pairs)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    ratio = median(b / a for a, b in zip(own, theirs, strict=True))
    print(
        f"{SAMPLES} completions of each of {PROMPTS} prompts with {chosen.model}: {median(own):.2f} s with the sampler "
        f"for groups, {median(theirs):.2f} s with generate, {ratio:.1f} times as long (median of {chosen.pairs} pairs)."
    )
    return 0


def measure(folder: str, pairs: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each call of the two samplers, which take turns."""
    import torch

    from helpers.policy import load_policy, sample_completion_ids
    from helpers.problems import choose_prompt_mode, load_held_out, prompt_text

    model, tokenizer = load_policy(folder)
    mode = choose_prompt_mode(tokenizer)
    prompts = [prompt_text(problem, tokenizer, mode) for problem in load_held_out("tiny")[:PROMPTS]]
    batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")

    def grouped(seed: int) -> None:
        how = {"num_samples": SAMPLES, "max_completion_length": TOKENS}
        sample_completion_ids(model, tokenizer, prompts, seed=seed, **how)

    def generate(seed: int) -> None:
        torch.manual_seed(seed)
        how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
        model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            num_return_sequences=SAMPLES,
            max_new_tokens=TOKENS,
            **how,
        )

    seconds: tuple[list[float], list[float]] = ([], [])
    for seed in range(-1, pairs):  # the first pair only warms up
        for sample, into in zip((grouped, generate), seconds, strict=True):
            start = perf_counter()
            sample(seed + 1)
            if seed >= 0:
                into.append(perf_counter() - start)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
