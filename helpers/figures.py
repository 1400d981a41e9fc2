"""Show figures, tables and the roadmap, and draw the charts that several notebooks use.

Every chart is a `Picture`: a matplotlib figure with a caption and alternative text. `show` displays it. Colour-blind
readers can tell the colours apart, and each colour has a second cue: a marker, a dash, a hatch or a label. A chart that
only one notebook needs is in `helpers.drawings`.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import DisplayHandle, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image

from helpers.runtime import CourseError

# Okabe and Ito, "Color Universal Design" (2008).
BLACK, ORANGE, SKY_BLUE, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, YELLOW = "#0072B2", "#D55E00", "#CC79A7", "#F0E442"
STYLES = (  # colour, marker, dash
    (ORANGE, "o", "--"),
    (BLUE, "s", "-"),
    (GREEN, "^", ":"),
    (PURPLE, "D", "-."),
    (BLACK, "x", (0, (1, 1))),
    (VERMILLION, "v", (0, (5, 1))),
)
ON_WHITE = {"facecolor": "white", "linewidth": 0, "pad": 1}  # keeps a number readable on a coloured background

INCHES, PIXELS, DPI = 7, 700, 200  # the width of a figure as drawn and as shown, and its resolution

PANELS = {  # column of the history: title, axis label, colour, the lowest value at which the y axis may end
    "reward": ("Reward", "mean of the step", BLUE, 1.0),
    "frac_reward_zero_std": ("Groups without signal", "fraction of groups", VERMILLION, 1.0),
    "entropy": ("Entropy", "nats per token", GREEN, 0.01),
    "completion_length": ("Completion length", "tokens", PURPLE, 0.01),
    "clipped_ratio": ("Truncated completions", "fraction", ORANGE, 1.0),
}

LOOP = {  # name of the step: text in its box
    "problem": "problem",
    "completions": "group of completions",
    "reward": "verifier",
    "advantages": "advantages",
    "step": "loss and step",
    "evaluation": "held-out measurement",
}


class Picture(Figure):
    """A figure 7 inches wide and its words: alternative text, a caption and, optionally, a table of its values.

    pyplot does not know these figures, so Jupyter never shows one twice, and you need not close them.
    """

    alt = caption = ""
    values: pd.DataFrame | None = None

    def __init__(self, height: float) -> None:
        super().__init__(figsize=(INCHES, height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))

    def describe(self, alt: str, caption: str, values: pd.DataFrame | None = None) -> "Picture":
        """Set the words: `alt` says what the figure shows, `caption` what to see in it. Returns the picture itself."""
        self.alt, self.caption, self.values = alt, caption, values
        return self

    def png(self) -> bytes:
        """Return the picture as a PNG file, 1,400 pixels wide."""
        drawn, small = BytesIO(), BytesIO()
        self.savefig(drawn, format="png", dpi=DPI)
        # A palette of 256 makes the file less than a third as large, and outputs are committed. With 64, several pale
        # bands would share one wrong colour. MAXCOVERAGE keeps rare colours; Pillow's default would paint a single
        # blue line green.
        reduced = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        reduced.save(small, "PNG", optimize=True)
        return small.getvalue()

    def bundle(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the picture by MIME type, as Jupyter displays it, and the metadata of these types.

        JupyterLab, VS Code and nbconvert show the first type that they know, which is text/html. Only this type has a
        caption, and an `alt` that screen readers find in HTML exports. GitHub shows it too: it converts notebooks with
        nbconvert and lets images in data URIs pass. PDF exports have no HTML, so they use image/png.
        """
        image = b64encode(self.png()).decode()
        width, height = PIXELS, round(PIXELS * self.get_figheight() / INCHES)
        values = ""
        if self.values is not None:
            values = f"<details><summary>Values</summary>{_table_html(self.values)}</details>"
        html = (
            f'<figure style="margin: 0"><img src="data:image/png;base64,{image}" alt="{escape(self.alt)}" '
            f'width="{width}" height="{height}" style="max-width: 100%; height: auto">'
            f"<figcaption>{escape(self.caption)}{values}</figcaption></figure>"
        )
        data = {"text/html": html, "image/png": image, "text/plain": f"{self.alt}\n{self.caption}"}
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


