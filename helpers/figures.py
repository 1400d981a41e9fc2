"""Show figures and tables with their words, and draw the charts that several notebooks use.

Every chart is a `Picture`: a matplotlib figure with a caption and alternative text. `show` displays it. The colours can
be told apart by colour-blind readers, and each has a second cue: a marker, a dash, a hatch or a label. What only one
notebook draws is in `helpers.drawings`. The module is long because it holds many short charts and nothing else.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import DisplayHandle, display
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from helpers.runtime import CourseError

# Okabe and Ito, "Color Universal Design" (2008).
BLACK, ORANGE, SKY_BLUE, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, YELLOW = "#0072B2", "#D55E00", "#CC79A7", "#F0E442"
STYLES = ((ORANGE, "o", "--"), (BLUE, "s", "-"), (GREEN, "^", ":"), (PURPLE, "D", "-."))  # colour, marker, dash
ON_WHITE = {"facecolor": "white", "linewidth": 0, "pad": 1}  # keeps a number readable on a coloured ground

INCHES, PIXELS, DPI = 7, 700, 200  # width of a figure as drawn and as shown, and its resolution

PANELS = {  # column of the history: title, axis label, colour, whether it is a fraction
    "reward": ("Reward", "mean of the step", BLUE, True),
    "frac_reward_zero_std": ("Groups without signal", "fraction of groups", VERMILLION, True),
    "entropy": ("Entropy", "nats per token", GREEN, False),
    "completion_length": ("Completion length", "tokens", PURPLE, False),
    "clipped_ratio": ("Truncated completions", "fraction", ORANGE, True),
}

LOOP = {  # short name: text in the box
    "problem": "problem",
    "completions": "group of completions",
    "reward": "verifier",
    "advantages": "advantages",
    "step": "loss and step",
    "evaluation": "held-out measurement",
}


class Picture(Figure):
    """A figure 7 inches wide, with the words that go with it: alternative text, caption and a table of its values.

    pyplot does not know these figures, so Jupyter never shows one a second time and none has to be closed.
    """

    def __init__(self, height: float) -> None:
        super().__init__(figsize=(INCHES, height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
        self.alt, self.caption = "", ""
        self.values: pd.DataFrame | None = None

    def describe(self, alt: str, caption: str, values: pd.DataFrame | None = None) -> "Picture":
        """Set the words. `alt` says what is drawn, `caption` what to see in it. Returns the picture itself."""
        self.alt, self.caption, self.values = alt, caption, values
        return self

    def png(self) -> bytes:
        """Return the picture as a PNG file, 1,400 pixels wide."""
        drawn, small = BytesIO(), BytesIO()
        self.savefig(drawn, format="png", dpi=DPI)
        # A chart needs few colours. A palette of 64 makes the file a third as large, and outputs are committed.
        # MAXCOVERAGE keeps rare colours; Pillow's default would paint a single blue line green.
        reduced = Image.open(drawn).convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        reduced.save(small, "PNG", optimize=True)
        return small.getvalue()

    def bundle(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the picture by MIME type, as Jupyter displays it, and the metadata of its types.

        JupyterLab, VS Code and nbconvert show the first type they know, and for all of them that is text/html. It
        alone carries a caption and an `alt` that screen readers and HTML exports find. GitHub converts notebooks with
        nbconvert and shows PNG outputs as data URIs too, so they pass its filter. PDF exports have no HTML: they, and
        whoever wants the file, take image/png.
        """
        image = b64encode(self.png()).decode()
        width, height = PIXELS, round(PIXELS * self.get_figheight() / INCHES)
        below = "" if self.values is None else _details(self.values)
        html = (
            f'<figure style="margin: 0"><img src="data:image/png;base64,{image}" alt="{escape(self.alt)}" '
            f'width="{width}" height="{height}" style="max-width: 100%; height: auto">'
            f"<figcaption>{escape(self.caption)}{below}</figcaption></figure>"
        )
        data = {"text/html": html, "image/png": image, "text/plain": f"{self.alt}\n{self.caption}"}
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


def in_notebook() -> bool:
    """Return whether this runs in a Jupyter kernel, which can show pictures."""
    shell = get_ipython()
    return shell is not None and shell.has_trait("kernel")


