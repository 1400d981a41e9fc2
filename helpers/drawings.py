"""Draw what one notebook shows once: the two loops, memory, learned rewards, verifiers, exploits, clipping.

Like the charts of `helpers.figures`, each function returns a `Picture` for `figures.show`.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyBboxPatch, Rectangle

from helpers.figures import (
    BLACK,
    BLUE,
    GREEN,
    ON_WHITE,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    STYLES,
    VERMILLION,
    YELLOW,
    Picture,
    curves,
    label_axis,
    percent,
)
from helpers.runtime import CourseError

# The boxes that RLHF and RLVR share, name -> (x, y, text), and those that only one of them has.
SHARED_BOXES = {
    "prompt": (1.3, 5.2, "prompt"),
    "policy": (1.3, 2.9, "policy\n(trained)"),
    "completions": (3.7, 4.9, "completions"),
    "update": (4.9, 0.8, "loss and step"),
}
OWN_BOXES = {
    "rlhf": {
        "judge": (6.3, 4.9, "reward model\n(frozen)"),
        "source": (9.0, 4.9, "people's\ncomparisons"),
        "advantages": (8.4, 2.9, "advantages\nof the tokens"),
        "value": (8.4, 0.8, "value model\n(trained)"),
        "reference": (1.3, 0.8, "reference\n(frozen)"),
    },
    "rlvr": {
        "judge": (6.3, 4.9, "verifier\n(a program)"),
        "source": (9.0, 4.9, "tests"),
        "advantages": (8.4, 2.9, "advantages\nin the group"),
    },
}
CIRCLE = ("policy", "completions", "judge", "advantages", "update")
INPUTS = (("prompt", "policy"), ("source", "judge"), ("value", "advantages"), ("reference", "update"))
LOOP_WORDS = {  # colour of the boxes that differ, title, caption
    "rlhf": (
        ORANGE,
        "RLHF with PPO: a network scores each completion",
        "The reward model was trained before, on people's comparisons. PPO keeps three more models beside the policy.",
    ),
    "rlvr": (
        BLUE,
        "RLVR with GRPO: a program tests each completion",
        "The tests go to the verifier and never to the policy. No second model is needed.",
    ),
}


def loop(kind: str) -> Picture:
    """Draw the training loop of "rlhf" (InstructGPT's, with PPO) or "rlvr" (with GRPO).

    Both have the same layout, and only the boxes that differ are coloured. A frozen model has a dashed edge. Raises
    CourseError for another name.
    """
    if kind not in OWN_BOXES:
        raise CourseError(f"There is no loop {kind!r}. The loops are: {', '.join(OWN_BOXES)}.")
    colour, title, caption = LOOP_WORDS[kind]
    fig = Picture(4.2)
    axis = fig.subplots()
    boxes = SHARED_BOXES | OWN_BOXES[kind]
    patches = {}
    for name, (x, y, text) in boxes.items():
        plain: dict[str, Any] = {"facecolor": "white", "edgecolor": BLACK, "linewidth": 1.2}
        coloured: dict[str, Any] = {"facecolor": to_rgba(colour, 0.3), "edgecolor": colour, "linewidth": 2}
        look = plain if name in SHARED_BOXES else coloured
        edge = "--" if "frozen" in text else "-"
        corner = (x - 0.85, y - 0.4)
        patches[name] = FancyBboxPatch(corner, 1.7, 0.8, boxstyle="round,pad=0.08", linestyle=edge, **look)
        axis.add_patch(patches[name])
        axis.text(x, y, text, ha="center", va="center", fontsize=9.5)
    around = zip(CIRCLE, CIRCLE[1:] + CIRCLE[:1], strict=True)
    inputs = [(start, end) for start, end in INPUTS if start in boxes]
    for arrows, bend, width in ((around, -0.2, 2.2), (inputs, 0, 1.2)):
        for start, end in arrows:
            arrow = {"arrowstyle": "-|>", "linewidth": width, "connectionstyle": f"arc3,rad={bend}", "color": BLACK}
            between = {"patchA": patches[start], "patchB": patches[end], "shrinkA": 2, "shrinkB": 2}
            axis.annotate("", boxes[end][:2], boxes[start][:2], arrowprops=arrow | between)
    axis.text(4.9, 2.9, "again and again", ha="center", va="center", fontsize=10, style="italic")
    axis.set_title(title, fontsize=11)
    axis.set_xlim(0.2, 10.1)
    axis.set_ylim(0.2, 5.8)
    axis.set_axis_off()
    names = {name: text.replace("\n", " ") for name, (*_, text) in boxes.items()}
    sources = "; ".join(f"{names[start]} to {names[end]}" for start, end in inputs)
    alt = f"Drawing of a loop: {' to '.join(names[name] for name in CIRCLE)} and back to the policy. Inputs: {sources}."
    return fig.describe(alt, caption)


def memory_bars(gigabytes: pd.DataFrame, title: str) -> Picture:
    """Draw stacked bars of memory in GB: a row for each setup, a column for each part. The total is at the end."""
    fig = Picture(4.4)
    axis = fig.subplots()
    colours = (BLUE, SKY_BLUE, ORANGE, VERMILLION, GREEN, PURPLE, YELLOW, BLACK)
    hatches = ("", "//", "", "\\\\", "", "xx", "..", "")
    left = pd.Series(0.0, gigabytes.index)
    for (part, sizes), colour, hatch in zip(gigabytes.items(), colours, hatches, strict=False):
        axis.barh(gigabytes.index, sizes, 0.62, left=left, color=colour, hatch=hatch, edgecolor="white", label=part)
        left += sizes
    for name, total in left.items():
        axis.text(total + 0.01 * left.max(), name, f"{total:.1f}", va="center", fontsize=9)
    label_axis(axis, "GB (10⁹ bytes)", "setup", title)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.1 * left.max())
    axis.grid(False)
    size = {"fontsize": 9, "handlelength": 3, "handleheight": 1.2}
    axis.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.35, -0.16), **size)
    totals = "; ".join(f"{name} {total:.1f}" for name, total in left.items())
    values = gigabytes.assign(total=left).round(1)
    return fig.describe(f"Stacked bar chart. {title}.", f"GB in all: {totals}.", values)


def pass_at_k_curves(frames: Mapping[str, pd.DataFrame]) -> Picture:
    """Draw pass@k over k; `frames` is label -> `Evaluation.pass_at_k_curve()`."""
    title, ylabel = "pass@k on held-out problems, with 95% intervals", "problems solved by at least\none of k samples"
    return curves(frames, "k", "pass@k", xlabel="k, samples per problem", ylabel=ylabel, title=title)


def temperature_curves(frames: Mapping[str, pd.DataFrame]) -> Picture:
    """Draw pass@1 over the sampling temperature; `frames` is label -> `temperature_sweep(...)`."""
    title, xlabel = "pass@1 on held-out problems, with 95% intervals", "sampling temperature (0 is greedy decoding)"
    return curves(frames, "temperature", "pass@1", xlabel=xlabel, ylabel="pass@1", title=title)


def reward_curves(frames: Mapping[str, pd.DataFrame]) -> Picture:
    """Draw the mean reward over steps; `frames` is label -> frame of step, reward, and low and high of the seeds."""
    title = "Reward during training, with the range of the seeds"
    return curves(frames, "step", "reward", xlabel="training step", ylabel="mean reward", title=title)


def accuracy_curves(frames: Mapping[str, pd.DataFrame]) -> Picture:
    """Draw a reward model's accuracy over its labels; `frames` is label -> frame of labels, accuracy, low, high."""
    title, ylabel = "Accuracy of a learned reward, with 95% intervals", "held-out comparisons\nit decides correctly"
    xlabel = "comparisons that the reward model is trained on (logarithmic)"
    fig = curves(frames, "labels", "accuracy", xlabel=xlabel, ylabel=ylabel, title=title)
    axis = fig.axes[0]
    ticks = sorted({labels for frame in frames.values() for labels in frame["labels"]})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{labels:,}" for labels in ticks])
    axis.minorticks_off()
    axis.axhline(0.5, color=BLACK, linewidth=1, linestyle=":")
    axis.text(ticks[-1], 0.51, "a coin", ha="right", va="bottom", fontsize=9)
    axis.set_ylim(0.3, 1.04)
    return fig


def best_of_n_curves(curve: pd.DataFrame) -> Picture:
    """Draw two panels over n: how often the best of n passes, by reward model and by verifier, and the mean score.

    `curve` has the columns n, truth, low, high, verifier, score.
    """
    fig = Picture(3.8)
    truth, score = fig.subplots(1, 2, width_ratios=(3, 2))
    learned, exact = STYLES[0], STYLES[1]
    truth.fill_between(curve["n"], curve["low"], curve["high"], color=learned[0], alpha=0.18, linewidth=0)
    panels = (
        (truth, "truth", learned, "best by the learned reward"),
        (truth, "verifier", exact, "best by the verifier"),
        (score, "score", learned, "best by the learned reward"),
    )
    for axis, column, (colour, marker, dash), text in panels:
        axis.plot(curve["n"], curve[column], color=colour, marker=marker, linestyle=dash, label=text)
    label_axis(truth, "n, completions to choose from", "chosen completions that pass", "The truth, with 95% interval")
    label_axis(score, "n, completions to choose from", "mean score of the chosen", "The learned score")
    for axis in (truth, score):
        axis.set_xscale("log", base=2)
        axis.set_xticks(curve["n"], [str(n) for n in curve["n"]])
    truth.legend(frameon=False, handlelength=3, fontsize=9, loc="lower left")
    truth.set_ylim(0, 1.04)
    first, last, best = curve.iloc[0], curve.iloc[-1], curve.loc[curve["truth"].idxmax()]
    return fig.describe(
        "Line charts over n: how many of the chosen completions pass, and their mean learned score.",
        f"Chosen by the learned reward, {percent(first['truth'])} pass at n = {first['n']:.0f}, "
        f"{percent(best['truth'])} at n = {best['n']:.0f} and {percent(last['truth'])} at n = {last['n']:.0f}, while "
        f"the score rises from {first['score']:.2f} to {last['score']:.2f}. Chosen by the verifier, "
        f"{percent(last['verifier'])} pass in the end.",
        curve,
    )


def verifier_errors(shares: pd.DataFrame) -> Picture:
    """Draw a grid of the fraction of programs that each verifier accepts, with its errors filled.

    There is a row for each verifier and a column for each kind of program. Programs in the first column are correct,
    all others are wrong. NaN was not measured.
    """
    fig = Picture(0.5 * len(shares) + 1.1)
    axis = fig.subplots()
    errors = shares.copy()
    errors.iloc[:, 0] = 1 - errors.iloc[:, 0]
    for (y, x), error in np.ndenumerate(errors.fillna(0).to_numpy()):
        filled = to_rgba(VERMILLION, 0.2 + 0.55 * error if error else 0)  # one error in a hundred shows too
        box: dict[str, Any] = {"facecolor": filled, "hatch": "//" if error else "", "edgecolor": "white"}
        axis.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **box))
        share = shares.iloc[y, x]
        text = "not run" if np.isnan(share) else percent(share)
        axis.text(x, y, text, ha="center", va="center", fontsize=9, bbox=ON_WHITE)
    label_axis(axis, "", "verifier", "Programs accepted: the first column should be 100%, all others 0%")
    axis.set_xticks(range(shares.shape[1]), [fill(name, 12) for name in shares.columns])
    axis.set_yticks(range(len(shares)), shares.index)
    axis.set_xlim(-0.5, shares.shape[1] - 0.5)
    axis.set_ylim(len(shares) - 0.5, -0.5)
    axis.grid(False)
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)
    counts = "; ".join(f"{name}: {count}" for name, count in (errors > 0).sum(axis=1).items())
    return fig.describe(
        "Grid of the fraction of programs that each verifier accepts, by kind of program.",
        f"Kinds of program on which a verifier errs: {counts}.",
        shares,
    )


