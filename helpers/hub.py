"""Where a model is, and whether it can be had: told in seconds, where the loaders would try for a minute."""

import json
import re
import threading
from pathlib import Path

from helpers.runtime import CourseError, offline, project_root

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # as "Qwen/Qwen2.5-Coder-0.5B-Instruct"
SECONDS = 5.0  # to wait for an answer from the hub


class PolicyError(CourseError, ValueError):
    """A model that cannot be loaded; the message says why in one sentence."""


def locate(model: str | Path) -> str:
    """The folder to load a model from, or its hub id where it is in the cache or can be fetched.

    A relative folder is looked up in the working folder, then in the project. Raises PolicyError for a folder that is
    no model, and where nobody gives the model out.
    """
    for folder in _folders(model):
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise PolicyError(f"The folder {model} holds no model: it has no config.json.")
            return str(folder)
    if any(folder.parent.is_dir() for folder in _folders(model)) or not HUB_ID.fullmatch(str(model)):
        raise PolicyError(f"There is no model folder {model}.")
    if is_cached(str(model)):
        offline()  # the loaders would ask whether there is news, and go on trying for a minute where nobody answers
    elif reason := obstacle(str(model)):
        raise PolicyError(
            f"{model} is not on this machine, and {reason}: connect to the network, name a folder that holds a model "
            "(GRPO_MODEL, or --model), or run the profile tiny, which needs neither."
        )
    return str(model)


def obstacle(model: str) -> str | None:
    """Why a model cannot be loaded, as half a sentence; None where nothing is in the way.

    A folder is here already, and so is a hub id whose files are in the cache; for others the hub is asked once, over
    the proxy and at the address that the environment names (HF_ENDPOINT).
    """
    if any(folder.is_dir() for folder in _folders(model)) or is_cached(model):
        return None
    return _ask(model, "config.json")


def _folders(model: str | Path) -> tuple[Path, Path]:
    return Path(model).expanduser(), project_root() / model


def dataset_obstacle(dataset: str) -> str | None:
    """The same for a data set of the hub, which is asked in any case."""
    return _ask(f"datasets/{dataset}", "README.md")


def is_cached(model: str) -> bool:
    """Whether configuration, tokenizer and all weights of a hub id are in the hub library's cache."""
    from huggingface_hub import try_to_load_from_cache

    def here(name: str) -> bool:
        return isinstance(try_to_load_from_cache(model, name), str)

    if not (here("config.json") and here("tokenizer_config.json")):
        return False
    if here("model.safetensors.index.json"):
        index = json.loads(Path(try_to_load_from_cache(model, "model.safetensors.index.json")).read_text())
        return all(here(name) for name in set(index["weight_map"].values()))
    return here("model.safetensors")


def _ask(repository: str, file: str) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE forbids to ask the hub"
    answer: list[int] = []

    def ask() -> None:
        url = f"{constants.ENDPOINT}/{repository}/resolve/main/{file}"
        options = {"headers": build_hf_headers(), "timeout": SECONDS, "follow_redirects": True}
        try:
            answer.append(get_session().head(url, **options).status_code)
        except Exception:  # no name, no route, no certificate, time out: for the reader all the same
            answer.append(0)

    # A thread, because looking up a host's name has no time-out of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    status = answer[0] if answer else 0
    if not status or status >= 500:
        return f"{constants.ENDPOINT} cannot be reached"
    return f"{constants.ENDPOINT} does not give it out (HTTP {status})" if status >= 400 else None