def show(fig: Picture) -> None:
    """Show a figure and its caption. Outside a notebook, print its words."""
    picture = LivePicture()
    picture.draw(fig)
    picture.finish()


class LivePicture:
    """A picture in a cell's output that can be drawn again in place."""

    def __init__(self) -> None:
        self.fig: Picture | None = None
        self.handle: DisplayHandle | None = None

    def draw(self, fig: Picture) -> None:
        """Show `fig` in place of the picture before it. Raises ValueError if it has no alternative text."""
        if not fig.alt or not fig.caption:
            raise ValueError("A figure needs alternative text and a caption: call its describe(alt, caption).")
        self.fig = fig
        if in_notebook():
            data, metadata = fig.bundle()
            # JupyterLab swaps an image's source in place. It would build HTML anew each time, which can flicker.
            del data["text/html"]
            self._put(data, metadata)

    def finish(self) -> None:
        """Show the last picture as `show` does, with its caption. Does nothing if there is none."""
        if self.fig is None:
            return
        if in_notebook():
            self._put(*self.fig.bundle())
        else:
            print(f"{self.fig.alt}\n{self.fig.caption}")

    def _put(self, data: dict[str, str], metadata: dict[str, Any]) -> None:
        if self.handle is None:
            self.handle = display(data, metadata=metadata, raw=True, display_id=True)
        else:
            self.handle.update(data, metadata=metadata, raw=True)


def table(frame: pd.DataFrame, digits: int = 3) -> None:
    """Show a table: text on the left and whole, numbers on the right and rounded to `digits` decimals.

    Hand over the frame as it is, without rounding it: a column of whole numbers has no decimals, and in a column that
    reaches 10 the whole numbers have none either, so counts stay counts. Numbers that `digits` decimals would turn into
    0 get `digits` significant digits. A named index, or one of names, becomes a column; a mere row number is left out.

    >>> table(pd.DataFrame({"solved": [93.0, 188], "pass@1": [0.4559, 0.9216]}, index=["before", "after"]))
            solved  pass@1
    before      93   0.456
    after      188   0.922
    """
    if in_notebook():
        display({"text/html": _table_html(frame, digits), "text/plain": _table_text(frame, digits)}, raw=True)
    else:
        print(_table_text(frame, digits))


def roadmap(step: str) -> None:
    """Show the six boxes of the loop with the box of this step filled: one of `LOOP`, or "verifier" for "reward".

    Raises CourseError for another name.

    >>> roadmap("reward")
    problem → group of completions → [verifier] → advantages → loss and step → held-out measurement
    """
    step = {"verifier": "reward"}.get(step, step)
    if step not in LOOP:
        raise CourseError(f"{step!r} is not a step of the loop. The steps are: {', '.join(LOOP)}.")
    text = " → ".join(f"[{label}]" if name == step else label for name, label in LOOP.items())
    if in_notebook():
        display({"text/html": _roadmap_html(step), "text/plain": text}, raw=True)
    else:
        print(text)


