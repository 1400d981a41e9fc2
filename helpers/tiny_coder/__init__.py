"""How the bundled model and problems are made: `python -m helpers.tiny_coder --output DIR`."""
