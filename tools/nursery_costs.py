"""Measure what a nursery spends on one player: a bare fork and wait, and each layer of isolation.

`tools.benchmark` runs this script in an interpreter that is started like a nursery's. It prints JSON: milliseconds by
name. It imports little, because everything that it holds would make its forks slower than a nursery's.
"""

import gc
import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from itertools import pairwise

FORKS = 400
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "helpers", "verifier"))
import isolation  # noqa: E402
import nursery  # noqa: E402


def fork_and_wait(child: Callable[[], object]) -> float:
    """Return the milliseconds from a fork to the end of the child, the median of FORKS."""
    spent = []
    for _ in range(FORKS):
        start = time.perf_counter()
        pid = os.fork()
        if not pid:
            try:
                child()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        spent.append(time.perf_counter() - start)
    return 1000 * sorted(spent)[FORKS // 2]


def layer_costs(confinement: isolation.Confinement) -> dict[str, float]:
    """Return the milliseconds that each layer takes in a player, the medians of FORKS players."""
    layers = [layer for layer in isolation.PLAYER_LAYERS if confinement.states[layer.name].on]
    shared, times = mmap.mmap(-1, 4096), struct.Struct(f"{len(layers) + 1}d")
    rounds = []

    def put_on() -> None:
        passed = [time.perf_counter()]
        for layer in layers:
            layer.apply(confinement)
            passed.append(time.perf_counter())
        times.pack_into(shared, 0, *passed)

    for _ in range(FORKS):
        pid = os.fork()
        if not pid:
            try:
                put_on()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        passed = times.unpack_from(shared)
        rounds.append([after - before for before, after in pairwise(passed)])
    medians = [sorted(spent)[FORKS // 2] for spent in zip(*rounds, strict=True)]
    return {layer.name: 1000 * median for layer, median in zip(layers, medians, strict=True)}


def main() -> None:
    """Set up a nursery without a judge, measure, and print the costs."""
    printed = os.dup(1)
    # A nursery has its socket open there.
    os.dup2(1, isolation.SOCKET_FD)
    confinement = isolation.Confinement()
    nursery.prepare(confinement, ())
    confinement.confine_nursery()
    gc.collect()
    gc.freeze()
    found = {
        "bare": fork_and_wait(lambda: None),
        "confined": fork_and_wait(lambda: confinement.confine_player(confinement.limits)),
    }
    found |= {"layers": layer_costs(confinement), "bare again": fork_and_wait(lambda: None)}
    os.write(printed, json.dumps(found).encode())


if __name__ == "__main__":
    main()