def in_notebook() -> bool:
    """Return whether this code runs in a Jupyter kernel, which can show pictures."""
    shell = get_ipython()
    return shell is not None and shell.has_trait("kernel")


def show(fig: Picture) -> None:
    """Show a figure and its caption. Outside a notebook, print its words."""
    if in_notebook():
        data, metadata = fig.bundle()
        display(data, metadata=metadata, raw=True)
    else:
        print(f"{fig.alt}\n{fig.caption}")


class LivePicture:
    """A picture in a notebook cell's output that can be drawn again in place."""

    fig: Picture | None = None
    handle: DisplayHandle | None = None

    def draw(self, fig: Picture) -> None:
        """Show `fig` in place of the picture before it, but without its caption."""
        self.fig = fig
        data, metadata = fig.bundle()
        # JupyterLab replaces only the source of an image, but it builds HTML again, which can flicker.
        del data["text/html"]
        self._put(data, metadata)

    def finish(self) -> None:
        """Show the last picture as `show` does, with its caption. If there is none, do nothing."""
        if self.fig is not None:
            self._put(*self.fig.bundle())

    def _put(self, data: dict[str, str], metadata: dict[str, Any]) -> None:
        if self.handle is None:
            self.handle = display(data, metadata=metadata, raw=True, display_id=True)
        else:
            self.handle.update(data, metadata=metadata, raw=True)


def table(frame: pd.DataFrame, digits: int = 3) -> None:
    """Show a table: text on the left and in full, numbers on the right and rounded to at most `digits` decimals.

    Do not round the frame yourself. A column of whole numbers has no decimals. If a column reaches 10, whole numbers in
    it have none either, so counts look like counts. If `digits` decimals would turn a number into 0, its column gets
    `digits` significant digits instead. The index becomes the first columns, unless it only counts the rows.

    >>> table(pd.DataFrame({"solved": [93.0, 188], "pass@1": [0.4559, 0.9216]}, index=["before", "after"]))
            solved  pass@1
    before      93   0.456
    after      188   0.922
    """
    _say(_table_html(frame, digits), _table_text(frame, digits))


def roadmap(step: str) -> None:
    """Show the six boxes of the loop, with the box of this step filled. `step` is one of the names in `LOOP`.

    Raises CourseError for another name.

    >>> roadmap("reward")
    problem → group of completions → [verifier] → advantages → loss and step → held-out measurement
    """
    if step not in LOOP:
        raise CourseError(f"{step!r} is not a step of the loop. The steps are: {', '.join(LOOP)}.")
    text = " → ".join(f"[{label}]" if name == step else label for name, label in LOOP.items())
    _say(_roadmap_html(step), text)


