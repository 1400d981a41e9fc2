from io import BytesIO

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from nbclient import NotebookClient

from helpers import figures

OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
BEFORE = {
    "greedy": 0.36,
    "pass@1": 0.41,
    "pass@8": 0.93,
    "interval": {"greedy": [0.3, 0.43], "pass@1": [0.37, 0.45], "pass@8": [0.9, 0.96]},
    "problems": 200,
}
AFTER = {
    "greedy": 0.98,
    "pass@1": 0.97,
    "pass@8": 1.0,
    "interval": {"greedy": [0.96, 1.0], "pass@1": [0.95, 0.99], "pass@8": [1.0, 1.0]},
    "problems": 200,
}
SHARES = pd.DataFrame(
    [[0.0, np.nan, 1.0], [1.0, 0.0, 0.95], [1.0, 0.0, 0.0], [1.0, 0.006, 0.0], [1.0, 0.0, 0.0]],
    index=["v0", "v1", "v2", "v3", "hardened"],
    columns=["right answers", "mutants", "cheats"],
)

GIGABYTES = pd.DataFrame(
    {"policy": [8.0, 8.0], "critic": [8.0, 0.0], "reference": [1.0, 0.5]}, index=["PPO-RLHF", "GRPO, verifier, KL"]
)
LABEL_CURVE = pd.DataFrame({"labels": [30, 1000], "accuracy": [0.55, 0.75], "low": [0.5, 0.7], "high": [0.6, 0.8]})
BEST_OF_N = pd.DataFrame(
    {
        "n": [1, 4, 64],
        "truth": [0.42, 0.58, 0.31],
        "low": [0.36, 0.5, 0.25],
        "high": [0.48, 0.64, 0.37],
        "verifier": [0.42, 0.82, 1.0],
        "score": [-0.1, 0.5, 1.25],
    }
)
ARCHES = pd.DataFrame({"two": [0.0, 0.5, 0.0], "four": [0.1, 0.875, 0.2]}, index=pd.Index([0.0, 0.5, 1.0], name="rate"))
WEIGHTS = pd.DataFrame({"short": [0.125, 0.0625], "long": [0.042, 0.0625]}, index=["grpo", "dapo"])
RATIOS = [0.5, 0.8, 1.0, 1.2, 1.5]
QUADRANTS = {
    1: pd.Series([-0.5, -0.8, -1.0, -1.2, -1.2], index=RATIOS),
    -1: pd.Series([0.8, 0.8, 1.0, 1.2, 1.5], index=RATIOS),
}
REWARDS = pd.DataFrame({"step": [1, 2], "reward": [0.5, 0.8], "low": [0.4, 0.7], "high": [0.6, 0.9]})


def history(steps):
    return pd.DataFrame(
        {
            "step": range(1, steps + 1),
            "reward": np.linspace(0.4, 0.9, steps),
            "frac_reward_zero_std": np.linspace(0, 0.6, steps),
            "entropy": np.linspace(0.2, 0, steps),
            "completion_length": np.full(steps, 21.0),
        }
    )


def curve(x, y, values):
    values = np.array(values)
    steps = range(1, len(values) + 1) if x == "k" else np.linspace(0, 1, len(values))
    return pd.DataFrame({x: steps, y: values, "low": values - 0.05, "high": values + 0.05})


def all_figures():
    curves = {"before": [0.4, 0.6, 0.8], "after": [0.9, 0.95, 0.99]}
    return {
        "learning": figures.learning_curves(history(20)),
        "before_after": figures.before_after(BEFORE, AFTER),
        "pass_at_k": figures.pass_at_k_curves({name: curve("k", "pass@k", v) for name, v in curves.items()}),
        "temperature": figures.temperature_curves(
            {name: curve("temperature", "pass@1", v) for name, v in curves.items()}
        ),
        "verifier_errors": figures.verifier_errors(SHARES),
        "grading_times": figures.grading_times({"v0": 64.0, "v1": 2.5, "hardened": 0.2}, 0.9, "one step"),
        "cheat_shares": figures.cheat_shares({"a": [0.02, 0.4, 0.9], "b": [0.02, 0.01, 0.0]}),
        "rlhf_pipeline": figures.rlhf_pipeline(),
        "rlvr_pipeline": figures.rlvr_pipeline(),
        "memory": figures.memory_bars(GIGABYTES, "Memory"),
        "accuracy": figures.accuracy_curves({"a": LABEL_CURVE, "b": LABEL_CURVE}),
        "best_of_n": figures.best_of_n_curves(BEST_OF_N),
        "panels": figures.line_panels({"Signal": ARCHES}, "share of the groups"),
        "bars": figures.grouped_bars(WEIGHTS, "weight", "Weights"),
        "quadrants": figures.clip_quadrants(QUADRANTS, low=0.8, high=1.2),
        "rewards": figures.reward_curves({name: REWARDS for name in ("by hand", "library")}),
    }


