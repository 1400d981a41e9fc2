"""Every figure: Okabe-Ito colours with a second cue beside colour, and alternative text stored and printed.

Each function returns a matplotlib figure whose label is one sentence with the numbers shown; `show` displays both.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import DisplayHandle, Image, display
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
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


def learning_curves(
    history: pd.DataFrame, *, max_steps: int | None = None, seconds_left: float | None = None, extra: Sequence[str] = ()
) -> Figure:
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


def verifier_errors(shares: pd.DataFrame) -> Figure:
    """The share of programs each verifier accepts, errors filled: a row per verifier, a column per kind of program.

    The first column holds right answers, all others wrong ones; NaN is what was not measured.
    """
    fig, axis = plt.subplots(figsize=(7, 0.5 * len(shares) + 1.1), layout="constrained")
    for y, row in enumerate(shares.to_numpy()):
        for x, share in enumerate(row):
            error = 0 if share != share else (1 - share if x == 0 else share)
            fill_in = to_rgba(VERMILLION, 0.2 + 0.55 * error if error else 0)  # one error in a hundred shows too
            box = {"facecolor": fill_in, "hatch": "//" if error else "", "edgecolor": "white"}
            axis.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **box))
            text = "not run" if share != share else _percent(share)
            axis.text(x, y, text, ha="center", va="center", fontsize=9, bbox={"facecolor": "white", "linewidth": 0})
    axis.set_xticks(range(shares.shape[1]), [fill(name, 12) for name in shares.columns])
    axis.set_yticks(range(len(shares)), shares.index)
    axis.set_xlim(-0.5, shares.shape[1] - 0.5)
    axis.set_ylim(len(shares) - 0.5, -0.5)
    axis.set_ylabel("verifier")
    axis.set_title("Share accepted: the first column should be 100 %, all others 0 %", fontsize=11)
    axis.tick_params(length=0, labelsize=9, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)
    rows = (f"{name}: " + ", ".join(_share_in_words(*item) for item in row.items()) for name, row in shares.iterrows())
    fig.set_label(f"Table of what each verifier accepts, errors filled. {'; '.join(rows)}.")
    return fig


def grading_times(seconds: Mapping[str, float], step: float, note: str) -> Figure:
    """Bars of the seconds each verifier takes for one training step's programs, and a line at a whole step's `step`."""
    fig, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axis.barh(list(seconds), list(seconds.values()), 0.6, color=SKY_BLUE, edgecolor=BLUE)
    axis.axvline(step, color=VERMILLION, linestyle="--")
    axis.text(step * 1.06, -0.62, note, color=VERMILLION, fontsize=9, va="bottom")
    for name, time in seconds.items():
        box = {"facecolor": "white", "linewidth": 0, "pad": 1}
        axis.text(time * 1.06, name, f"{time:.2g} s", va="center", fontsize=9, bbox=box)
    axis.set_xscale("log")
    axis.set_xlim(min(seconds.values()) / 3, max(seconds.values()) * 4)
    axis.set_ylim(len(seconds) - 0.5, -1.1)
    axis.set_xlabel("seconds (logarithmic)")
    axis.set_ylabel("verifier")
    axis.set_title("Time to grade the programs of one training step", fontsize=11)
    _plain(axis)
    times = ", ".join(f"{name} {time:.2g} s" for name, time in seconds.items())
    fig.set_label(f"Bars of the time to grade one step's programs, beside {note}, {step:.2g} s: {times}.")
    return fig


def cheat_shares(curves: Mapping[str, Sequence[float]]) -> Figure:
    """The share of cheats over steps, logarithmic; `curves` is label -> share before each step."""
    fig, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for (label, shares), (colour, _, dash) in zip(curves.items(), STYLES, strict=False):
        axis.plot(shares, color=colour, linestyle=dash, linewidth=2, label=label)
    axis.legend(frameon=False, handlelength=3, loc="upper right", bbox_to_anchor=(1, 0.9))
    axis.set_yscale("log")
    axis.set_ylim(5e-4, 1.5)
    axis.set_yticks([0.001, 0.01, 0.1, 1], ["0.1 %", "1 %", "10 %", "100 %"])
    axis.set_xlabel("step")
    axis.set_ylabel("share of cheats (logarithmic)")
    axis.set_title("The share of cheats while a policy learns", fontsize=11)
    _plain(axis)
    ends = (f"{label} from {100 * shares[0]:.3g} % to {100 * shares[-1]:.3g} %" for label, shares in curves.items())
    fig.set_label(f"Curves of the share of cheats over steps: {'; '.join(ends)}.")
    return fig


LANES = ("people", "trained", "frozen", "programs", "to check")
LANE_LOOKS = ((ORANGE, ":"), (BLUE, "-"), (SKY_BLUE, "--"), (GREEN, "-."), (PURPLE, ":"))  # colour, edge


def rlhf_pipeline() -> Figure:
    """InstructGPT's three stages: who works, what is trained, what is frozen, what can be checked (2203.02155)."""
    boxes = {
        "demonstrations": (0, "people", "write\ndemonstrations"),
        "sft": (0, "trained", "SFT model"),
        "check sft": (0, "to check", "read what it writes"),
        "comparisons": (1, "people", "say which of two\ncompletions is better"),
        "reward": (1, "trained", "reward model"),
        "check reward": (1, "to check", "accuracy on\nheld-out comparisons"),
        "policy": (1.77, "trained", "policy"),
        "value": (2.23, "trained", "value\nmodel"),
        "scorer": (1.77, "frozen", "reward\nmodel"),
        "reference": (2.23, "frozen", "reference\n(SFT model)"),
        "people": (2, "people", "compare again,\nto measure"),
        "check policy": (2, "to check", "people's preference\non new prompts"),
    }
    arrows = ("demonstrations sft", "sft comparisons", "comparisons reward", "reward scorer", "scorer policy")
    stages = ("1  Imitate", "2  Learn a reward", "3  PPO: four models")
    fig = _pipeline("RLHF: the reward is learned from people's comparisons", stages, boxes, arrows)
    fig.set_label(
        "Drawing of RLHF in three stages. 1: people write demonstrations, and an SFT model is trained on them. 2: "
        "people compare its completions, and a reward model is trained on that. 3: PPO trains a policy and a value "
        "model; the reward model and a reference are frozen. Four models in memory, and no program checks an answer."
    )
    return fig


