"""The code behind the notebooks: one module per step of the GRPO loop, and a few that serve them.

The loop, in the order in which a batch passes through it:
    problems     load, check and split programming problems
    policy       load a model and sample completions from it
    answers      make a program from the text that a model wrote
    verifier/    run the tests against a program that nobody trusts
    rewards      turn verdicts into TRL reward functions
    advantages   compare each reward with those of its group       (for the notebooks and tests: in training,
    losses       compute the GRPO family of losses                  TRL does this mathematics)
    critic       PPO's value model, and a loop that is PPO with it and GRPO without
    training     build TRL's GRPOTrainer, with a live curve and a history
    evaluation   measure pass@k with intervals, before and after

A run from the command line:
    profiles     settings, and which of them fit this machine      hub, memory  where a model is, whether it fits
    run_folder   all that a run leaves in its folder               train        python -m helpers.train

The notebooks:
    runtime      packages, folders and seeds                       exercises, checks/  the exercises and their tests
    figures      every plot, and drawings                          preferences         what notebook 01 teaches
    tiny_coder/  how the bundled model and its problems are made

The verifier imports nothing of the others, and `runtime` and `problems` hardly anything: they load in milliseconds.
"""
