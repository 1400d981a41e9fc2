"""The table of a run's scores before and after training."""

from collections.abc import Sequence
from typing import Any


def before_after_table(result: dict[str, Any]) -> str:
    """Return the held-out scores of a result.json before and after training, in percent, as lines of text.

    The change is in percentage points. Raises KeyError or TypeError if `result` is not the content of a result.json.
    """
    before, after, change = result["before"], result["after"], result["change"]
    lines = [
        f"Before and after training, on {after['problems']} held-out problems, {after['samples']} samples each",
        "(share solved, with 95 % intervals)",
        "",
        f"{'':<8}  {'before':<22}  {'after':<22}  change in points",
    ]
    for name in change:
        shares = [f"{100 * at[name]:5.1f} % {_interval(at['interval'][name])}" for at in (before, after)]
        points = f"{100 * change[name]['difference']:+5.1f} {_interval(change[name]['interval'])}"
        lines.append(f"{name:<8}  {shares[0]:<22}  {shares[1]:<22}  {points}")
    return "\n".join(lines)


def _interval(bounds: Sequence[float]) -> str:
    low, high = (100 * bound for bound in bounds)
    return f"[{low:.1f}, {high:.1f}]"