@pytest.fixture
def drawn():
    yield all_figures()
    plt.close("all")


def test_every_panel_has_a_title_or_two_named_axes_and_a_sentence(drawn):
    for name, fig in drawn.items():
        assert fig.get_label().endswith("."), name
        for axis in fig.axes:
            assert axis.get_title() and axis.get_ylabel(), name
        assert fig.axes[-1].get_xlabel() or [label.get_text() for label in fig.axes[-1].get_xticklabels()], name


def test_pictures_fit_a_page_at_100_dots_per_inch(drawn):
    for name, fig in drawn.items():
        width, height = fig.get_size_inches()
        assert width == 7 and 3.5 <= height <= 4.5, name
        buffer = BytesIO()
        fig.savefig(buffer, format="png", dpi=100)
        assert len(buffer.getvalue()) < 60_000, name  # outputs are committed


def test_only_okabe_ito_colours_carry_data(drawn):
    for name, fig in drawn.items():
        for axis in fig.axes:
            colours = {to_hex(line.get_color()).upper() for line in axis.lines}
            colours |= {to_hex(patch.get_facecolor()).upper() for patch in axis.patches}
            assert colours and colours <= OKABE_ITO, name


def test_before_and_after_differ_by_more_than_colour(drawn):
    bars = drawn["before_after"].axes[0].patches
    assert [bar.get_hatch() for bar in bars] == ["//"] * 3 + [""] * 3
    for name in ("pass_at_k", "temperature"):
        lines = drawn[name].axes[0].lines
        assert len({line.get_marker() for line in lines}) == len({line.get_linestyle() for line in lines}) == 2
        assert [text.get_text() for text in drawn[name].axes[0].get_legend().get_texts()] == ["before", "after"]


def test_bars_and_intervals_show_the_numbers_given(drawn):
    axis = drawn["before_after"].axes[0]
    assert [bar.get_height() for bar in axis.patches] == [0.36, 0.41, 0.93, 0.98, 0.97, 1.0]
    assert [list(line.get_ydata()) for line in axis.lines] == [
        *BEFORE["interval"].values(),
        *AFTER["interval"].values(),
    ]
    assert (
        "greedy decoding 36 % to 98 %; pass@1 41 % to 97 %; pass@8 93 % to 100 %" in drawn["before_after"].get_label()
    )


def test_a_verifier_s_errors_are_filled_and_its_right_decisions_are_not(drawn):
    boxes = drawn["verifier_errors"].axes[0].patches
    filled = [box.get_facecolor()[3] > 0.1 for box in boxes]
    # v0 refuses right answers, v0 and v1 accept cheats, v3 one mutant; what was not run is no error.
    assert [divmod(at, 3) for at, is_filled in enumerate(filled) if is_filled] == [(0, 0), (0, 2), (1, 2), (3, 1)]
    assert [bool(box.get_hatch()) for box in boxes] == filled
    assert "v1: right answers 100 %, mutants 0 %, cheats 95 %" in drawn["verifier_errors"].get_label()
    assert "v0: right answers 0 %, mutants not run" in drawn["verifier_errors"].get_label()


def test_grading_times_and_cheats_show_the_numbers_given(drawn):
    times, shares = drawn["grading_times"].axes[0], drawn["cheat_shares"].axes[0]
    assert [bar.get_width() for bar in times.patches] == [64.0, 2.5, 0.2]
    assert list(times.lines[0].get_xdata()) == [0.9, 0.9]
    assert [list(line.get_ydata()) for line in shares.lines] == [[0.02, 0.4, 0.9], [0.02, 0.01, 0.0]]
    assert len({line.get_linestyle() for line in shares.lines}) == 2
    assert shares.get_yscale() == "log"  # a rare cheat that dies out and one that does not look alike otherwise
    assert "a from 2 % to 90 %; b from 2 % to 0 %" in drawn["cheat_shares"].get_label()


