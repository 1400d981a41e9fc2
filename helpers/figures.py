"""Every figure: Okabe-Ito colours with a second cue beside colour, and alternative text stored and printed."""

from io import BytesIO
from textwrap import fill

import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design" (2008): told apart under the common kinds of colour blindness.
BLACK, ORANGE, SKY_BLUE, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

DPI = 100
PANELS = (  # column, title, axis label, colour
    ("reward", "Reward", "mean of the step", BLUE),
    ("frac_reward_zero_std", "Groups without signal", "share of groups", VERMILLION),
    ("entropy", "Entropy", "nats a token", GREEN),
    ("completion_length", "Completion length", "tokens", PURPLE),
)


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, where pictures can be shown."""
    shell = get_ipython()
    return shell is not None and shell.has_trait("kernel")


def show(fig: Figure, alt: str) -> None:
    """Show a figure with alternative text, print that text below, and close the figure."""
    picture = LivePicture()
    picture.draw(fig, alt)
    picture.finish()


class LivePicture:
    """A picture in a cell's output that can be drawn again in place."""

    def __init__(self) -> None:
        self.handle = None
        self.alt = ""

    def draw(self, fig: Figure, alt: str) -> None:
        """Show `fig`, in the place of what was shown before, and close it."""
        self.alt = alt
        if in_notebook():
            image = _image(fig, alt)
            if self.handle is None:
                self.handle = display(image, display_id=True)
            else:
                self.handle.update(image)
        plt.close(fig)  # else the notebook shows it a second time at the end of the cell

    def finish(self) -> None:
        """Print the alternative text: JupyterLab stores it and does not show it."""
        print(fill(self.alt, 100))


def _image(fig: Figure, alt: str) -> Image:
    buffer = BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI)
    return Image(data=buffer.getvalue(), format="png", alt=alt)


def learning_curves(history: pd.DataFrame) -> Figure:
    """Four small panels over steps: reward, groups without signal, entropy, completion length."""
    fig, axes = plt.subplots(2, 2, figsize=(7, 4.4), sharex=True, layout="constrained")
    for axis, (column, title, label, colour) in zip(axes.flat, PANELS, strict=True):
        axis.plot(history["step"], history[column], color=colour, alpha=0.35, linewidth=1)
        smooth = history[column].rolling(5, min_periods=1).mean()
        axis.plot(history["step"], smooth, color=colour, linewidth=2)
        axis.set_title(title, fontsize=10)
        axis.set_ylabel(label, fontsize=9)
        top = 1.04 if column in ("reward", "frac_reward_zero_std") else None
        axis.set_ylim(bottom=0, top=top)
        _plain(axis)
    for axis in axes[1]:
        axis.set_xlabel("step", fontsize=9)
    return fig


def describe_history(history: pd.DataFrame) -> str:
    """One sentence for `learning_curves`: where each curve starts and ends (means of five steps)."""
    if history.empty:
        return "Four empty panels: no step has been logged."
    first, last = history.head(5).mean(), history.tail(5).mean()
    parts = [f"{title.lower()} {first[column]:.2f} to {last[column]:.2f}" for column, title, _, _ in PANELS]
    return f"Four curves over {len(history)} steps, first five steps against last five: {', '.join(parts)}."


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    axis.tick_params(labelsize=8)
