"""The recorded experiments: `python -m tools.record NAME` runs one, seed by seed, and adds its rows to CSV files.

Each experiment is a module here. It names its FILES and its SETTINGS, and its function `measure(seed)` returns one
data frame for each file, with a column `seed`. To add one, write the module and list it in EXPERIMENTS.
"""

EXPERIMENTS = {
    "by-hand": "notebook 03's own training loop and GRPOTrainer, with the same settings (about three minutes a seed)",
    "baselines": "notebook 03: what the baseline does to learning (32 minutes for --seeds 0 1 2 3 4)",
    "dynamic-sampling": "notebook 03: silent groups replaced, at equal completions (11 minutes for --seeds 0 1 2 3 4)",
    "one-problem": "notebook 03: eleven updates on one problem (3 minutes for --seeds 0 1 2 3 4)",
    "reuse": "notebook 05: a batch used for several updates, and the variants made for that (90 minutes on one core)",
    "verifier-quality": "notebook 06: the same run under verifiers that err (58 minutes on one core)",
    "clinic": "notebook 06: trainers with one planted fault each (46 minutes on one core)",
    "what-matters": "notebook 06: group size, learning rate, temperature, kinds of problems (59 minutes on one core)",
    "pass-at-k": "notebook 06: pass@k for k up to 64, before and after training (12 minutes on one core)",
    "learned-reward": "notebook 01's training on a learned reward and on the verifier, by GRPO and by PPO",
    "qwen": "notebook 04's real model on a CPU, one run a command (an hour; it has options of its own: qwen --help)",
    "hacking": "notebook 02's run that learns to cheat v1, and the same run with the real verifier",
    "partial-reward": "notebook 02's comparison of binary and partial credit",
    "cheats": "notebook 02's table: every verifier, every kind of answer, all of HumanEval (seed 0 is enough)",
    "weak-tests": "notebook 02: wrong programs that pass HumanEval's tests (needs HUMANEVAL_PLUS_PATH)",
    "reward-model": "notebook 01's choices by a reward model, and by scores that know nothing",
    "two-by-two": "notebook 01: memory and seconds of a step, by GRPO and by PPO, on two rewards",
}