def learning_curves(
    history: pd.DataFrame,
    *,
    max_steps: int | None = None,
    seconds_left: float | None = None,
    extra: Sequence[str] = (),
) -> Picture:
    """Draw what a run logged, a panel each: the columns in PANELS that `history` has, and those named in `extra`.

    `history` is a `history_frame`. A thick line is the mean of the last five steps, a thin one the step itself. The
    axes run to `max_steps` from the start, and the title says how far the run is.
    """
    shown = {column: look for column, look in PANELS.items() if column in history}
    for column in extra:
        is_fraction = bool(history[column].between(0, 1).all())
        shown[column] = (column.replace("_", " ").capitalize(), "mean of the step", BLACK, is_fraction)
    rows = -(-len(shown) // 3)
    fig = Picture(2.1 * rows + (0.3 if max_steps else 0))
    axes = list(fig.subplots(rows, 3, squeeze=False).flat)
    smooth = history.rolling(5, min_periods=1).mean()
    for axis, (column, (title, unit, colour, is_fraction)) in zip(axes, shown.items(), strict=False):
        dot = "." if len(history) == 1 else ""  # a line through one point cannot be seen
        axis.plot(history["step"], history[column], color=colour, alpha=0.4, linewidth=1)
        axis.plot(history["step"], smooth[column], color=colour, linewidth=2, marker=dot)
        label_axis(axis, "training step", unit, title)
        axis.set_ylim(0, 1.04 if is_fraction else max(1.08 * history[column].max(), 0.01))
        axis.set_xlim(0, max_steps or max(5, history["step"].max()))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    if len(axes) > len(shown):
        words = "thin line: one step\nthick line: mean of\nthe last five steps"
        axes[-1].text(0.5, 0.5, words, ha="center", va="center", fontsize=9, transform=axes[-1].transAxes)
    if max_steps:
        left = f", about {duration(seconds_left)} left" if seconds_left else ""
        fig.suptitle(f"step {history['step'].iloc[-1]} of {max_steps}{left}", fontsize=11)
    titles = pd.Index([title for title, *_ in shown.values()], name="mean of the steps")
    first, last = history[list(shown)].head(5).mean(), history[list(shown)].tail(5).mean()
    return fig.describe(
        f"Line charts over the training steps: {', '.join(titles).lower()}.",
        f"Learning curves over {len(history)} steps: the mean reward goes from {first['reward']:.2f} in the first five "
        f"steps to {last['reward']:.2f} in the last five.",
        pd.DataFrame({"first five": first.to_numpy(), "last five": last.to_numpy()}, index=titles),
    )


def before_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> Picture:
    """Draw bars of the held-out scores before and after training, with 95% intervals.

    Both arguments are an `Evaluation.summary()`.
    """
    names = list(before["interval"])
    fig = Picture(3.8)
    axis = fig.subplots()
    for side, (scores, colour, hatch, label) in enumerate(
        ((before, ORANGE, "//", "before"), (after, BLUE, "", "after"))
    ):
        for position, name in enumerate(names):
            low, high = scores["interval"][name]
            x = position + 0.38 * (side - 0.5)
            axis.bar(x, scores[name], 0.36, color=colour, hatch=hatch, edgecolor="white", zorder=2)
            axis.plot([x, x], [low, high], color=BLACK, linewidth=1.4, zorder=3)
            axis.text(x, high + 0.02, f"{label}\n{percent(scores[name])}", ha="center", va="bottom", fontsize=9)
    title = f"Before and after training, {before['problems']} held-out problems, 95% intervals"
    label_axis(axis, "", "held-out problems solved", title)
    axis.set_xticks(range(len(names)), [{"greedy": "greedy decoding"}.get(name, name) for name in names])
    axis.set_ylim(0, 1.22)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    changes = (f"{name} {percent(before[name])} to {percent(after[name])}" for name in names)
    values = pd.DataFrame({"before": pd.Series(before), "after": pd.Series(after)}).loc[names]
    return fig.describe(f"Bar chart. {title}.", f"Held-out problems solved: {'; '.join(changes)}.", values)


def curves(frames: Mapping[str, pd.DataFrame], x: str, y: str, *, xlabel: str, ylabel: str, title: str) -> Picture:
    """Draw a curve of fractions for each frame (label -> frame): column `y` over column `x`.

    A band goes from the column `low` to the column `high`; say in the title what it is.
    """
    fig = Picture(3.8)
    axis = fig.subplots()
    for (label, frame), (colour, marker, dash) in zip(frames.items(), STYLES, strict=False):
        axis.fill_between(frame[x], frame["low"], frame["high"], color=colour, alpha=0.18, linewidth=0)
        axis.plot(frame[x], frame[y], color=colour, marker=marker, linestyle=dash, label=label)
    label_axis(axis, xlabel, ylabel, title)
    axis.legend(frameon=False, handlelength=3)
    axis.set_ylim(0, 1.04)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    ends = (
        f"{label} from {percent(frame[y].iloc[0])} at {frame[x].iloc[0]:g} to {percent(frame[y].iloc[-1])} at "
        f"{frame[x].iloc[-1]:g}"
        for label, frame in frames.items()
    )
    values = pd.DataFrame({label: frame.set_index(x)[y] for label, frame in frames.items()})
    return fig.describe(f"Line chart of {y} over {x}. {title}.", f"{y}: {'; '.join(ends)}.", values)


def line_panels(panels: Mapping[str, pd.DataFrame], ylabel: str) -> Picture:
    """Draw panels side by side, title -> frame: a curve per column over the index, whose name is the x label."""
    fig = Picture(3.6)
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, frame) in zip(axes, panels.items(), strict=True):
        for (label, values), (colour, marker, dash) in zip(frame.items(), STYLES, strict=False):
            mark = {"marker": marker, "markevery": max(1, len(frame) // 8)}
            axis.plot(frame.index, values, color=colour, linestyle=dash, label=label, **mark)
        label_axis(axis, frame.index.name, "" if axis is not axes[0] else ylabel, title)
        axis.legend(frameon=False, handlelength=3, fontsize=9)
    together = pd.concat([frame.add_prefix(f"{title}: ") for title, frame in panels.items()], axis=1)
    peaks = (f"{label} peaks at {column.max():.3g}" for label, column in together.items())
    return fig.describe(f"Line chart of {ylabel} over {together.index.name}.", f"{'; '.join(peaks)}.", together)


def grouped_bars(frame: pd.DataFrame, ylabel: str, title: str, *, log: bool = False) -> Picture:
    """Draw a group of bars for each row, a bar for each column, with their values. NaN leaves a gap.

    With `log`, draw dots on a logarithmic axis: the length of a bar means nothing without a zero to start from.
    """
    fig = Picture(3.6)
    axis = fig.subplots()
    width = 0.8 / frame.shape[1]
    looks = ((SKY_BLUE, "", "s"), (ORANGE, "//", "o"), (GREEN, "..", "^"), (PURPLE, "xx", "D"))
    for number, ((label, values), (colour, hatch, marker)) in enumerate(zip(frame.items(), looks, strict=False)):
        places = [x + width * (number + 0.5) - 0.4 for x in range(len(frame))]
        if log:
            axis.plot(places, values, marker, color=colour, markeredgecolor=BLACK, markersize=8, label=label)
        else:
            axis.bar(places, values, 0.92 * width, color=colour, hatch=hatch, edgecolor="white", label=label)
        for place, value in zip(places, values, strict=True):
            if not np.isnan(value):
                side, points = ("top", -3) if value < 0 and not log else ("bottom", 7 if log else 2)
                at = (place, value), (0, points)
                axis.annotate(f"{value:.3g}", *at, textcoords="offset points", ha="center", va=side, fontsize=8.5)
    label_axis(axis, "", f"{ylabel} (logarithmic)" if log else ylabel, title)
    axis.set_xticks(range(len(frame)), frame.index)
    axis.margins(y=0.14)
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
    if frame.shape[1] > 1:
        axis.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    kind = "Dot chart on a logarithmic axis" if log else "Bar chart"
    ranges = "; ".join(f"{name} from {column.min():.3g} to {column.max():.3g}" for name, column in frame.items())
    return fig.describe(f"{kind} for {_list(frame.index)}. {title}.", f"{ylabel}: {ranges}.", frame)


def token_strip(tokens: Sequence[str], rows: Mapping[str, Sequence[float]], scale: float | None = None) -> Picture:
    """Draw a completion's tokens as boxes with a number in each, a strip for each name in `rows`.

    All strips share one colour scale, from -`scale` to `scale`: by default the largest value of any row. Give the same
    `scale` to strips in several figures that are compared.
    """
    per_line, height = 11, len(rows) + 1.4
    lines = -(-len(tokens) // per_line)
    scale = scale or max(abs(value) for values in rows.values() for value in values) or 1.0
    fig = Picture(0.33 * height * lines + 0.55)
    axis = fig.subplots()
    for number, token in enumerate(tokens):
        x, top = number % per_line, height * (number // per_line)
        axis.text(x, top, token, ha="center", va="center", fontsize=9, family="monospace", fontweight="bold")
        for below, values in enumerate(rows.values(), 1):
            value = values[number]
            colour = to_rgba(VERMILLION if value < 0 else BLUE, 0.75 * min(1, abs(value) / scale))
            axis.add_patch(Rectangle((x - 0.48, top + below - 0.46), 0.96, 0.92, facecolor=colour, edgecolor=BLACK))
            axis.text(x, top + below, f"{value:+.2f}", ha="center", va="center", fontsize=8.5, bbox=ON_WHITE)
    ticks = [height * line + below for line in range(lines) for below in range(1, len(rows) + 1)]
    axis.set_title(f"colour: orange is negative, blue is positive, strongest at ±{scale:.2g}", fontsize=9)
    axis.set_yticks(ticks, list(rows) * lines, fontsize=9)
    axis.set_xticks([])
    axis.set_xlim(-0.5, per_line - 0.5)
    axis.set_ylim(height * lines - 0.8, -0.6)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    ranges = "; ".join(f"{name} from {min(values):+.2f} to {max(values):+.2f}" for name, values in rows.items())
    values = pd.DataFrame({"token": tokens, **rows})
    return fig.describe(f"Strips of the {len(tokens)} tokens of a completion: {_list(rows)}.", f"{ranges}.", values)


def percent(fraction: float) -> str:
    """Return a fraction as a whole percentage.

    >>> percent(0.456)
    '46%'
    """
    return f"{100 * fraction:.0f}%"


def label_axis(axis: Axes, xlabel: str, ylabel: str, title: str) -> None:
    """Set a panel's two labels and its title, in the style that all figures share."""
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.set_title(title, fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    axis.tick_params(labelsize=9)


def _list(names: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, names)))


def duration(seconds: float) -> str:
    """Return a time in words, in the largest unit that suits: "40 s", "3 min" or "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _columns(frame: pd.DataFrame, digits: int) -> Iterator[tuple[str, list[str], bool]]:
    """Yield each column's name, its cells as text, and whether they are words, which stand on the left."""
    for name, column in frame.infer_objects().items():
        label = " ".join(map(str, name)) if isinstance(name, tuple) else str(name)
        is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        if is_number:
            yield label, _numbers(column.to_numpy(float), digits), False
        else:
            cells = [f"{value:.{digits}g}" if isinstance(value, float) else str(value) for value in column]
            yield label, ["-" if cell == "nan" else cell for cell in cells], True


def _numbers(values: np.ndarray, digits: int) -> list[str]:
    """Format a column's numbers alike; see `table` for the rules."""
    largest = np.abs(values[np.isfinite(values)]).max(initial=0)
    values = np.where(np.abs(values) < 1e-6 * largest, 0, values) + 0.0  # no rounding errors, and no "-0"
    known = values[np.isfinite(values)]
    if (known == np.round(known)).all():
        forms = [",.0f"] * len(values)
    elif ((known != 0) & (np.abs(known) < 10.0**-digits)).any():
        forms = [f".{digits}g"] * len(values)
    else:
        enough = (d for d in range(digits + 1) if np.allclose(np.round(known, d), np.round(known, digits), atol=1e-12))
        decimals = next(enough)
        forms = [",.0f" if largest >= 10 and value == np.round(value) else f",.{decimals}f" for value in values]
    return ["-" if np.isnan(value) else format(value, form) for value, form in zip(values, forms, strict=True)]


def _with_index(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the frame with its index as columns, and how many they are: none for a mere row number."""
    if isinstance(frame.index, pd.RangeIndex) and frame.index.name is None and frame.index.start == 0:
        return frame, 0
    names = ["" if name is None else name for name in frame.index.names]
    return frame.reset_index(names=names, allow_duplicates=True), len(names)


def _table_html(frame: pd.DataFrame, digits: int = 3) -> str:
    frame, heads = _with_index(frame)
    head, columns = [], []
    for number, (name, cells, words) in enumerate(_columns(frame, digits)):
        # JupyterLab and nbconvert align every cell right, and remove style sheets: so each cell has its own style.
        side = f'style="text-align: {"left" if words or number < heads else "right"}"'
        start, end = ('th scope="row"', "th") if number < heads else ("td", "td")
        head.append(f'<th scope="col" {side}>{escape(name)}</th>')
        columns.append([f"<{start} {side}>{escape(cell)}</{end}>" for cell in cells])
    rows = [head, *zip(*columns, strict=True)]
    top, *body = (f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f"<table><thead>{top}</thead><tbody>{''.join(body)}</tbody></table>"


def _table_text(frame: pd.DataFrame, digits: int = 3) -> str:
    frame, heads = _with_index(frame)
    columns = []
    for number, (name, cells, words) in enumerate(_columns(frame, digits)):
        width = max(map(len, [name, *cells]))
        columns.append([f"{cell:{'<' if words or number < heads else '>'}{width}}" for cell in [name, *cells]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _details(values: pd.DataFrame) -> str:
    return f"<details><summary>Values</summary>{_table_html(values)}</details>"


def _roadmap_html(step: str) -> str:
    """Return a table of one row, which can still be read if styles are filtered out, as on GitHub.

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
