"""Every figure: Okabe-Ito colours with a second cue beside colour, and alternative text stored and printed.

Each function returns a matplotlib figure whose label is one sentence with the numbers shown; `show` displays both.
"""

from collections.abc import Mapping
from io import BytesIO
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import DisplayHandle, Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito, "Color Universal Design" (2008): told apart under the common kinds of colour blindness.
BLACK, ORANGE, SKY_BLUE, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
STYLES = ((ORANGE, "o", "--"), (BLUE, "s", "-"), (GREEN, "^", ":"), (PURPLE, "D", "-."))  # colour, marker, dash

PANELS = (  # column of the history, title, axis label, colour, whether it is a share
    ("reward", "Reward", "mean of the step", BLUE, True),
    ("frac_reward_zero_std", "Groups without signal", "share of the groups", VERMILLION, True),
    ("entropy", "Entropy", "nats per token", GREEN, False),
    ("completion_length", "Completion length", "tokens", PURPLE, False),
)


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, where pictures can be shown."""
    shell = get_ipython()
    return shell is not None and shell.has_trait("kernel")


def show(fig: Figure, alt: str = "") -> None:
    """Show a figure with alternative text (its label unless given), print that text below, and close the figure.

    Raises ValueError where there is no text to go with it.
    """
    picture = LivePicture()
    picture.draw(fig, alt)
    picture.finish()


class LivePicture:
    """A picture in a cell's output that can be drawn again in place."""

    def __init__(self) -> None:
        self.handle: DisplayHandle | None = None
        self.alt = ""

    def draw(self, fig: Figure, alt: str = "") -> None:
        """Show `fig` in the place of what was shown before, and close it; outside a notebook only close it."""
        self.alt = alt or fig.get_label()
        plt.close(fig)  # else the notebook shows it a second time at the end of the cell
        if not self.alt:
            raise ValueError("A figure needs alternative text: one sentence that says what it shows.")
        if not in_notebook():
            return
        if self.handle is None:
            self.handle = display(_image(fig, self.alt), display_id=True)
        else:
            self.handle.update(_image(fig, self.alt))

    def finish(self) -> None:
        """Print the alternative text below the picture: JupyterLab keeps it in the file but does not show it."""
        print(fill(self.alt, 100))


def learning_curves(history: pd.DataFrame) -> Figure:
    """Four panels over steps: reward, groups without signal, entropy, completion length.

    `history` is a `history_frame`. The strong line is the mean of the last five steps, the faint one the step itself.
    """
    fig, axes = plt.subplots(2, 2, figsize=(7, 4.2), sharex=True, layout="constrained")
    smooth = history.rolling(5, min_periods=1).mean()
    for axis, (column, title, unit, colour, is_share) in zip(axes.flat, PANELS, strict=True):
        axis.plot(history["step"], history[column], color=colour, alpha=0.4, linewidth=1)
        axis.plot(history["step"], smooth[column], color=colour, linewidth=2, marker="." if len(history) == 1 else "")
        axis.set_title(title, fontsize=11)
        axis.set_ylabel(unit)
        axis.set_ylim(0, 1.04 if is_share else max(1.08 * history[column].max(), 0.01))
        _plain(axis)
    for axis in axes[1]:
        axis.set_xlabel("training step")
        axis.set_xlim(0, max(5, history["step"].max()))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    fig.set_label(_history_in_words(history))
    return fig


def before_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> Figure:
    """Bars of the held-out scores before and after with 95 % intervals; both are `Evaluation.summary()`."""
    names = list(before["interval"])
    fig, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for side, (scores, colour, hatch, label) in enumerate(
        ((before, ORANGE, "//", "before"), (after, BLUE, "", "after"))
    ):
        for position, name in enumerate(names):
            low, high = scores["interval"][name]
            x = position + 0.38 * (side - 0.5)
            axis.bar(x, scores[name], 0.36, color=colour, hatch=hatch, edgecolor="white", zorder=2)
            axis.plot([x, x], [low, high], color=BLACK, linewidth=1.4, zorder=3)
            axis.text(x, high + 0.02, f"{label}\n{_percent(scores[name])}", ha="center", va="bottom", fontsize=9)
    axis.set_xticks(range(len(names)), [_score_name(name) for name in names])
    axis.set_ylim(0, 1.22)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], [_percent(share) for share in (0, 0.25, 0.5, 0.75, 1)])
    axis.set_ylabel("held-out problems solved")
    axis.set_title(f"Before and after training, {before['problems']} held-out problems, 95 % intervals", fontsize=11)
    _plain(axis)
    changes = "; ".join(f"{_score_name(name)} {_percent(before[name])} to {_percent(after[name])}" for name in names)
    fig.set_label(f"Bars of the held-out problems solved before and after training: {changes}.")
    return fig


def pass_at_k_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """pass@k over k with 95 % intervals; `curves` is label -> `Evaluation.pass_at_k_curve()`."""
    fig, axis = _curves(curves, "k", "pass@k")
    axis.set_xlabel("k, samples per problem")
    axis.set_ylabel("problems solved by at least\none of k samples")
    axis.set_title("pass@k on held-out problems, with 95 % intervals", fontsize=11)
    return fig


def temperature_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """pass@1 over the sampling temperature with 95 % intervals; `curves` is label -> `temperature_sweep(...)`."""
    fig, axis = _curves(curves, "temperature", "pass@1")
    axis.set_xlabel("sampling temperature (0 is greedy decoding)")
    axis.set_ylabel("pass@1")
    axis.set_title("pass@1 on held-out problems by temperature, with 95 % intervals", fontsize=11)
    return fig


def _curves(curves: Mapping[str, pd.DataFrame], x: str, y: str) -> tuple[Figure, Axes]:
    fig, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for (label, frame), (colour, marker, dash) in zip(curves.items(), STYLES, strict=False):
        axis.fill_between(frame[x], frame["low"], frame["high"], color=colour, alpha=0.18, linewidth=0)
        axis.plot(frame[x], frame[y], color=colour, marker=marker, linestyle=dash, label=label)
    axis.legend(frameon=False, handlelength=3)
    axis.set_ylim(0, 1.04)
    _plain(axis)
    ends = "; ".join(
        f"{label} from {_percent(frame[y].iloc[0])} at {frame[x].iloc[0]:g} to {_percent(frame[y].iloc[-1])} at "
        f"{frame[x].iloc[-1]:g}"
        for label, frame in curves.items()
    )
    fig.set_label(f"Curves of {y} over {x} with 95 % intervals: {ends}.")
    return fig, axis


def _history_in_words(history: pd.DataFrame) -> str:
    first, last = history.head(5).mean(), history.tail(5).mean()
    parts = [f"{title.lower()} {first[column]:.2f} to {last[column]:.2f}" for column, title, *_ in PANELS]
    return (
        f"Four curves over {len(history)} steps, mean of the first five to mean of the last five: {', '.join(parts)}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _score_name(name: str) -> str:
    return {"greedy": "greedy decoding"}.get(name, name)


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    axis.tick_params(labelsize=9)


def _image(fig: Figure, alt: str) -> Image:
    buffer = BytesIO()
    fig.savefig(buffer, format="png", dpi=100)
    return Image(data=buffer.getvalue(), format="png", alt=alt)