def learning_curves(
    history: pd.DataFrame, *, max_steps: int | None = None, seconds_left: float | None = None, extra: Sequence[str] = ()
) -> Picture:
    """Draw what a run logged, one panel per column: those of PANELS that `history` has, and those named in `extra`.

    `history` is a `history_frame`. A thin line shows each step, a thick line the mean of the last five. With
    `max_steps`, the x axes end there, and the title says how far the run is.
    """
    shown = {column: look for column, look in PANELS.items() if column in history}
    for column in extra:
        title = column.replace("_", " ")
        shown[column] = (title[:1].upper() + title[1:], "mean of the step", BLACK, 1.0)
    rows = -(-len(shown) // 3)
    fig = Picture(2.1 * rows + (0.3 if max_steps else 0))
    axes = fig.subplots(rows, 3, squeeze=False).flatten()
    smooth = history.rolling(5, min_periods=1).mean()
    for axis, (column, (title, unit, colour, top)) in zip(axes, shown.items(), strict=False):
        values = history[column]
        axis.plot(history["step"], values, color=colour, alpha=0.4, linewidth=1)
        # A line through one point is invisible, so the first step gets a dot.
        dot = "." if len(history) == 1 else ""
        axis.plot(history["step"], smooth[column], color=colour, linewidth=2, marker=dot)
        label_axis(axis, "training step", unit, title, xlim=(0, max_steps or history["step"].max()))
        axis.set_ylim(1.04 * min(0, values.min()), 1.04 * max(top, values.max()))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    if max_steps:
        left = f", about {duration(seconds_left)} left" if seconds_left else ""
        fig.suptitle(f"step {history['step'].iloc[-1]} of {max_steps}{left}", fontsize=11)
    steps = history[list(shown)].rename(columns={column: title for column, (title, *_) in shown.items()})
    ends = pd.DataFrame({"first five steps": steps.head(5).mean(), "last five steps": steps.tail(5).mean()})
    first, last = ends.loc["Reward"]
    return fig.describe(
        f"Line charts over the training steps: {', '.join(ends.index).lower()}.",
        f"Learning curves over {len(history)} steps: the mean reward goes from {first:.2f} in the first five steps to "
        f"{last:.2f} in the last five. Thin lines show each step, thick lines the mean of the last five steps.",
        ends,
    )


def before_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> Picture:
    """Draw bars of the held-out scores before and after training, with 95% intervals.

    Both arguments are an `Evaluation.summary()`.
    """
    names = list(before["interval"])
    fig = Picture(3.8)
    axis = fig.subplots()
    sides = ((-0.19, before, ORANGE, "//", "before"), (0.19, after, BLUE, "", "after"))
    for shift, scores, colour, hatch, label in sides:
        heights = [scores[name] for name in names]
        reach = abs(np.array([scores["interval"][name] for name in names]).T - heights)
        places = np.arange(len(names)) + shift
        bars = axis.bar(places, heights, 0.36, yerr=reach, color=colour, hatch=hatch, edgecolor="white")
        axis.bar_label(bars, fmt=label + "\n{:.0%}", padding=2, fontsize=9)
    title = f"Before and after training, {before['problems']} held-out problems, 95% intervals"
    label_axis(axis, "", "held-out problems solved", title, ylim=(0, 1.22))
    axis.set_xticks(range(len(names)), [{"greedy": "greedy decoding"}.get(name, name) for name in names])
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    changes = "; ".join(f"{name} {before[name]:.0%} to {after[name]:.0%}" for name in names)
    return fig.describe(f"Bar chart. {title}.", f"Held-out problems solved: {changes}.")


def line_panels(panels: Mapping[str, pd.DataFrame], ylabel: str, *, sharey: bool = True) -> Picture:
    """Draw panels side by side (title -> frame): a line for each column, over the index, whose name is the x label."""
    fig = Picture(4.2 if len(panels) > 1 else 3.7)  # more panels have their legend below
    axes = fig.subplots(1, len(panels), sharey=sharey, squeeze=False).flatten()
    for axis, (title, frame) in zip(axes, panels.items(), strict=True):
        for (label, column), (colour, marker, dash) in zip(frame.items(), cycle(STYLES), strict=False):
            line, every = column.dropna(), max(1, len(frame) // 8)
            axis.plot(line, color=colour, linestyle=dash, marker=marker, markevery=every, label=label)
        label_axis(axis, frame.index.name, ylabel if axis is axes[0] else "", title)
    # An array of axes serves as well as a sequence.
    _name_lines(fig, axes)  # type: ignore[arg-type]
    together = pd.concat([frame.add_prefix(f"{title}: ") for title, frame in panels.items()], axis=1)
    peaks = "; ".join(f"{label} peaks at {column.max():.3g}" for label, column in together.items())
    return fig.describe(f"Line chart of {ylabel} over {together.index.name}.", f"{peaks}.", together)


def _name_lines(fig: Picture, axes: Sequence[Axes]) -> None:
    """Give panels their legends, below them, so that they cover no line. Panels with the same lines share a legend."""
    look: dict[str, Any] = {"frameon": False, "handlelength": 3, "fontsize": 9}
    lines = [axis.get_legend_handles_labels() for axis in axes]
    labels = lines[0][1]
    if len(axes) == 1:
        # One panel has room. The white ground keeps the words readable on a line.
        axes[0].legend(**look | {"frameon": True, "edgecolor": "white", "framealpha": 0.8})
    elif all(own == labels for _, own in lines):
        fig.legend(*lines[0], loc="outside lower center", ncols=90 // (8 + max(map(len, labels))), **look)
    else:
        for axis in axes:
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), **look)


def curves(frames: Mapping[str, pd.DataFrame], x: str, y: str, xlabel: str, ylabel: str, title: str) -> Picture:
    """Draw a curve of fractions for each frame (label -> frame): column `y` over column `x`.

    A band goes from the column `low` to the column `high`. The title should say what the band means.
    """
    indexed = {label: frame.set_index(x) for label, frame in frames.items()}
    lines = pd.DataFrame({label: frame[y] for label, frame in indexed.items()})
    fig = line_panels({title: lines.rename_axis(xlabel)}, ylabel)
    [axis] = fig.axes
    for frame, (colour, *_) in zip(indexed.values(), cycle(STYLES), strict=False):
        draw_band(axis, frame, colour)
    axis.set_ylim(0, 1.04)
    axis.yaxis.set_major_formatter("{x:.0%}")
    ends = (
        f"{label} from {frame[y].iloc[0]:.0%} at {frame.index[0]:g} to {frame[y].iloc[-1]:.0%} at {frame.index[-1]:g}"
        for label, frame in indexed.items()
    )
    return fig.describe(f"Line chart of {y} over {x}. {title}.", f"{y}: {'; '.join(ends)}.", lines)


def grouped_bars(frame: pd.DataFrame, ylabel: str, title: str, *, log: bool = False) -> Picture:
    """Draw a group of bars for each row, with a bar and its value for each column. NaN leaves a gap.

    With `log`, draw dots on a logarithmic axis, because such an axis has no zero at which a bar could start.
    """
    fig = Picture(3.6)
    axis = fig.subplots()
    width = 0.8 / frame.shape[1]
    looks = cycle(((SKY_BLUE, "", "s"), (ORANGE, "//", "o"), (GREEN, "..", "^"), (PURPLE, "xx", "D")))
    for number, ((label, values), (colour, hatch, marker)) in enumerate(zip(frame.items(), looks, strict=False)):
        places = np.arange(len(frame)) + width * (number + 0.5) - 0.4
        if log:
            axis.plot(places, values, marker, color=colour, markeredgecolor=BLACK, markersize=8, label=label)
            for at in zip(places[values.notna()], values.dropna(), strict=True):
                axis.annotate(f"{at[1]:.3g}", at, (0, 7), textcoords="offset points", ha="center", fontsize=8.5)
        else:
            bars = axis.bar(places, values, 0.92 * width, color=colour, hatch=hatch, edgecolor="white", label=label)
            axis.bar_label(bars, fmt="{:.3g}", padding=2, fontsize=8.5)
    label_axis(axis, "", f"{ylabel} (logarithmic)" if log else ylabel, title, xlim=(-0.5, len(frame) - 0.5))
    axis.set_xticks(range(len(frame)), frame.index)
    axis.margins(y=0.14)
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    if frame.shape[1] > 1:
        axis.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    kind = "Dot chart on a logarithmic axis" if log else "Bar chart"
    ranges = "; ".join(f"{name} from {column.min():.3g} to {column.max():.3g}" for name, column in frame.items())
    return fig.describe(f"{kind} of {ylabel}. {title}.", f"{ylabel}: {ranges}.", frame)


def label_axis(axis: Axes, xlabel: str, ylabel: str, title: str, **more: Any) -> None:
    """Set the labels and the title of a panel, in the style that all figures share. `more` goes to `Axes.set`."""
    axis.set(xlabel=xlabel, ylabel=ylabel, **more)
    axis.set_title(title, fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=9)


def draw_band(axis: Axes, frame: pd.DataFrame, colour: str) -> None:
    """Fill the area between the columns `low` and `high`, over the index."""
    axis.fill_between(frame.index, frame["low"], frame["high"], color=colour, alpha=0.18, linewidth=0)


def draw_box(axis: Axes, x: float, y: float, text: str, **look: Any) -> None:
    """Draw a box with a text around the point (x, y). `look` goes to matplotlib's Rectangle."""
    axis.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **look))
    axis.text(x, y, text, ha="center", va="center", fontsize=8.5, bbox=ON_WHITE)