def rlvr_pipeline() -> Figure:
    """RLVR with GRPO: the same lanes as `rlhf_pipeline`, and what stands in them now."""
    boxes = {
        "problems": (0, "people", "write problems\nand tests"),
        "check problems": (0, "to check", "do right answers\npass the tests?"),
        "policy": (1, "trained", "policy writes a\ngroup of answers"),
        "verifier": (2, "programs", "verifier runs\nthe tests"),
        "check verifier": (2, "to check", "verdicts on answers\nof known worth"),
        "update": (3, "trained", "policy, updated\nby GRPO"),
        "reference": (3, "frozen", "reference, only\nwith a KL penalty"),
        "check update": (3, "to check", "tests on held-\nout problems"),
    }
    arrows = ("problems policy", "policy verifier", "verifier update", "update policy")
    stages = ("1  Problems", "2  Sample", "3  Verify", "4  Update")
    fig = _pipeline("RLVR: the reward is what a program finds", stages, boxes, arrows)
    fig.set_label(
        "Drawing of RLVR with GRPO in four stages. 1: people write problems and tests. 2: the policy writes a group of "
        "answers to each. 3: a verifier, a program, runs the tests. 4: GRPO updates the policy, and it goes on with "
        "stage 2. One model is trained; a frozen reference is there only with a KL penalty."
    )
    return fig


def memory_bars(gigabytes: pd.DataFrame, title: str) -> Figure:
    """Stacked bars of memory in GB: a row per set-up, a column per part; the total stands behind each bar."""
    fig, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    looks = zip(
        (BLUE, SKY_BLUE, ORANGE, VERMILLION, GREEN, PURPLE, "#F0E442", BLACK),
        ("", "//", "", "\\\\", "", "xx", "..", ""),
        strict=True,
    )
    left = pd.Series(0.0, gigabytes.index)
    for (part, sizes), (colour, hatch) in zip(gigabytes.items(), looks, strict=False):
        axis.barh(gigabytes.index, sizes, 0.62, left=left, color=colour, hatch=hatch, edgecolor="white", label=part)
        left += sizes
    for name, total in left.items():
        axis.text(total + 0.01 * left.max(), name, f"{total:.1f}", va="center", fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.1 * left.max())
    axis.set_xlabel("GB (10⁹ bytes)")
    axis.set_ylabel("set-up")
    axis.set_title(title, fontsize=11)
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.4, -0.16))
    _plain(axis)
    axis.grid(False, axis="y")
    rows = (
        f"{name} {left[name]:.1f} ({', '.join(f'{part} {size:.1f}' for part, size in row.items() if size)})"
        for name, row in gigabytes.iterrows()
    )
    fig.set_label(f"Stacked bars of memory in GB: {'; '.join(rows)}.")
    return fig


