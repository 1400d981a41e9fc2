"""The helpers behind the notebooks: one module per step of the GRPO loop."""
