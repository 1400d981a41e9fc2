"""Draw what only one notebook shows: loops, memory, learned rewards, verifiers, exploits, clipping, seeds, rules.

Each function returns a `Picture` for `figures.show`, as the charts of `helpers.figures` do. The module is long because
it has a function for each of these pictures; they share little.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator

from helpers import figures
from helpers.figures import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILLION, YELLOW, Picture
from helpers.runtime import CourseError

LOOPS = {  # kind: colour of its own boxes, title, caption
    "rlhf": (
        ORANGE,
        "RLHF with PPO: a network scores each completion",
        "The reward model was trained before, on people's comparisons. PPO needs three more models besides the policy.",
    ),
    "rlvr": (
        BLUE,
        "RLVR with GRPO: a program tests each completion",
        "The tests go to the verifier and never to the policy. No second model is needed.",
    ),
}
BOXES = {  # name: x and y of the centre, text in the loop of RLHF and of RLVR (None: this loop has no such box)
    "prompt": (1.3, 5.2, "prompt", "prompt"),
    "policy": (1.3, 2.9, "policy\n(trained)", "policy\n(trained)"),
    "completions": (3.7, 4.9, "completions", "completions"),
    "judge": (6.3, 4.9, "reward model\n(frozen)", "verifier\n(a program)"),
    "source": (9.0, 4.9, "people's\ncomparisons", "tests"),
    "advantages": (8.4, 2.9, "advantages\nof the tokens", "advantages\nin the group"),
    "value": (8.4, 0.8, "value model\n(trained)", None),
    "update": (4.9, 0.8, "loss and step", "loss and step"),
    "reference": (1.3, 0.8, "reference\n(frozen)", None),
}
CIRCLE = ("policy", "completions", "judge", "advantages", "update")
INPUTS = (("prompt", "policy"), ("source", "judge"), ("value", "advantages"), ("reference", "update"))


def loop(kind: str) -> Picture:
    """Draw the training loop of "rlhf" (InstructGPT's, with PPO) or "rlvr" (with GRPO).

    Both have the same layout, and only the boxes that differ are coloured. A frozen model has a dashed edge. Raises
    CourseError for another name.
    """
    if kind not in LOOPS:
        raise CourseError(f"There is no loop {kind!r}. The loops are: {', '.join(LOOPS)}.")
    colour, title, caption = LOOPS[kind]
    fig = Picture(4.2)
    axis = fig.subplots()
    patches, words = {}, {}
    for name, (x, y, *texts) in BOXES.items():
        if text := texts[list(LOOPS).index(kind)]:
            look: dict[str, Any] = {"facecolor": "white", "edgecolor": BLACK, "linewidth": 1.2}
            if texts[0] != texts[1]:
                look = {"facecolor": to_rgba(colour, 0.3), "edgecolor": colour, "linewidth": 2}
            edge = "--" if "frozen" in text else "-"
            box = FancyBboxPatch((x - 0.85, y - 0.4), 1.7, 0.8, boxstyle="round,pad=0.08", linestyle=edge, **look)
            patches[name], words[name] = axis.add_patch(box), text.replace("\n", " ")
            axis.text(x, y, text, ha="center", va="center", fontsize=9.5)
    around = list(zip(CIRCLE, CIRCLE[1:] + CIRCLE[:1], strict=True))
    inputs = [(start, end) for start, end in INPUTS if start in patches]
    for start, end in around + inputs:
        bend, width = (-0.2, 2.2) if (start, end) in around else (0, 1.2)
        arrow = {"arrowstyle": "-|>", "linewidth": width, "connectionstyle": f"arc3,rad={bend}", "color": BLACK}
        between = {"patchA": patches[start], "patchB": patches[end], "shrinkA": 2, "shrinkB": 2}
        axis.annotate("", BOXES[end][:2], BOXES[start][:2], arrowprops=arrow | between)
    axis.text(4.9, 2.9, "again and again", ha="center", va="center", fontsize=10, style="italic")
    axis.set_title(title, fontsize=11)
    axis.set(xlim=(0.2, 10.1), ylim=(0.2, 5.8))
    axis.set_axis_off()
    sources = "; ".join(f"{words[start]} to {words[end]}" for start, end in inputs)
    alt = f"Drawing of a loop: {' to '.join(words[name] for name in CIRCLE)} and back to the policy. Inputs: {sources}."
    return fig.describe(alt, caption)


def memory_bars(gigabytes: pd.DataFrame, title: str) -> Picture:
    """Draw stacked bars of memory in GB: a row for each setup, a column for each part. The total is at the end."""
    fig = Picture(4.4)
    axis = fig.subplots()
    colours = (BLUE, SKY_BLUE, ORANGE, VERMILLION, GREEN, PURPLE, YELLOW, BLACK)
    hatches = ("", "//", "", "\\\\", "", "xx", "..", "")
    left = pd.Series(0.0, gigabytes.index)
    for (part, sizes), colour, hatch in zip(gigabytes.items(), colours, hatches, strict=False):
        bars = axis.barh(left.index, sizes, 0.62, left=left, color=colour, hatch=hatch, edgecolor="white", label=part)
        left += sizes
    axis.bar_label(bars, [f"{total:.1f}" for total in left], padding=3, fontsize=9)
    figures.label_axis(axis, "GB (10⁹ bytes)", "", title, xlim=(0, 1.1 * left.max()))
    axis.invert_yaxis()
    axis.grid(False)
    where = {"loc": "upper center", "bbox_to_anchor": (0.35, -0.16)}
    axis.legend(frameon=False, fontsize=9, ncols=4, handlelength=3, handleheight=1.2, **where)
    totals = "; ".join(f"{name} {total:.1f}" for name, total in left.items())
    return fig.describe(f"Stacked bar chart. {title}.", f"GB in all: {totals}.", gigabytes.round(1))


def pass_at_k_curves(frames: Mapping[str, pd.DataFrame]) -> Picture:
    """Draw pass@k over k; `frames` is label -> `Evaluation.pass_at_k_curve()`."""
    title, ylabel = "pass@k on held-out problems, with 95% intervals", "problems solved by at least\none of k samples"
    return figures.curves(frames, "k", "pass@k", "k, samples per problem", ylabel, title)


def reward_curves(frames: Mapping[str, pd.DataFrame]) -> Picture:
    """Draw the mean reward over steps; `frames` is label -> frame of step, reward, and low and high of the seeds."""
    title = "Reward during training, with the range of the seeds"
    return figures.curves(frames, "step", "reward", "training step", "mean reward", title)


def choice_curves(frames: Mapping[str, pd.DataFrame]) -> Picture:
    """Draw how often the chosen completion passes, over n; `frames` is chooser -> frame of n, truth, low, high."""
    title, ylabel = "The best of n completions, with 95% intervals", "problems whose chosen\ncompletion passes"
    fig = figures.curves(frames, "n", "truth", "n, completions to choose from (logarithmic)", ylabel, title)
    [axis] = fig.axes
    _tick_log_axis(axis, sorted({n for frame in frames.values() for n in frame["n"]}))
    _legend_at_the_right(axis)
    return fig


def score_and_truth(frames: Mapping[str, pd.DataFrame]) -> Picture:
    """Draw two panels over the training steps: how many held-out completions pass, and their mean learned score.

    `frames` is run -> frame of seed, step, truth and score. A line is the mean of the seeds, and a band their range.
    """
    names = {"truth": "Passes the tests", "score": "Learned score"}
    panels = {
        title: pd.DataFrame({run: frame.groupby("step")[column].mean() for run, frame in frames.items()})
        for column, title in names.items()
    }
    panels = {title: lines.rename_axis("training step") for title, lines in panels.items()}
    fig = figures.line_panels(panels, "mean of the held-out completions", sharey=False)
    for axis, column in zip(fig.axes, names, strict=True):
        for frame, (colour, *_) in zip(frames.values(), figures.STYLES, strict=False):
            of_step = frame.groupby("step")[column]
            figures.draw_band(axis, pd.DataFrame({"low": of_step.min(), "high": of_step.max()}), colour)
    fig.axes[0].set_ylim(0, 1.04)
    fig.axes[0].yaxis.set_major_formatter("{x:.0%}")
    truth, score = panels.values()
    ends = (
        f"{run}: from {truth[run].iloc[0]:.0%} to {truth[run].iloc[-1]:.0%} that pass, and from "
        f"{score[run].iloc[0]:+.2f} to {score[run].iloc[-1]:+.2f} in score"
        for run in frames
    )
    return fig.describe(
        "Line charts over the training steps: the fraction of held-out completions that pass, and their mean score.",
        f"{'; '.join(ends)}. A band is the range of the seeds.",
        pd.concat(panels, axis=1),
    )


VERIFIERS = {  # name: the idea, what the verifier looks at
    "v0": ("a test file for pytest", "pytest's exit code"),
    "v1": ("one program", "its exit code"),
    "v2": ("one program", "a secret word at its end"),
    "v3": ("two programs", "values that the judge compares"),
}


def verifier_ladder(found: Mapping[str, str]) -> Picture:
    """Draw the four verifiers of notebook 02 next to each other: what shares a process, and what decides.

    `found` is name -> what was found out about it; a verifier that is not in it stays pale. Raises CourseError for
    another name.
    """
    if unknown := set(found) - set(VERIFIERS):
        raise CourseError(f"There is no verifier {unknown.pop()!r}. They are: {', '.join(VERIFIERS)}.")
    fig = Picture(3.1)
    for axis, (name, (idea, decides)) in zip(fig.subplots(1, len(VERIFIERS)), VERIFIERS.items(), strict=True):
        strength = 1.0 if name in found else 0.35
        ink: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "alpha": strength}
        heights = {"tests": 0.8, "program": 0.46}
        apart = name == "v3"
        groups = [[part] for part in heights] if apart else [list(heights)]
        for group in groups:
            top, bottom = heights[group[0]] + 0.09, heights[group[-1]] - 0.09
            look: dict[str, Any] = {
                "edgecolor": to_rgba(BLACK, strength),
                "facecolor": to_rgba(BLUE if apart else ORANGE, 0.3 * strength),
            }
            shape = FancyBboxPatch((0.1, bottom), 0.8, top - bottom, boxstyle="round,pad=0.03", linewidth=1.2, **look)
            axis.add_patch(shape)
        for part, height in heights.items():
            axis.text(0.5, height, part, **ink)
        if apart:
            for x, style, word, side in ((0.46, "-|>", "arguments", "right"), (0.54, "<|-", "a value", "left")):
                arrow = {"arrowstyle": style, "color": to_rgba(BLACK, strength), "shrinkA": 0, "shrinkB": 0}
                axis.annotate("", (x, 0.58), (x, 0.68), arrowprops=arrow)
                axis.text(x + (0.04 if side == "left" else -0.04), 0.63, word, **ink | {"ha": side, "fontsize": 8})
        axis.text(0.5, 0.96, f"{name}: {idea}", **ink | {"fontweight": "bold"})
        axis.text(0.5, 0.26, fill(f"decides: {decides}", 22), **ink)
        axis.text(0.5, 0.08, fill(found.get(name, "not built yet"), 24), **ink | {"color": VERMILLION})
        axis.set(xlim=(0, 1), ylim=(-0.02, 1.02))
        axis.set_axis_off()
    known = "; ".join(f"{name}: {fact}" for name, fact in found.items()) or "nothing"
    shared = "In v0, v1 and v2 tests and program share one process (orange). In v3 they are two (blue)."
    return fig.describe(f"Drawing of four verifiers. {shared}", f"{shared} Known so far: {known}.")


def layer_grid(stops: pd.DataFrame) -> Picture:
    """Draw which layer stops which attack when it is the only one: rows are layers, columns attacks, values booleans.

    Layers that stop none of the attacks are left out.
    """
    shown = stops[stops.any(axis=1)]
    fig = Picture(0.36 * len(shown) + 1.3)
    axis = fig.subplots()
    for (y, x), stopped in np.ndenumerate(shown):
        colour = to_rgba(BLUE, 0.75) if stopped else to_rgba(BLACK, 0.04)
        figures.draw_box(axis, x, y, "stops" if stopped else "", facecolor=colour, edgecolor="white")
    figures.label_axis(axis, "", "the only layer that is on", "Which layer alone stops which attack")
    axis.set_xticks(range(shown.shape[1]), [fill(name, 12) for name in shown.columns])
    axis.set_yticks(range(len(shown)), shown.index)
    axis.xaxis.tick_top()
    figures.fit_boxes(axis, shown.shape[1], len(shown))
    found = "; ".join(
        f"{attack}: {', '.join(column.index[column]) or 'none alone'}" for attack, column in stops.items()
    )
    return fig.describe(
        "Grid of the layers of isolation and of the attacks that each of them stops alone.", f"{found}."
    )


def verifier_errors(shares: pd.DataFrame) -> Picture:
    """Draw a grid of the fraction of programs that each verifier accepts, with its errors filled.

    There is a row for each verifier and a column for each kind of program. Programs in the first column are correct,
    all others are wrong. NaN means "not run".
    """
    fig = Picture(0.5 * len(shares) + 1.1)
    axis = fig.subplots()
    errors = shares.fillna(0)
    errors.iloc[:, 0] = 1 - errors.iloc[:, 0]
    for (y, x), error in np.ndenumerate(errors):
        share = shares.iloc[y, x]
        text = "not run" if np.isnan(share) else f"{share:.0%}"
        # The smallest error gets a visible colour too.
        colour = to_rgba(VERMILLION, 0.2 + 0.55 * error if error else 0)
        figures.draw_box(axis, x, y, text, facecolor=colour, hatch="//" if error else "", edgecolor="white")
    figures.label_axis(axis, "", "verifier", "Programs accepted: the first column should be 100%, all others 0%")
    axis.set_xticks(range(shares.shape[1]), [fill(name, 12) for name in shares.columns])
    axis.set_yticks(range(len(shares)), shares.index)
    axis.xaxis.tick_top()
    figures.fit_boxes(axis, shares.shape[1], len(shares))
    counts = "; ".join(f"{name}: {count}" for name, count in (errors > 0).sum(axis=1).items())
    return fig.describe(
        "Grid of the fraction of programs that each verifier accepts, by kind of program.",
        f"Kinds of program on which a verifier errs: {counts}.",
        shares,
    )


def grading_times(seconds: Mapping[str, float], step: float, note: str) -> Picture:
    """Draw dots of the seconds in which each verifier grades one step's programs, and a line at `step` seconds."""
    frame = pd.DataFrame({"seconds": pd.Series(seconds)})
    fig = figures.grouped_bars(frame, "seconds", "Time to grade the programs of one training step", log=True)
    [axis] = fig.axes
    axis.axhline(step, color=VERMILLION, linestyle="--")
    axis.text(-0.45, 1.05 * step, f"{note}, {step:.2g} s", va="bottom", color=VERMILLION, fontsize=9)
    times = "; ".join(f"{name}: {time:.2g} s" for name, time in seconds.items())
    return fig.describe(fig.alt, f"{times}; {note}: {step:.2g} s.")


def cheat_shares(frames: Mapping[str, Sequence[float]]) -> Picture:
    """Draw the fraction of exploits over steps on a logarithmic axis; `frames` is label -> fraction at each step."""
    panels = {"Cheats while a policy learns": pd.DataFrame(frames).rename_axis("step")}
    fig = figures.line_panels(panels, "fraction of cheats (logarithmic)")
    [axis] = fig.axes
    axis.set(yscale="log", ylim=(5e-4, 1.5))
    axis.set_yticks([0.001, 0.01, 0.1, 1], ["0.1%", "1%", "10%", "100%"])
    _legend_at_the_right(axis)
    ends = (f"{name} from {100 * shares[0]:.3g}% to {100 * shares[-1]:.3g}%" for name, shares in frames.items())
    return fig.describe("Line chart of the fraction of cheats over steps.", f"Cheats: {'; '.join(ends)}.")


def clip_quadrants(losses: Mapping[int, pd.Series], low: float, high: float) -> Picture:
    """Draw a token's loss over the ratio for advantage +1 and -1, with the clipped parts marked.

    `losses` is advantage -> loss, a series over the ratio.
    """
    panels = {}
    for advantage, loss in losses.items():
        is_clipped = loss.index >= high if advantage > 0 else loss.index <= low
        lines = pd.DataFrame({"not clipped": loss[~is_clipped], "clipped: gradient 0": loss[is_clipped]})
        aim = "more" if advantage > 0 else "less"
        panels[f"advantage {advantage:+d}: make it {aim} likely"] = lines.rename_axis("ratio, new over old")
    fig = figures.line_panels(panels, "loss of the token", sharey=False)
    for axis, (advantage, loss) in zip(fig.axes, losses.items(), strict=True):
        for ratio in (low, 1, high):
            axis.axvline(ratio, color=BLACK, linewidth=1, linestyle="-" if ratio == 1 else ":")
        # The arrow shows where the gradient takes a token that has moved the wrong way: down the slope, towards 1.
        away = loss.index < low if advantage > 0 else loss.index > high
        start, end = sorted((loss.index[away][0], loss.index[away][-1]), key=lambda ratio: -loss[ratio])
        lift = 0.12 * (loss.max() - loss.min())
        arrow = {"arrowstyle": "-|>", "linewidth": 1.8, "color": VERMILLION}
        axis.annotate("", (end, loss[end] - lift), (start, loss[start] - lift), arrowprops=arrow)
        place: dict[str, Any] = {"x": 0.03, "ha": "left"} if advantage > 0 else {"x": 0.97, "ha": "right"}
        words = "moved the\nwrong way:\nbrought back"
        axis.text(y=0.1, s=words, color=VERMILLION, fontsize=8.5, transform=axis.transAxes, **place)
    return fig.describe(
        "Two line charts of a token's loss over the ratio, for advantage +1 and advantage -1.",
        f"With advantage +1 the loss falls up to {high:g} and is flat above. With advantage -1 it is flat below "
        f"{low:g} and rises from there. Where it is flat, the gradient is 0.",
    )


def group_pushes(
    completions: Sequence[Sequence[str]], advantages: Sequence[float], sums: Mapping[str, Sequence[float]]
) -> Picture:
    """Draw the tokens of a group, coloured by their completion's advantage, and below them the pushes added up.

    All completions have the same number of tokens. `sums` is token -> the sum of the pushes at each place, for the
    tokens that tell the completions apart.
    """
    places = range(len(completions[0]))
    scale = max(map(abs, advantages)) or 1.0
    fig = Picture(0.22 * len(completions) + 2.9)
    top, bottom = fig.subplots(2, 1, height_ratios=[len(completions), 4])
    columns = [{_visible(tokens[x]) for tokens in completions} for x in places]
    for y, (tokens, advantage) in enumerate(zip(completions, advantages, strict=True)):
        colour = to_rgba(VERMILLION if advantage < 0 else BLUE, 0.5 * abs(advantage) / scale)
        for x in places:
            # A token that all share is the head of its column. The others stand in their boxes, with a frame.
            alone = len(columns[x]) > 1
            edge = {"edgecolor": BLACK, "linewidth": 1.5} if alone else {"edgecolor": "white"}
            top.add_patch(Rectangle((x - 0.48, y - 0.44), 0.96, 0.88, facecolor=colour, **edge))
            if alone:
                top.text(x, y, _visible(tokens[x]), ha="center", va="center", fontsize=8, family="monospace")
    figures.fit_boxes(top, len(places), len(completions))
    top.set_yticks(range(len(completions)), [f"{advantage:+.3f}" for advantage in advantages])
    figures.label_axis(top, "", "advantage", "A group: each row is a completion, each column a token")
    top.grid(False)
    heads = [min(column) if len(column) == 1 else "" for column in columns]
    top.tick_params(labeltop=True, labelbottom=False)
    top.set_xticks(places, heads, rotation=90, family="monospace")
    for (token, values), shade, hatch in zip(sums.items(), (BLUE, ORANGE), ("", "//"), strict=True):
        bottom.bar(places, values, 0.8, color=shade, hatch=hatch, edgecolor="white", label=f"on {token.strip()}")
    bottom.axhline(0, color=BLACK, linewidth=0.8)
    figures.label_axis(bottom, "place of the token", "push", "The pushes of all completions, added up")
    bottom.set_xlim(-0.5, len(places) - 0.5)
    bottom.set_xticks(places, [str(place + 1) for place in places])
    bottom.legend(frameon=False, fontsize=9, loc="upper left")
    ends = "; ".join(
        f"{token.strip()}: {max(values, key=abs):+.4f} at place {1 + max(places, key=lambda x: abs(values[x]))}"
        for token, values in sums.items()
    )
    return fig.describe(
        f"Grid of the tokens of {len(completions)} completions, coloured by advantage (blue is positive, orange is "
        "negative), and bars of the summed pushes at each place.",
        "All tokens of a completion share its advantage. The pushes add up to 0 except where the framed tokens differ. "
        f"Largest sums: {ends}.",
        pd.DataFrame({f"sum of the pushes on {token.strip()}": values for token, values in sums.items()}),
    )


def _visible(token: str) -> str:
    """Return a token as text without its outer spaces; a token of nothing else is shown as "␣"."""
    return "end" if token == "<|endoftext|>" else token.strip(" ").replace("\n", "↵") or "␣"


def seed_dots(panels: Mapping[str, pd.DataFrame], title: str) -> Picture:
    """Draw panels side by side (name -> frame) with a row for each run: a dot for each seed, and a line at the mean.

    The index of a frame is (run, seed), and all panels have the same runs. Columns of the same name look the same.
    """
    runs = list(next(iter(panels.values())).index.unique(0))
    names = list(dict.fromkeys(name for frame in panels.values() for name in frame))
    looks = dict(zip(names, ((BLUE, "o"), (VERMILLION, "x"), (GREEN, "^")), strict=False))
    fig = Picture(0.3 * len(runs) + 1.6)
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False).flatten()
    found = []
    for axis, (panel, frame) in zip(axes, panels.items(), strict=True):
        means = frame.groupby(level=0).mean()
        for name, values in frame.items():
            colour, marker = looks[name]
            for y, run in enumerate(runs):
                axis.plot(values.loc[run], [y] * len(values.loc[run]), marker, color=colour, alpha=0.6)
                axis.plot([means.loc[run, name]] * 2, [y - 0.35, y + 0.35], color=colour, linewidth=2)
            known = means[name].dropna()
            found.append(f"{name}: " + ", ".join(f"{run} {known[run]:.1f}" for run in runs if run in known))
        figures.label_axis(axis, "", "", panel, ylim=(len(runs) - 0.5, -0.5))
        axis.grid(axis="x", alpha=0.25)
        axis.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
        axis.title.set_fontsize(11 if len(panels) < 3 else 9)
    if len(names) > 1:
        handles = [Line2D([], [], color=looks[name][0], marker=looks[name][1], linestyle="") for name in names]
        fig.legend(handles, names, frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    axes[0].set_yticks(range(len(runs)), runs)
    fig.suptitle(title, fontsize=11)
    return fig.describe(
        f"Dot chart. {title}: a dot for each seed of each run.",
        f"Dots are seeds, lines their means. {'; '.join(found)}.",
        pd.concat({panel: frame.unstack() for panel, frame in panels.items()}, axis=1).loc[runs],
    )


def findings_grid(counts: pd.DataFrame, seeds: int, expected: Mapping[str, str]) -> Picture:
    """Draw a grid of how many seeds of each run (row) a rule (column) fires in.

    `expected` is run -> the rule that should fire in it. Those cells have a frame.
    """
    fig = Picture(0.3 * len(counts) + 2.2)
    axis = fig.subplots()
    for (y, x), count in np.ndenumerate(counts):
        wanted = expected.get(counts.index[y]) == counts.columns[x]
        look: dict[str, Any] = {"edgecolor": BLACK, "linewidth": 1.5} if wanted else {"edgecolor": "white"}
        colour = to_rgba(BLUE if wanted else VERMILLION, 0.6 * count / seeds)
        figures.draw_box(axis, x, y, str(count or ""), facecolor=colour, **look)
    figures.label_axis(axis, "", "", f"Rules that fire, in how many of {seeds} seeds")
    axis.set_xticks(range(counts.shape[1]), counts.columns, rotation=40, ha="left", rotation_mode="anchor")
    axis.set_yticks(range(len(counts)), counts.index)
    axis.xaxis.tick_top()
    figures.fit_boxes(axis, counts.shape[1], len(counts))
    found = "; ".join(
        f"{run}: " + (", ".join(f"{rule} ({row[rule]})" for rule in counts if row[rule]) or "nothing")
        for run, row in counts.iterrows()
    )
    return fig.describe(
        f"Grid of the number of seeds, out of {seeds}, in which each rule fires in each run.",
        f"{found}. A frame marks the rule that a run should set off.",
        counts,
    )


def _tick_log_axis(axis: Any, values: Any) -> None:
    """Make the x axis logarithmic, with a tick at each of the values and nowhere else."""
    axis.set_xscale("log")
    axis.set_xticks(values, [f"{value:,}" for value in values])
    axis.minorticks_off()


def _legend_at_the_right(axis: Any) -> None:
    """Move the legend out of a panel with many lines."""
    axis.legend(frameon=False, fontsize=9, handlelength=3, loc="center left", bbox_to_anchor=(1.01, 0.5))