def test_learning_curves_show_each_step_and_a_mean_of_five(drawn):
    faint, strong = drawn["learning"].axes[0].lines
    rewards = history(20)["reward"]
    assert list(faint.get_ydata()) == list(rewards)
    assert strong.get_ydata()[10] == pytest.approx(rewards[6:11].mean())
    assert "over 20 steps" in drawn["learning"].get_label()
    assert "reward 0.45 to 0.85" in drawn["learning"].get_label()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("steps", [1, 2])
def test_the_first_steps_can_be_drawn(steps):
    fig = figures.learning_curves(history(steps) * [1, 1, 1, 0, 1])  # entropy may be 0
    plt.close(fig)


def test_show_prints_the_sentence_and_closes_the_figure(capsys):
    fig = figures.before_after(BEFORE, AFTER)
    figures.show(fig)
    assert " ".join(capsys.readouterr().out.split()) == fig.get_label()
    assert not plt.fignum_exists(fig.number)
    figures.show(plt.figure(), "What it shows.")
    assert capsys.readouterr().out == "What it shows.\n"


def test_a_figure_without_a_sentence_is_refused():
    with pytest.raises(ValueError, match="alternative text"):
        figures.show(plt.figure())
    assert not plt.get_fignums()


def test_in_a_kernel_there_is_one_picture_with_its_text_however_often_it_is_drawn(root):
    source = """
import matplotlib.pyplot as plt
from helpers import figures
picture = figures.LivePicture()
for text in ("First.", "Second.", "Third."):
    fig, axis = plt.subplots(figsize=(1, 1))
    picture.draw(fig, text)
picture.finish()
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(root)}}).execute()
    image, text = notebook.cells[0].outputs
    assert (image.output_type, text.output_type) == ("display_data", "stream")
    assert image.metadata["image/png"]["alt"] == "Third."
    assert image.data["image/png"]
    assert (text.name, text.text) == ("stdout", "Third.\n")


def test_the_pipelines_show_who_works_what_is_trained_and_what_can_be_checked(drawn):
    for name, trained, programs in (("rlhf_pipeline", 4, 0), ("rlvr_pipeline", 2, 1)):
        axis = drawn[name].axes[0]
        rows = [round(box.get_y() + box.get_height() / 2) for box in axis.patches]
        assert rows.count(figures.LANES.index("trained")) == trained
        assert rows.count(figures.LANES.index("programs")) == programs
        lanes = list(zip(rows, axis.patches, strict=True))
        looks = {row: (to_hex(box.get_facecolor()), box.get_linestyle()) for row, box in lanes}
        assert len(set(looks.values())) == len(looks), "each lane is told by more than its place"
        boxes = [(box.get_x(), box.get_x() + box.get_width(), row) for row, box in lanes]
        apart = (a is b or a[2] != b[2] or a[1] < b[0] or b[1] < a[0] for a in boxes for b in boxes)
        assert all(apart), f"{name}: boxes overlap"


def test_memory_bars_are_stacked_to_the_totals(drawn):
    axis = drawn["memory"].axes[0]
    ends = [round(bar.get_x() + bar.get_width(), 9) for bar in axis.patches]
    assert ends == [8, 8, 16, 8, 17, 8.5]
    assert [text.get_text() for text in axis.texts] == ["17.0", "8.5"]
    hatches = [bar.get_hatch() for bar in axis.patches[::2]]
    assert all(hatch != beside for hatch, beside in zip(hatches, hatches[1:], strict=False))
    assert "GRPO, verifier, KL 8.5 (policy 8.0, reference 0.5)" in drawn["memory"].get_label()


def test_learned_reward_figures_show_the_numbers_given(drawn):
    truth, score = drawn["best_of_n"].axes
    assert [list(line.get_ydata()) for line in truth.lines] == [list(BEST_OF_N["truth"]), list(BEST_OF_N["verifier"])]
    assert list(score.lines[0].get_ydata()) == list(BEST_OF_N["score"])
    assert "goes from 42 % over 58 % at n = 4 to 31 %" in drawn["best_of_n"].get_label()
    assert list(drawn["accuracy"].axes[0].lines[0].get_ydata()) == [0.55, 0.75]


def test_panels_show_each_curve_and_name_its_ends_and_its_peak(drawn):
    axis = drawn["panels"].axes[0]
    assert [list(line.get_ydata()) for line in axis.lines] == [[0, 0.5, 0], [0.1, 0.875, 0.2]]
    assert axis.get_xlabel() == "rate" and len({line.get_linestyle() for line in axis.lines}) == 2
    assert "Signal, four: 0.1 at 0, 0.875 at 0.5, 0.2 at 1." in drawn["panels"].get_label()
    fig = figures.line_panels({"a": ARCHES[1:], "b": ARCHES}, "share", log=True)
    assert [axis.get_yscale() for axis in fig.axes] == ["log"] * 2
    assert fig.axes[0].get_ylabel() == "share (logarithmic)"
    assert "a, two: 0.5 at 0.5, 0 at 1; " in fig.get_label(), "a peak at an end is named once"


def test_grouped_bars_stand_side_by_side_with_their_values(drawn):
    axis = drawn["bars"].axes[0]
    bars = axis.patches
    assert [bar.get_height() for bar in bars] == [0.125, 0.0625, 0.042, 0.0625]
    assert [text.get_text() for text in axis.texts] == ["0.125", "0.0625", "0.042", "0.0625"]
    assert [bar.get_hatch() for bar in bars[::2]] == ["", "//"]
    left, right = bars[0], bars[2]
    assert left.get_x() + left.get_width() < right.get_x(), "they do not overlap"
    assert left.get_x() + right.get_x() + right.get_width() == pytest.approx(0), "they stand around their row's tick"
    assert "grpo: short 0.125, long 0.042; dapo: short 0.0625" in drawn["bars"].get_label()
    fig = figures.grouped_bars(WEIGHTS[["short"]], "weight", "One", log=True)
    assert fig.axes[0].get_yscale() == "log" and fig.axes[0].get_legend() is None


def test_a_token_strip_has_a_box_for_each_token_and_row():
    tokens = [f"t{number}" for number in range(13)]  # two lines
    fig = figures.token_strip(tokens, {"log-prob.": [-0.5] * 12 + [-1.0], "advantage": [0.25] * 13})
    axis = fig.axes[0]
    boxes = axis.patches
    assert len(boxes) == 26
    assert [to_hex(box.get_facecolor()).upper() for box in boxes[:2]] == [figures.VERMILLION, figures.BLUE]
    shades = [box.get_facecolor()[3] for box in boxes]
    assert shades[0] == pytest.approx(0.375) and shades[24] == shades[1] == pytest.approx(0.75)
    shown = [text.get_text() for text in axis.texts]
    assert [text for text in shown if text.startswith("t")] == tokens
    assert shown.count("-0.50") == 12 and shown.count("-1.00") == 1 and shown.count("+0.25") == 13
    centres = [box.get_y() + 0.46 for box in boxes]
    assert list(axis.get_yticks()) == pytest.approx(sorted(set(centres)))
    assert "log-prob. from -1.00 to -0.50; advantage from +0.25" in fig.get_label()


def test_clipping_is_marked_where_the_loss_is_flat(drawn):
    for axis, clipped in zip(drawn["quadrants"].axes, ([1.2, 1.5], [0.5, 0.8]), strict=True):
        loss, flat = axis.lines[:2]
        assert list(loss.get_xdata()) == RATIOS and list(flat.get_xdata()) == clipped
        assert len(set(flat.get_ydata())) == 1
        assert flat.get_color() != loss.get_color() and flat.get_linestyle() != loss.get_linestyle()


def test_reward_curves_show_the_range_of_the_seeds(drawn):
    axis = drawn["rewards"].axes[0]
    assert list(axis.lines[0].get_ydata()) == [0.5, 0.8]
    band = axis.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.4, 0.9)
    assert "with the range of the seeds: by hand from 50 % at 1 to 80 % at 2" in drawn["rewards"].get_label()