def accuracy_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Pairwise accuracy over the number of labels; `curves` is label -> frame of labels, accuracy, low, high."""
    fig, axis = _curves(curves, "labels", "accuracy")
    ticks = sorted({labels for frame in curves.values() for labels in frame["labels"]})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{labels:,}" for labels in ticks])
    axis.minorticks_off()
    axis.axhline(0.5, color=BLACK, linewidth=1, linestyle=":")
    axis.text(ticks[-1], 0.51, "a coin", ha="right", va="bottom", fontsize=9)
    axis.set_ylim(0.3, 1.04)
    axis.set_xlabel("labels: comparisons the reward model is trained on (logarithmic)")
    axis.set_ylabel("share of held-out comparisons\nit decides rightly")
    axis.set_title("A learned reward's accuracy on held-out problems, with 95 % intervals", fontsize=11)
    return fig


def best_of_n_curves(curve: pd.DataFrame) -> Figure:
    """Two panels over n: how often the best of n passes, by reward model and by verifier, and the mean learned score.

    `curve` has the columns n, truth, low, high, verifier, score.
    """
    fig, (truth, score) = plt.subplots(1, 2, figsize=(7, 3.8), layout="constrained", width_ratios=(3, 2))
    learned, exact = STYLES[0], STYLES[1]
    truth.fill_between(curve["n"], curve["low"], curve["high"], color=learned[0], alpha=0.18, linewidth=0)
    panels = (
        (truth, "truth", learned, "best by the learned reward"),
        (truth, "verifier", exact, "best by the verifier"),
        (score, "score", learned, "best by the learned reward"),
    )
    for axis, column, (colour, marker, dash), label in panels:
        axis.plot(curve["n"], curve[column], color=colour, marker=marker, linestyle=dash, label=label)
    for axis in (truth, score):
        axis.set_xscale("log", base=2)
        axis.set_xticks(curve["n"], [str(n) for n in curve["n"]])
        axis.set_xlabel("n, completions to choose from")
        _plain(axis)
    truth.legend(frameon=False, handlelength=3, fontsize=9, loc="lower left")
    truth.set_ylim(0, 1.04)
    truth.set_ylabel("chosen completions that pass")
    truth.set_title("The truth, with 95 % interval", fontsize=11)
    score.set_ylabel("mean score of the chosen")
    score.set_title("The learned score", fontsize=11)
    first, last = curve.iloc[0], curve.iloc[-1]
    best = curve.loc[curve["truth"].idxmax()]
    fig.set_label(
        f"Curves over n from {first['n']:.0f} to {last['n']:.0f}. Chosen by the learned reward, the share that "
        f"passes goes from {_percent(first['truth'])} over {_percent(best['truth'])} at n = {best['n']:.0f} to "
        f"{_percent(last['truth'])}, while its mean score goes from {first['score']:.2f} to {last['score']:.2f}; "
        f"chosen by the verifier, the share goes from {_percent(first['verifier'])} to {_percent(last['verifier'])}."
    )
    return fig


def line_panels(panels: Mapping[str, pd.DataFrame], ylabel: str, *, log: bool = False) -> Figure:
    """Panels side by side, title -> frame: a curve per column over the index, whose name is the x label.

    The sentence names each curve's ends and its highest point.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(7, 3.6), sharey=True, squeeze=False, layout="constrained")
    words = []
    for axis, (title, frame) in zip(axes.flat, panels.items(), strict=True):
        for (label, values), (colour, marker, dash) in zip(frame.items(), STYLES, strict=False):
            mark = {"marker": marker, "markevery": max(1, len(frame) // 8)}
            axis.plot(frame.index, values, color=colour, linestyle=dash, label=label, **mark)
            shown = dict.fromkeys((frame.index[0], values.idxmax(), frame.index[-1]))
            words.append(f"{title}, {label}: " + ", ".join(f"{values[at]:.3g} at {at:.3g}" for at in shown))
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(frame.index.name)
        axis.legend(frameon=False, handlelength=3, fontsize=9)
        _plain(axis)
    axes[0, 0].set_ylabel(ylabel)
    if log:
        axes[0, 0].set_yscale("log")
        axes[0, 0].set_ylabel(f"{ylabel} (logarithmic)")
    fig.set_label(f"Curves of {ylabel}. {'; '.join(words)}.")
    return fig


def grouped_bars(frame: pd.DataFrame, ylabel: str, title: str, *, log: bool = False) -> Figure:
    """Bars with their values above: a group per row, a bar per column; none for NaN."""
    fig, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    width = 0.8 / frame.shape[1]
    looks = zip((SKY_BLUE, ORANGE, GREEN, PURPLE), ("", "//", "..", "xx"), strict=True)
    for number, ((label, values), (colour, hatch)) in enumerate(zip(frame.items(), looks, strict=False)):
        places = [x + width * (number + 0.5) - 0.4 for x in range(len(frame))]
        drawn = axis.bar(places, values, 0.92 * width, color=colour, hatch=hatch, edgecolor="white", label=label)
        axis.bar_label(drawn, ["" if value != value else f"{value:.3g}" for value in values], fontsize=8, padding=1)
    axis.set_xticks(range(len(frame)), frame.index)
    axis.set_ylabel(ylabel)
    axis.set_title(title, fontsize=11)
    axis.margins(y=0.12)
    if log:
        axis.set_yscale("log")
        axis.set_ylabel(f"{ylabel} (logarithmic)")
    if frame.shape[1] > 1:
        axis.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    _plain(axis)
    rows = (
        f"{name}: " + ", ".join(f"{at} {value:.3g}" for at, value in row.dropna().items())
        for name, row in frame.iterrows()
    )
    fig.set_label(f"Bars of {ylabel}. {'; '.join(rows)}.")
    return fig


def token_strip(tokens: Sequence[str], rows: Mapping[str, Sequence[float]]) -> Figure:
    """A completion's tokens as coloured boxes with a number in each, one strip for each name in `rows`."""
    per_line, height = 11, len(rows) + 1.4
    lines = -(-len(tokens) // per_line)
    fig, axis = plt.subplots(figsize=(7, 0.33 * height * lines + 0.3), layout="constrained")
    shades = {name: max(map(abs, values)) or 1 for name, values in rows.items()}
    for number, token in enumerate(tokens):
        x, top = number % per_line, height * (number // per_line)
        axis.text(x, top, token, ha="center", va="center", fontsize=8, family="monospace", fontweight="bold")
        for below, (name, values) in enumerate(rows.items(), 1):
            value = values[number]
            colour = to_rgba(VERMILLION if value < 0 else BLUE, 0.75 * abs(value) / shades[name])
            axis.add_patch(Rectangle((x - 0.48, top + below - 0.46), 0.96, 0.92, facecolor=colour, edgecolor=BLACK))
            box = {"facecolor": "white", "linewidth": 0, "pad": 1}
            axis.text(x, top + below, f"{value:+.2f}", ha="center", va="center", fontsize=8, bbox=box)
    ticks = [height * line + below for line in range(lines) for below in range(1, len(rows) + 1)]
    axis.set_yticks(ticks, list(rows) * lines, fontsize=9)
    axis.set_xticks([])
    axis.set_xlim(-0.5, per_line - 0.5)
    axis.set_ylim(height * lines - 0.8, -0.6)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    fig.set_label(
        f"Strip of the {len(tokens)} tokens of a completion. "
        + "; ".join(f"{name} from {min(values):+.2f} to {max(values):+.2f}" for name, values in rows.items())
        + "."
    )
    return fig


def clip_quadrants(losses: Mapping[int, pd.Series], low: float, high: float) -> Figure:
    """Loss of a token over the ratio, for advantage +1 and -1 (name -> series over the ratio); clipped parts marked."""
    fig, axes = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
    for axis, (advantage, loss) in zip(axes, losses.items(), strict=True):
        flat = loss.index >= high if advantage > 0 else loss.index <= low
        axis.plot(loss.index, loss, color=BLUE, linewidth=2)
        axis.plot(loss.index[flat], loss[flat], color=VERMILLION, linewidth=4, linestyle=(0, (1, 1)))
        axis.axvline(1, color=BLACK, linewidth=1)
        for bound in (low, high):
            axis.axvline(bound, color=BLACK, linewidth=1, linestyle=":")
        edge, end = (high, loss.index[-1]) if advantage > 0 else (low, loss.index[0])
        level, rise = loss[flat].iloc[0], 0.05 * (loss.max() - loss.min())
        box = {"facecolor": "white", "linewidth": 0, "pad": 1}
        below = {"ha": "center", "va": "bottom", "color": VERMILLION, "bbox": box}
        axis.text((edge + end) / 2, level + rise, "clipped:\ngradient 0", **below)
        # In the corner below the slope.
        x, side = (0.03, "left") if advantage > 0 else (0.97, "right")
        aside = {"ha": side, "va": "bottom", "transform": axis.transAxes}
        axis.text(x, 0.12, "never clipped\non the slope", color=BLUE, bbox=box, **aside)
        axis.set_title(f"advantage {advantage:+d}: make it {'more' if advantage > 0 else 'less'} likely", fontsize=11)
        axis.set_xlabel("ratio, new probability over old")
        axis.set_ylabel("loss of the token")
        _plain(axis)
    fig.set_label(
        f"Two curves of a token's loss over the ratio. Advantage +1: it falls until {high:g} and is flat above. "
        f"Advantage -1: it is flat below {low:g} and rises from there. On the flat, clipped parts the gradient is 0."
    )
    return fig


def reward_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Reward over training steps; `curves` is label -> frame of step, reward, low, high (least and largest seed)."""
    fig, axis = _curves(curves, "step", "reward")
    axis.set_xlabel("training step")
    axis.set_ylabel("mean reward")
    axis.set_title("Reward while training, with the range of the seeds", fontsize=11)
    fig.set_label(fig.get_label().replace("95 % intervals", "the range of the seeds"))
    return fig


def _pipeline(
    title: str, stages: Sequence[str], boxes: Mapping[str, tuple[float, str, str]], arrows: Sequence[str]
) -> Figure:
    """Boxes, name -> (column, lane, text), and arrows "from to" between them."""
    fig, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    places = {}
    for name, (column, lane, text) in boxes.items():
        colour, edge = LANE_LOOKS[LANES.index(lane)]
        width, height = (0.42 if column % 1 else 0.84), 0.6
        x, y = column, LANES.index(lane)
        places[name] = x, y, width / 2, height / 2
        corner = (x - width / 2, y - height / 2)
        look = {"facecolor": to_rgba(colour, 0.25), "edgecolor": colour, "linestyle": edge, "linewidth": 1.6}
        axis.add_patch(Rectangle(corner, width, height, **look))
        axis.text(x, y, text, ha="center", va="center", fontsize=8)
    for start, end in (arrow.split() for arrow in arrows):
        (x0, y0, w0, h0), (x1, y1, w1, h1) = places[start], places[end]
        side, down = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        ends = (
            ((x0, y0 + down * h0), (x1, y1 - down * h1)) if x0 == x1 else ((x0 + side * w0, y0), (x1 - side * w1, y1))
        )
        axis.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "linewidth": 1.2})
    axis.set_xticks(range(len(stages)), stages, fontweight="bold")
    axis.set_yticks(range(len(LANES)), LANES)
    axis.set_xlim(-0.5, len(stages) - 0.5)
    axis.set_ylim(len(LANES) - 0.5, -0.5)
    axis.hlines([y + 0.5 for y in range(len(LANES) - 1)], -0.5, len(stages) - 0.5, color=BLACK, alpha=0.15, linewidth=1)
    axis.set_ylabel("what takes part")
    axis.set_title(title, fontsize=11)
    axis.tick_params(length=0, labelsize=9, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)
    return fig


def _share_in_words(kind: str, share: float) -> str:
    return f"{kind} {'not run' if share != share else _percent(share)}"


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
    return Image(data=buffer.getvalue(), format="png", metadata={"alt": alt})  # alt= came after IPython 7
