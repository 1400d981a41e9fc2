"""The direction of imports in helpers/: an arrow that climbs, a circle and a foreign package are found."""

import pytest

from tools import imports


def write(folder, **rooms):
    """Write modules of helpers/; "verifier__pool" is a module in a package."""
    for name, source in rooms.items():
        path = folder / "helpers" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder


def test_arrows_that_point_down_are_right(tmp_path):
    course = write(
        tmp_path,
        runtime="import os",
        problems="from helpers.runtime import CourseError",
        rewards="from helpers import problems\nfrom helpers.verifier import grade",
        verifier__pool="import socket\nfrom . import wire\nimport wire",
        verifier__wire="import json",
        losses="import torch\nfrom collections.abc import Sequence",
        training="from helpers.figures import curves\nfrom helpers.rewards import x",
        figures="import matplotlib",
    )
    assert list(imports.wrong_imports(course)) == []


@pytest.mark.parametrize(
    ("rooms", "found"),
    [
        (
            {"rewards": "from helpers.figures import show", "figures": ""},
            ["imports helpers/figures, which is on a hig"],
        ),
        (
            {"rewards": "def f():\n    import helpers.train", "train": ""},
            ["imports helpers/train, which is on a higher"],
        ),
        ({"rewards": "import helpers.policy", "policy": "import helpers.rewards"}, ["in a circle"] * 2),
        (
            {
                "rewards": "import helpers.policy",
                "policy": "import helpers.answers",
                "answers": "import helpers.rewards",
            },
            ["in a circle"] * 3,
        ),
        ({"losses": "import numpy"}, ["helpers/losses imports numpy"]),
        ({"verifier__pool": "import torch"}, ["helpers/verifier imports torch"]),
        ({"verifier__pool": "from helpers.runtime import CourseError", "runtime": ""}, ["helpers/runtime, but"]),
        ({"new_room": ""}, ["helpers/new_room is on no floor"]),
    ],
)
def test_a_wrong_import_is_found(rooms, found, tmp_path):
    said = list(imports.wrong_imports(write(tmp_path, **rooms)))
    assert len(said) == len(found) and all(part in line for part, line in zip(found, said, strict=True)), said


def test_all_imports_in_helpers_point_the_right_way(root):
    assert list(imports.wrong_imports(root)) == []
