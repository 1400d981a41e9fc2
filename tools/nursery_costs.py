"""What a nursery spends on one player: a bare fork and wait, and each layer of isolation. `tools.benchmark` runs this.

Run as a script in an interpreter started like a nursery's, it prints JSON: milliseconds by name. It imports little, as
what it holds would make each fork dearer than a nursery's.
"""

import gc
import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable

FORKS = 400
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "helpers", "verifier"))
import isolation  # noqa: E402
import nursery  # noqa: E402


def fork_and_wait(child: Callable[[], object]) -> float:
    """Milliseconds from a fork to the end of the child, the median of FORKS."""
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


def layer_costs(cage: isolation.Confinement) -> dict[str, float]:
    """Milliseconds that each layer takes in a player, the medians of FORKS players."""
    layers = [layer for layer in isolation.PLAYER_LAYERS if cage.states[layer.name].on]
    shared, times = mmap.mmap(-1, 4096), struct.Struct(f"{len(layers) + 1}d")
    rounds = []

    def put_on() -> None:
        passed = [time.perf_counter()]
        for layer in layers:
            layer.apply(cage)
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
        rounds.append([after - before for before, after in zip(passed, passed[1:], strict=False)])
    medians = [sorted(spent)[FORKS // 2] for spent in zip(*rounds, strict=True)]
    return {layer.name: 1000 * median for layer, median in zip(layers, medians, strict=True)}


def main() -> None:
    """Be a nursery as far as it goes, without a judge."""
    printed = os.dup(1)
    os.dup2(1, isolation.SOCKET_FD)  # what a nursery has open there
    cage = isolation.Confinement()
    nursery.prepare(cage, ())
    cage.enter()
    gc.collect()
    gc.freeze()
    found = {"bare": fork_and_wait(lambda: None), "confined": fork_and_wait(lambda: cage.confine(cage.limits))}
    found |= {"layers": layer_costs(cage), "bare again": fork_and_wait(lambda: None)}
    os.write(printed, json.dumps(found).encode())


if __name__ == "__main__":
    main()