def grading_times(seconds: Mapping[str, float], step: float, note: str) -> Picture:
    """Draw dots of the seconds in which each verifier grades one step's programs, and a line at `step` seconds."""
    fig = Picture(3.6)
    axis = fig.subplots()
    axis.plot(list(seconds.values()), list(seconds), "o", color=BLUE, markersize=9)
    axis.axvline(step, color=VERMILLION, linestyle="--")
    axis.text(step * 1.06, -0.62, f"{note}, {step:.2g} s", color=VERMILLION, fontsize=9, va="bottom")
    for name, time in seconds.items():
        axis.annotate(f"{time:.2g} s", (time, name), (9, 0), textcoords="offset points", va="center", bbox=ON_WHITE)
    label_axis(axis, "seconds (logarithmic)", "verifier", "Time to grade the programs of one training step")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlim(min(seconds.values()) / 3, max(seconds.values()) * 4)
    axis.set_ylim(len(seconds) - 0.5, -1.1)
    times = "; ".join(f"{name}: {time:.2g} s" for name, time in seconds.items())
    alt = "Dot chart on a logarithmic axis: time in which each verifier grades the programs of one training step."
    return fig.describe(alt, f"{times}; {note}: {step:.2g} s.")


def cheat_shares(frames: Mapping[str, Sequence[float]]) -> Picture:
    """Draw the fraction of exploits over steps on a logarithmic axis; `frames` is label -> fraction at each step."""
    fig = Picture(3.5)
    axis = fig.subplots()
    for (name, shares), (colour, _, dash) in zip(frames.items(), STYLES, strict=False):
        axis.plot(shares, color=colour, linestyle=dash, linewidth=2, label=name)
    label_axis(axis, "step", "fraction of cheats (logarithmic)", "Cheats while a policy learns")
    axis.legend(frameon=False, handlelength=3, loc="upper right", bbox_to_anchor=(1, 0.9))
    axis.set_yscale("log")
    axis.set_ylim(5e-4, 1.5)
    axis.set_yticks([0.001, 0.01, 0.1, 1], ["0.1%", "1%", "10%", "100%"])
    ends = (f"{name} from {100 * shares[0]:.3g}% to {100 * shares[-1]:.3g}%" for name, shares in frames.items())
    return fig.describe("Line chart of the fraction of cheats over steps.", f"Cheats: {'; '.join(ends)}.")


