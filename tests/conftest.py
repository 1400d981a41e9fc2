"""Settings for all tests: no network, one thread, no windows, the same seed for each test."""

import os

# Libraries read these when they are imported, so they are set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"
HOSTED = ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "COURSE_REPOSITORY")
OURS = ("COURSE_OUTPUT", "COURSE_STRICT", "GRPO_PROFILE", "GRPO_MODEL", "GRPO_MAX_STEPS", "HUMANEVAL_PATH")
for name in (*OURS, *HOSTED):
    os.environ.pop(name, None)

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from helpers import runtime


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Each test starts from the same seed, whichever ran before it; torch is seeded where a test has loaded it."""
    runtime.set_seeds(0, with_torch="torch" in sys.modules)


@pytest.fixture
def root() -> Path:
    """The project's folder."""
    return ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu where there is none; torch is asked only if such a test is there."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not runtime.has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
