"""One training run in several processes: torchrun or accelerate starts them, and each takes its share of a step.

The first process measures, writes and prints; the others wait for it. Without a launcher there is one process, and
nothing here does anything.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from helpers.runtime import CourseError, prepare_libraries

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Result = TypeVar("Result")

# The others wait while the first process measures, which may take hours. By default they give up after 30 minutes.
PATIENCE = timedelta(days=7)
MOMENT = timedelta(seconds=10)  # an error that all processes meet, they meet within this time


def count() -> int:
    """Return how many processes share this run.

    >>> count()
    1
    """
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Return the number of this process; 0 is the first one.

    >>> rank()
    0
    """
    return int(os.environ["RANK"]) if count() > 1 else 0


@contextmanager
def joined() -> Iterator[None]:
    """Connect the processes of this run, and disconnect them at the end. Only the first one prints."""
    if count() == 1:
        yield
        return
    prepare_libraries()  # before anything imports torch
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group(timeout=PATIENCE)
    _messages()
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if rank() else sys.stdout):
            yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@cache
def _messages() -> "ProcessGroup":
    """Return a group of our own, so that our messages never meet those of the trainer. It needs no GPU."""
    import torch.distributed as dist

    return dist.new_group(backend="gloo", timeout=PATIENCE)


def on_first(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Call a function in the first process only, and return its result in all of them.

    If it raises an exception there, the others raise CourseError with the same sentence.

    >>> on_first(max, 3, 5)
    5
    """
    if count() == 1:
        return function(*args, **kwargs)
    if rank():
        result, failure = _broadcast(None)
        if failure is not None:
            raise CourseError(failure)
        return result
    try:
        result = function(*args, **kwargs)
    except BaseException as error:  # also Ctrl-C: the others must not wait for ever
        _broadcast((None, str(error)))
        raise
    _broadcast((result, None))
    return result


def _broadcast(content: Any) -> Any:
    """Return what the first process passes."""
    import torch.distributed as dist

    box = [content]
    dist.broadcast_object_list(box, src=0, group=_messages())
    return box[0]


def highest(number: int) -> int:
    """Return the highest of the numbers that the processes pass.

    >>> highest(2)
    2
    """
    if count() == 1:
        return number
    import torch
    import torch.distributed as dist

    numbers = torch.tensor([number])
    dist.all_reduce(numbers, dist.ReduceOp.MAX, group=_messages())
    return int(numbers)


def wait() -> None:
    """Wait until all processes are here."""
    highest(0)


def report(sentence: str) -> None:
    """Print an error to stderr: once if all processes met it, and also if only this one did."""
    if rank() == 0:
        print(sentence, file=sys.stderr, flush=True)
    if count() == 1:
        return
    import torch.distributed as dist

    # Once one process has ended, the launcher ends the others. So each waits until the first one has printed.
    try:
        if dist.is_initialized():
            dist.monitored_barrier(_messages(), timeout=MOMENT)
    except RuntimeError:
        if rank():
            print(sentence, file=sys.stderr, flush=True)


def launcher() -> list[str]:
    """Return the arguments of Python that start as many processes on this machine; none for a single process.

    >>> launcher()
    []
    """
    here = os.environ.get("LOCAL_WORLD_SIZE", str(count()))
    return ["-m", "torch.distributed.run", "--nproc_per_node", here] if count() > 1 else []