def clip_quadrants(losses: Mapping[int, pd.Series], low: float, high: float) -> Picture:
    """Draw a token's loss over the ratio for advantage +1 and -1, with the clipped parts marked.

    `losses` is advantage -> loss, a series over the ratio.
    """
    fig = Picture(3.6)
    for axis, (advantage, loss) in zip(fig.subplots(1, 2), losses.items(), strict=True):
        flat = loss.index >= high if advantage > 0 else loss.index <= low
        axis.plot(loss.index, loss, color=BLUE, linewidth=2)
        axis.plot(loss.index[flat], loss[flat], color=VERMILLION, linewidth=4, linestyle=(0, (1, 1)))
        axis.axvline(1, color=BLACK, linewidth=1)
        for bound in (low, high):
            axis.axvline(bound, color=BLACK, linewidth=1, linestyle=":")
        middle, level = loss.index[flat].to_numpy().mean(), loss[flat].iloc[0]
        above = {"ha": "center", "va": "bottom", "textcoords": "offset points", "bbox": ON_WHITE, "color": VERMILLION}
        axis.annotate("clipped:\ngradient 0", (middle, level), (0, 8), **above)
        # The corner below the slope is free in both panels.
        x, side = (0.03, "left") if advantage > 0 else (0.97, "right")
        corner = {"ha": side, "va": "bottom", "transform": axis.transAxes, "bbox": ON_WHITE, "color": BLUE}
        axis.text(x, 0.12, "never clipped\non the slope", **corner)
        aim = "more" if advantage > 0 else "less"
        label_axis(axis, "ratio, new over old", "loss of the token", f"advantage {advantage:+d}: make it {aim} likely")
    return fig.describe(
        "Two line charts of a token's loss over the ratio, for advantage +1 and advantage -1.",
        f"With advantage +1 the loss falls up to {high:g} and is flat above. With advantage -1 it is flat below "
        f"{low:g} and rises from there. Where it is flat, the gradient is 0.",
    )