def fit_boxes(axis: Axes, columns: float, rows: float) -> None:
    """Fit a panel to its boxes, of which the first is at (0, 0) in the upper left, and hide its lines."""
    axis.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)


def _say(html: str, text: str) -> None:
    """Display HTML with plain text as its fallback. Outside a notebook, print the text."""
    if in_notebook():
        display({"text/html": html, "text/plain": text}, raw=True)
    else:
        print(text)


def duration(seconds: float) -> str:
    """Return a time in words, in the largest unit that suits: "40 s", "3 min" or "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _columns(frame: pd.DataFrame, digits: int) -> list[tuple[list[str], bool, str]]:
    """Return each column of a table: its name and cells as text, whether they head their rows, "left" or "right"."""
    heads = 0
    if frame.index.name is not None or not isinstance(frame.index, pd.RangeIndex):
        heads = frame.index.nlevels
        names = ["" if name is None else name for name in frame.index.names]
        frame = frame.reset_index(names=names, allow_duplicates=True)
    columns = []
    for number, (name, values) in enumerate(frame.infer_objects().items()):
        title = " ".join(map(str, name)) if isinstance(name, tuple) else str(name)
        is_number = values.dtype.kind in "iuf"
        if is_number:
            cells = _numbers(values.to_numpy(float), digits)
        else:
            cells = [f"{value:.{digits}g}" if isinstance(value, float) else str(value) for value in values]
        texts = [title, *("-" if cell == "nan" else cell for cell in cells)]
        is_head = number < heads
        columns.append((texts, is_head, "right" if is_number and not is_head else "left"))
    return columns


def _numbers(values: np.ndarray, digits: int) -> list[str]:
    """Format the numbers of a column alike; see `table` for the rules."""
    largest = np.abs(values[np.isfinite(values)]).max(initial=0)
    # This removes rounding errors, and the sign of -0.
    values = np.where(np.abs(values) <= 1e-6 * largest, 0, values)
    known = values[np.isfinite(values)]
    if any(0 < abs(value) < 10.0**-digits for value in known):
        return [f"{value:.{digits}g}" for value in values]
    decimals = max((len(f"{value:.{digits}f}".rstrip("0").partition(".")[2]) for value in known), default=0)
    return [f"{value:,.{0 if largest >= 10 and value == np.round(value) else decimals}f}" for value in values]


def _table_html(frame: pd.DataFrame, digits: int = 3) -> str:
    columns = _columns(frame, digits)
    rows = []
    for number, row in enumerate(zip(*(texts for texts, _, _ in columns), strict=True)):
        cells = []
        for text, (_, is_head, side) in zip(row, columns, strict=True):
            tag = 'th scope="col"' if number == 0 else 'th scope="row"' if is_head else "td"
            # JupyterLab and nbconvert align all cells right and remove style sheets, so each cell has its own style.
            cells.append(f'<{tag} style="text-align: {side}">{escape(text)}</{tag[:2]}>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead>{rows[0]}</thead><tbody>{''.join(rows[1:])}</tbody></table>"


def _table_text(frame: pd.DataFrame, digits: int) -> str:
    columns = []
    for texts, _, side in _columns(frame, digits):
        width = max(map(len, texts))
        columns.append([text.ljust(width) if side == "left" else text.rjust(width) for text in texts])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def _roadmap_html(step: str) -> str:
    """Return a table of one row, which readers can follow even if a page such as GitHub removes its styles.

    The lines have the colour of the page's text, so the strip fits a light and a dark theme.
    """
    box = "border: 2px solid; border-radius: 6px; padding: 6px 5px; text-align: center"
    filled = f"{box}; border-color: {BLUE}; background: {BLUE}; color: white"
    cells = (
        f'<td style="{filled}"><b>{label}</b></td>' if name == step else f'<td style="{box}">{label}</td>'
        for name, label in LOOP.items()
    )
    strip = '<td style="border: none; padding: 0">→</td>'.join(cells)
    back = "border: 2px solid; border-top: none; padding: 2px; text-align: center"
    return (
        '<figure style="margin: 0"><table style="border-collapse: separate; border-spacing: 1px 4px">'
        f'<tr style="background: none">{strip}</tr>'
        f'<tr style="background: none"><td colspan="9" style="{back}">↑ again, with the next problems</td></tr></table>'
        f"<figcaption>You are here: {LOOP[step]} ({list(LOOP).index(step) + 1} of {len(LOOP)}).</figcaption></figure>"
    )
