"""Make the bundled problems and pre-train the bundled model: `python -m helpers.tiny_coder --output DIR`.

Read the modules in this order:

    operators.py   the building blocks: a filter, a map, an aggregate, and the mistakes people make with each
    families.py    how operators combine into a sentence and a function body
    inputs.py      random arguments to call the functions with
    mutants.py     wrong programs that the tests of a problem must catch
    build.py       chooses the problems, holds some out, writes their tests
    pretrain.py    trains the tokenizer and the model on a corpus with systematic mistakes
    __main__.py    the command
"""
