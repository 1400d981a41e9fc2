"""What the figures, tables and the roadmap say: labels, limits, words and HTML, not pixels."""

from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from nbclient import NotebookClient
from PIL import Image

from helpers import drawings, figures
from helpers.runtime import CourseError

OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
BEFORE = {"greedy": 0.36, "pass@1": 0.41, "pass@8": 0.93, "problems": 200}
BEFORE["interval"] = {"greedy": [0.3, 0.43], "pass@1": [0.37, 0.45], "pass@8": [0.9, 0.96]}
AFTER = {"greedy": 0.98, "pass@1": 0.97, "pass@8": 1.0, "problems": 200}
AFTER["interval"] = {"greedy": [0.96, 1.0], "pass@1": [0.95, 0.99], "pass@8": [1.0, 1.0]}
STOPS = pd.DataFrame(
    {"read a file": [True, False, False], "take 1 GB": [False, False, True], "wait": [False] * 3},
    index=["seccomp", "session", "memory limit"],
)
SHARES = pd.DataFrame(
    [[0.0, np.nan, 1.0], [1.0, 0.0, 0.95], [1.0, 0.006, 0.0], [1.0, 0.0, 0.0]],
    index=["v0", "v1", "v3", "hardened"],
    columns=["right answers", "mutants", "cheats"],
)
GIGABYTES = pd.DataFrame(
    {"policy": [8.0, 8.0], "critic": [8.0, 0.0], "reference": [1.0, 0.5]}, index=["PPO-RLHF", "GRPO, verifier, KL"]
)
CHOICES = pd.DataFrame(
    {"n": [1, 4, 64], "truth": [0.42, 0.58, 0.31], "low": [0.36, 0.5, 0.25], "high": [0.5, 0.6, 0.4]}
)
TRAINED = pd.DataFrame(  # two seeds
    {"seed": [0, 1, 0, 1], "step": [0, 0, 60, 60], "truth": [0.4, 0.5, 0.1, 0.3], "score": [-1.0, -1.2, 0.5, 0.9]}
)
ARCHES = pd.DataFrame({"two": [0.0, 0.5, 0.0], "four": [0.1, 0.875, 0.2]}, index=pd.Index([0.0, 0.5, 1.0], name="rate"))
WEIGHTS = pd.DataFrame({"short": [0.125, 0.0625], "long": [0.042, np.nan]}, index=["grpo", "dapo"])
RATIOS = [0.5, 0.8, 1.0, 1.2, 1.5]
QUADRANTS = {
    1: pd.Series([-0.5, -0.8, -1.0, -1.2, -1.2], index=RATIOS),
    -1: pd.Series([0.8, 0.8, 1.0, 1.2, 1.5], index=RATIOS),
}
REWARDS = pd.DataFrame({"step": [1, 2], "reward": [0.5, 0.8], "low": [0.4, 0.7], "high": [0.6, 0.9]})

WRITTEN = [[" if", " >"], [" if", " >="]]
SEEDS = pd.DataFrame(
    {"pass@1": [80.0, 82.0, 60.0, 61.0]},
    index=pd.MultiIndex.from_product([["mean", "none"], [0, 1]], names=["run", "seed"]),
)
FINDINGS = pd.DataFrame({"falls": [0, 3], "cut off": [0, 1]}, index=["healthy", "ill"])


def history(steps):
    return pd.DataFrame(
        {
            "step": range(1, steps + 1),
            "reward": np.linspace(0.4, 0.9, steps),
            "frac_reward_zero_std": np.linspace(0, 0.6, steps),
            "entropy": np.linspace(0.2, 0, steps),
            "completion_length": np.full(steps, 21.0),
            "clipped_ratio": np.linspace(0.1, 0, steps),
            "true_reward": np.linspace(0.4, 0.5, steps),
        }
    )


def curve(x, y, values):
    values = np.array(values)
    steps = range(1, len(values) + 1) if x == "k" else np.linspace(0, 1, len(values))
    return pd.DataFrame({x: steps, y: values, "low": values - 0.05, "high": values + 0.05})


def both(x, y):
    return {"before": curve(x, y, [0.4, 0.6, 0.8]), "after": curve(x, y, [0.9, 0.95, 0.99])}


DRAWN = {
    "learning": lambda: figures.learning_curves(history(20)),
    "live": lambda: figures.learning_curves(history(15), max_steps=68, seconds_left=41, extra=["true_reward"]),
    "before_after": lambda: figures.before_after(BEFORE, AFTER),
    "pass_at_k": lambda: drawings.pass_at_k_curves(both("k", "pass@k")),
    "choices": lambda: drawings.choice_curves({name: CHOICES for name in "abcde"}),
    "rewards": lambda: drawings.reward_curves({name: REWARDS for name in ("by hand", "library")}),
    "verifier_errors": lambda: drawings.verifier_errors(SHARES),
    "verifier_ladder": lambda: drawings.verifier_ladder({"v0": "refuses all", "v3": "holds"}),
    "layer_grid": lambda: drawings.layer_grid(STOPS),
    "grading_times": lambda: drawings.grading_times({"v0": 64.0, "v1": 2.5, "hardened": 0.2}, 0.9, "one step"),
    "cheats": lambda: drawings.cheat_shares({"a": [0.02, 0.4, 0.9], "b": [0.02, 0.01, 0.0]}),
    "rlhf": lambda: drawings.loop("rlhf"),
    "rlvr": lambda: drawings.loop("rlvr"),
    "memory": lambda: drawings.memory_bars(GIGABYTES, "Memory"),
    "score_and_truth": lambda: drawings.score_and_truth({"learned": TRAINED, "verifier": TRAINED}),
    "panels": lambda: figures.line_panels({"Signal": ARCHES, "Again": ARCHES}, "fraction of the groups"),
    "bars": lambda: figures.grouped_bars(WEIGHTS, "weight", "Weights"),
    "dots": lambda: figures.grouped_bars(WEIGHTS, "weight", "Weights", log=True),
    "pushes": lambda: drawings.group_pushes(WRITTEN, [0.5, -0.5], {" >": [0.0, 0.1], " >=": [0.0, -0.1]}),
    "seeds": lambda: drawings.seed_dots({"pass@1 in %": SEEDS, "gap": SEEDS.assign(more=1.0)}, "Baselines"),
    "findings": lambda: drawings.findings_grid(FINDINGS, 3, {"ill": "falls"}),
    "quadrants": lambda: drawings.clip_quadrants(QUADRANTS, low=0.8, high=1.2),
}


@pytest.fixture(params=DRAWN)
def drawn(request):
    return DRAWN[request.param]()


class Elements(HTMLParser):
    """All elements of an HTML text as (tag, attributes, text directly inside); fails if one is not closed."""

    def __init__(self, html):
        super().__init__()
        self.found, self.open = [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append([tag, dict(attributes), ""])
        if tag != "img":
            self.open.append(self.found[-1])

    def handle_startendtag(self, tag, attributes):
        self.found.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        if self.open:
            self.open[-1][2] += text

    def all(self, *tags):
        return [(attributes, text) for tag, attributes, text in self.found if tag in tags]

    def rows(self):
        """The texts of the cells, row by row."""
        rows = []
        for tag, _, text in self.found:
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th"):
                rows[-1].append(text)
        return rows


def test_every_figure_has_words_labels_and_text_that_can_be_read(drawn):
    assert drawn.alt.endswith(".") and drawn.caption.endswith(".") and drawn.alt != drawn.caption
    assert drawn.get_figwidth() == 7 and 2 <= drawn.get_figheight() <= 5
    for axis in (axis for axis in drawn.axes if axis.axison):
        assert axis.get_title()
        assert axis.get_ylabel() or axis.get_yticklabels() or axis.get_shared_y_axes().get_siblings(axis)
        assert axis.get_xlabel() or axis.get_xticklabels() or axis.texts
    assert min(text.get_fontsize() for text in drawn.findobj(Text)) >= 8


def test_only_okabe_ito_colours_carry_data_and_no_bar_stands_on_a_logarithmic_axis(drawn):
    for axis in drawn.axes:
        colours = {to_hex(line.get_color()).upper() for line in axis.lines}
        colours |= {to_hex(patch.get_facecolor()).upper() for patch in axis.patches} - {"#FFFFFF"}
        assert colours <= OKABE_ITO
        if "log" in (axis.get_xscale(), axis.get_yscale()):
            assert not axis.patches


def test_the_file_is_small_sharp_and_keeps_its_colours():
    fig = DRAWN["live"]()  # five colours, each on a thin line only
    file = fig.png()
    assert len(file) < 60_000  # outputs are committed
    shown = Image.open(BytesIO(file)).convert("RGB")
    assert shown.width == 1400
    exact = BytesIO()
    fig.savefig(exact, format="png", dpi=figures.DPI)
    difference = np.asarray(shown).astype(int) - np.asarray(Image.open(exact).convert("RGB"))
    assert np.abs(difference).max() <= 24


def test_bands_that_overlap_keep_their_colours_and_the_legend_covers_none():
    runs = {
        name: TRAINED.assign(score=TRAINED["score"] * pull)
        for pull, name in enumerate(("up", "flat", "down", "far"), -1)
    }
    fig = drawings.score_and_truth(runs)
    shown = Image.open(BytesIO(fig.png())).convert("RGB")
    exact = BytesIO()
    fig.savefig(exact, format="png", dpi=figures.DPI)
    difference = np.asarray(shown).astype(int) - np.asarray(Image.open(exact).convert("RGB"))
    assert np.percentile(np.abs(difference).max(axis=-1), 99.5) <= 12
    assert len(fig.legends) == 1 and not any(axis.get_legend() for axis in fig.axes)


def test_html_has_the_picture_its_alternative_text_its_caption_and_closed_values():
    fig = DRAWN["bars"]().describe('Bars of "a < b".', "What to see in <b> & why.", WEIGHTS)
    data, metadata = fig.bundle()
    assert list(data) == ["text/html", "image/png", "text/plain"]
    html = Elements(data["text/html"])
    [(image, _)] = html.all("img")
    assert image["src"] == f"data:image/png;base64,{data['image/png']}"
    assert image["alt"] == metadata["image/png"]["alt"] == 'Bars of "a < b".'
    assert (image["width"], image["height"]) == ("700", "360")
    assert [text for _, text in html.all("figcaption")] == ["What to see in <b> & why."]
    assert [attributes for attributes, _ in html.all("details")] == [{}]
    assert html.rows() == [["", "short", "long"], ["grpo", "0.125", "0.042"], ["dapo", "0.062", "-"]]
    assert data["text/plain"] == 'Bars of "a < b".\nWhat to see in <b> & why.'
    assert not Elements(DRAWN["rlvr"]().bundle()[0]["text/html"]).all("details"), "a drawing has no values"


def test_outside_a_notebook_the_words_are_printed(capsys):
    fig = DRAWN["rlvr"]()
    figures.show(fig)
    assert capsys.readouterr().out == f"{fig.alt}\n{fig.caption}\n"


def test_in_a_kernel_and_in_nbconvert_each_figure_is_there_once_with_its_words(root):
    source = """
import pandas as pd
from helpers import drawings, figures
picture = figures.LivePicture()
for kind in ("rlhf", "rlvr"):
    picture.draw(drawings.loop(kind))
picture.finish()
figures.show(drawings.loop("rlhf"))
figures.table(pd.DataFrame({"count": [2.0]}))
figures.roadmap("reward")
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(root)}}).execute()
    outputs = notebook.cells[0].outputs
    assert [output.output_type for output in outputs] == ["display_data"] * 4
    live, shown, table, roadmap = (dict(output.data) for output in outputs)
    assert live == DRAWN["rlvr"]().bundle()[0] and shown == DRAWN["rlhf"]().bundle()[0]
    assert table["text/plain"] == "count\n    2"
    assert "[verifier]" in roadmap["text/plain"]
    nbconvert = pytest.importorskip("nbconvert")
    page = Elements(nbconvert.HTMLExporter(template_name="basic").from_notebook_node(notebook)[0])
    assert [image["alt"] for image, _ in page.all("img")] == [DRAWN["rlvr"]().alt, DRAWN["rlhf"]().alt]
    captions = [text for _, text in page.all("figcaption")]
    assert captions == [DRAWN["rlvr"]().caption, DRAWN["rlhf"]().caption, "You are here: verifier (3 of 6)."]


class Handle:
    """Stands for IPython's display: writes down which types each call shows."""

    def __init__(self):
        self.shown = []

    def __call__(self, data, **_):
        self.shown.append(set(data))
        return self

    update = __call__


def test_while_it_is_drawn_again_only_the_image_changes(monkeypatch):
    handle = Handle()
    monkeypatch.setattr(figures, "display", handle)
    picture = figures.LivePicture()
    picture.finish()
    assert handle.shown == [], "there is nothing to show yet"
    for _ in range(2):
        picture.draw(DRAWN["rlvr"]())
    picture.finish()
    image = {"image/png", "text/plain"}
    assert handle.shown == [image, image, image | {"text/html"}]


def cells(frame):
    return Elements(figures._table_html(frame)).rows()


def test_a_table_shows_counts_whole_fractions_rounded_and_text_in_full(capsys):
    text = "a long text that pandas would cut off, " * 5
    frame = pd.DataFrame(
        {"why": [text, "<b>"], "count": [1764.0, np.nan], "share": [0.45588, 1.0], "mixed": [164, 148.5]},
        index=pd.Index(["x", "y"], name="name"),
    )
    assert cells(frame) == [
        ["name", "why", "count", "share", "mixed"],
        ["x", text, "1,764", "0.456", "164"],
        ["y", "<b>", "-", "1.000", "148.5"],
    ]
    html = Elements(figures._table_html(frame))
    sides = [attributes["style"].split()[-1] for attributes, _ in html.all("td")]
    assert sides == ["left", "right", "right", "right"] * 2
    assert [attributes.get("scope") for attributes, _ in html.all("th")] == ["col"] * 5 + ["row"] * 2
    figures.table(frame[["count", "share"]])
    assert capsys.readouterr().out == "name  count  share\nx     1,764  0.456\ny         -  1.000\n"


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        ([0.5, 0.25], ["0.50", "0.25"]),
        ([0.00035, 0.1], ["0.00035", "0.1"]),
        ([-1e-9, 0.5], ["0.0", "0.5"]),  # a rounding error
        ([-0.0, 0.25], ["0.00", "0.25"]),
        ([164, 148.5], ["164", "148.5"]),
        ([1.0, 0.5], ["1.0", "0.5"]),
        ([-0.0, 3.0], ["0", "3"]),
        ([1e6, 2], ["1,000,000", "2"]),
        ([True, False], ["True", "False"]),
        ([56, "dr_grpo"], ["56", "dr_grpo"]),
        ([0.00035, "none"], ["0.00035", "none"]),
        ([np.nan, np.nan], ["-", "-"]),
    ],
)
def test_how_a_column_of_numbers_is_written(column, shown):
    assert [row[0] for row in cells(pd.DataFrame({"column": column}))[1:]] == shown


def test_an_index_is_a_column_with_its_name_unless_it_only_counts_the_rows():
    frame = pd.DataFrame({"a": [1, 2]})
    assert cells(frame) == [["a"], ["1"], ["2"]]
    assert cells(frame.rename_axis("k")) == [["k", "a"], ["0", "1"], ["1", "2"]]
    heads = Elements(figures._table_html(frame.rename_axis("k"))).all("th")
    assert [attributes["style"].split()[-1] for attributes, _ in heads] == ["left", "right", "left", "left"]
    assert cells(frame.set_index([["x", "y"], [0.5, 0.25]])) == [["", "", "a"], ["x", "0.50", "1"], ["y", "0.25", "2"]]
    pairs = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("n", 1), ("n", 64)]))
    assert cells(pairs) == [["n 1", "n 64"], ["1", "2"]]
    # A table turned on its side holds objects, but still numbers.
    assert cells(pd.DataFrame({"a": [1.0, 0.5]}, index=["n", "share"]).astype(object).T) == [
        ["", "n", "share"],
        ["a", "1", "0.5"],
    ]


@pytest.mark.parametrize("step", figures.LOOP)
def test_the_roadmap_fills_the_box_of_the_step(step):
    html = Elements(figures._roadmap_html(step))
    boxes, _ = html.rows()
    assert len(boxes) == 11  # six boxes and the arrows between them
    filled = [text for _, text in html.all("b")]
    assert filled == [figures.LOOP[step]]
    coloured = [attributes for attributes, _ in html.all("td") if figures.BLUE in attributes["style"]]
    assert len(coloured) == 1


def test_the_roadmap_refuses_what_is_not_a_step():
    with pytest.raises(CourseError, match="'judge' is not a step of the loop"):
        figures.roadmap("judge")


def test_learning_curves_show_each_step_and_a_mean_of_five():
    fig = DRAWN["learning"]()
    titles = [axis.get_title() for axis in fig.axes if axis.axison]
    assert titles == [title for title, *_ in figures.PANELS.values()]
    faint, strong = fig.axes[0].lines
    rewards = history(20)["reward"]
    assert list(faint.get_ydata()) == list(rewards)
    assert strong.get_ydata()[10] == pytest.approx(rewards[6:11].mean())
    assert fig.axes[0].get_xlim() == (0, 20) and not fig.get_suptitle()
    assert "over 20 steps: the mean reward goes from 0.45" in fig.caption
    assert fig.values.loc["Reward"].tolist() == pytest.approx([rewards[:5].mean(), rewards[15:].mean()])


def test_the_live_curve_runs_to_the_last_step_and_says_how_far_it_is():
    fig = DRAWN["live"]()
    assert {axis.get_xlim() for axis in fig.axes} == {(0, 68)}
    assert fig.get_suptitle() == "step 15 of 68, about 41 s left"
    assert fig.axes[-1].get_title() == "True reward" and fig.axes[-1].get_ylim() == (0, 1.04)
    for seconds, left in (
        (None, ""),
        (0, ""),
        (89, ", about 89 s left"),
        (119, ", about 2 min left"),
        (9000, ", about 2.5 h left"),
    ):
        again = figures.learning_curves(history(15), max_steps=68, seconds_left=seconds)
        assert again.get_suptitle() == f"step 15 of 68{left}"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("steps", [1, 2])
def test_the_first_steps_can_be_drawn(steps):
    fig = figures.learning_curves(history(steps).assign(entropy=0.0, reward=np.nan), max_steps=9)
    assert fig.png()


def test_rewards_below_0_and_above_1_are_inside_the_panel():
    fig = figures.learning_curves(history(5).assign(reward=[-1, 0, 2, 1, 0]))
    assert fig.axes[0].get_ylim() == (-1.04, 2.08)


def test_before_and_after_show_the_numbers_given_and_differ_by_more_than_colour():
    fig = DRAWN["before_after"]()
    axis = fig.axes[0]
    assert [bar.get_height() for bar in axis.patches] == [0.36, 0.41, 0.93, 0.98, 0.97, 1.0]
    assert [bar.get_hatch() for bar in axis.patches] == ["//"] * 3 + [""] * 3
    ends = [segment[:, 1] for bars in axis.collections for segment in bars.get_segments()]
    assert np.allclose(ends, [*BEFORE["interval"].values(), *AFTER["interval"].values()])
    assert [text.get_text() for text in axis.texts][::3] == ["before\n36%", "after\n98%"]
    assert fig.caption == "Held-out problems solved: greedy 36% to 98%; pass@1 41% to 97%; pass@8 93% to 100%."


def test_curves_have_their_own_marker_and_dash_and_a_band_that_is_named():
    axis = DRAWN["pass_at_k"]().axes[0]
    assert len({line.get_marker() for line in axis.lines}) == len({line.get_linestyle() for line in axis.lines}) == 2
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["before", "after"]
    fig = DRAWN["rewards"]()
    band = fig.axes[0].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.4, 0.9)
    assert "the range of the seeds" in fig.axes[0].get_title()
    assert fig.caption == "reward: by hand from 50% at 1 to 80% at 2; library from 50% at 1 to 80% at 2."


def test_panels_show_each_curve_and_name_its_peak():
    fig = DRAWN["panels"]()
    axis = fig.axes[0]
    assert [list(line.get_ydata()) for line in axis.lines] == [[0, 0.5, 0], [0.1, 0.875, 0.2]]
    assert axis.get_xlabel() == "rate" and len({line.get_linestyle() for line in axis.lines}) == 2
    assert fig.caption.startswith("Signal: two peaks at 0.5; Signal: four peaks at 0.875; Again:")


def test_more_lines_than_styles_are_all_drawn():
    six = pd.DataFrame({f"line {number}": [0, number] for number in range(6)})
    assert len(figures.line_panels({"Six": six}, "value").axes[0].lines) == 6
    assert len(figures.grouped_bars(six, "value", "Six").axes[0].containers) == 6


def test_grouped_bars_stand_side_by_side_with_their_values():
    fig = DRAWN["bars"]()
    axis = fig.axes[0]
    bars = axis.patches
    assert [text.get_text() for text in axis.texts] == ["0.125", "0.0625", "0.042", ""], "none for what is missing"
    assert [bar.get_hatch() for bar in bars[::2]] == ["", "//"]
    left, right = bars[0], bars[2]
    assert left.get_x() + left.get_width() < right.get_x(), "they do not overlap"
    assert left.get_x() + right.get_x() + right.get_width() == pytest.approx(0), "they stand around their row's tick"
    assert fig.caption == "weight: short from 0.0625 to 0.125; long from 0.042 to 0.042."
    assert figures.grouped_bars(WEIGHTS[["short"]], "weight", "One").axes[0].get_legend() is None


def test_dots_on_a_logarithmic_axis_have_a_shape_for_each_column():
    axis = DRAWN["dots"]().axes[0]
    assert [line.get_ydata()[0] for line in axis.lines] == [0.125, 0.042]
    assert len({line.get_marker() for line in axis.lines}) == 2 and axis.get_yscale() == "log"
    assert axis.get_ylabel() == "weight (logarithmic)"


def test_a_group_s_tokens_have_the_colour_of_their_advantage_and_a_frame_where_they_differ():
    top, bottom = DRAWN["pushes"]().axes
    colours = [to_hex(box.get_facecolor()).upper() for box in top.patches]
    assert colours == [figures.BLUE] * 2 + [figures.VERMILLION] * 2
    assert [box.get_linewidth() > 1 for box in top.patches] == [False, True] * 2
    assert [label.get_text() for label in top.get_yticklabels()] == ["+0.500", "-0.500"]
    assert [text.get_text() for text in top.texts] == [">", ">="]
    assert [bar.get_height() for bar in bottom.patches] == [0.0, 0.1, 0.0, -0.1]


def test_each_seed_has_a_dot_and_each_run_a_line_at_its_mean():
    fig = DRAWN["seeds"]()
    dots, means = fig.axes[0].lines[::2], fig.axes[0].lines[1::2]
    assert [list(line.get_xdata()) for line in dots] == [[80.0, 82.0], [60.0, 61.0]]
    assert [line.get_xdata()[0] for line in means] == [81.0, 60.5]
    assert "mean 81.0, none 60.5" in fig.caption
    # The second panel has a second column, which the legend below the panels names.
    assert [list(line.get_xdata()) for line in fig.axes[1].lines[4:6]] == [[1.0, 1.0]] * 2
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["pass@1", "more"]


def test_a_rule_that_should_fire_has_a_frame():
    [axis] = DRAWN["findings"]().axes
    frames = [box for box in axis.patches if box.get_linewidth() > 1]
    assert [(box.get_x() + 0.48, box.get_y() + 0.46) for box in frames] == [(0, 1)]
    assert [text.get_text() for text in axis.texts] == ["", "", "3", "1"]


def test_both_loops_have_the_same_shape_and_only_the_boxes_that_differ_are_coloured():
    looks = {}
    for kind in ("rlhf", "rlvr"):
        axis = DRAWN[kind]().axes[0]
        boxes = [(patch.get_x(), patch.get_y()) for patch in axis.patches]
        texts = [text.get_text() for text in axis.texts if text.get_text()]
        looks[kind] = {
            place: (text, to_hex(patch.get_facecolor()))
            for place, text, patch in zip(boxes, texts, axis.patches, strict=False)
        }
        for x, y in boxes:
            others = [(a, b) for a, b in boxes if (a, b) != (x, y)]
            assert not any(abs(a - x) < 1.7 and abs(b - y) < 0.8 for a, b in others), "boxes overlap"
    shared = set(looks["rlhf"].values()) & set(looks["rlvr"].values())
    assert {text for text, _ in shared} == {"prompt", "policy\n(trained)", "completions", "loss and step"}
    assert {colour for _, colour in shared} == {"#ffffff"}
    for boxes in looks.values():
        assert all(colour != "#ffffff" for _, colour in set(boxes.values()) - shared)
    assert set(looks["rlvr"]) < set(looks["rlhf"]), "the same place for the same part"


def test_the_loop_is_closed_and_the_tests_go_to_the_verifier_alone():
    axis = DRAWN["rlvr"]().axes[0]
    names = {box[:2]: name for name, box in drawings.BOXES.items()}
    arrows = {(names[text.xyann], names[text.xy]) for text in axis.texts if hasattr(text, "xyann")}
    circle = {("policy", "completions"), ("completions", "judge"), ("judge", "advantages")}
    circle |= {("advantages", "update"), ("update", "policy")}
    assert arrows == circle | {("prompt", "policy"), ("source", "judge")}
    with pytest.raises(CourseError, match="no loop 'ppo'"):
        drawings.loop("ppo")


def test_a_verifier_s_errors_are_filled_and_its_right_decisions_are_not():
    fig = DRAWN["verifier_errors"]()
    boxes = fig.axes[0].patches
    filled = [box.get_facecolor()[3] > 0.1 for box in boxes]
    # v0 refuses correct answers, v0 and v1 accept cheats, v3 one mutant; what was not run is not an error.
    assert [divmod(at, 3) for at, is_filled in enumerate(filled) if is_filled] == [(0, 0), (0, 2), (1, 2), (2, 1)]
    assert [bool(box.get_hatch()) for box in boxes] == filled
    assert "v0: 2; v1: 1; v3: 1; hardened: 0" in fig.caption
    assert [text.get_text() for text in fig.axes[0].texts][:3] == ["0%", "not run", "100%"]


def test_the_ladder_fills_what_is_known_and_keeps_tests_and_program_apart_in_v3_alone():
    fig = DRAWN["verifier_ladder"]()
    texts = [[text.get_text().replace("\n", " ") for text in axis.texts] for axis in fig.axes]
    assert [words[-1] for words in texts] == ["refuses all", "not built yet", "not built yet", "holds"]
    assert [len(axis.patches) for axis in fig.axes] == [1, 1, 1, 2]
    assert [axis.texts[-1].get_alpha() for axis in fig.axes] == [1, 0.35, 0.35, 1]
    assert fig.caption.endswith("Known so far: v0: refuses all; v3: holds.")
    with pytest.raises(CourseError, match="no verifier 'v9'"):
        drawings.verifier_ladder({"v9": ""})


def test_the_layer_grid_fills_what_stops_and_leaves_out_what_stops_nothing():
    fig = DRAWN["layer_grid"]()
    [axis] = fig.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["seccomp", "memory limit"]
    assert [text.get_text() for text in axis.texts] == ["stops", "", "", "", "stops", ""]
    assert [box.get_facecolor()[3] > 0.5 for box in axis.patches] == [True, False, False, False, True, False]
    assert fig.caption == "read a file: seccomp; take 1 GB: memory limit; wait: none alone."


def test_grading_times_and_cheats_show_the_numbers_given():
    times, cheats = DRAWN["grading_times"](), DRAWN["cheats"]()
    dots, line = times.axes[0].lines
    assert list(dots.get_ydata()) == [64.0, 2.5, 0.2] and list(line.get_ydata()) == [0.9, 0.9]
    assert times.caption == "v0: 64 s; v1: 2.5 s; hardened: 0.2 s; one step: 0.9 s."
    lines = cheats.axes[0].lines
    assert [list(line.get_ydata()) for line in lines] == [[0.02, 0.4, 0.9], [0.02, 0.01, 0.0]]
    assert len({line.get_linestyle() for line in lines}) == 2
    assert cheats.axes[0].get_yscale() == "log"  # otherwise a rare cheat that dies out looks like one that does not
    assert cheats.caption == "Cheats: a from 2% to 90%; b from 2% to 0%."


def test_memory_bars_are_stacked_to_the_totals():
    fig = DRAWN["memory"]()
    axis = fig.axes[0]
    ends = [round(bar.get_x() + bar.get_width(), 9) for bar in axis.patches]
    assert ends == [8, 8, 16, 8, 17, 8.5]
    assert [text.get_text() for text in axis.texts] == ["17.0", "8.5"]
    hatches = [bar.get_hatch() for bar in axis.patches[::2]]
    assert all(hatch != beside for hatch, beside in pairwise(hatches))
    assert fig.caption == "GB in all: PPO-RLHF 17.0; GRPO, verifier, KL 8.5."
    assert fig.values.loc["PPO-RLHF"].tolist() == [8, 8, 1]


def test_learned_reward_figures_show_the_numbers_given():
    [choices] = DRAWN["choices"]().axes
    assert [list(line.get_ydata()) for line in choices.lines] == [list(CHOICES["truth"])] * 5
    looks = {(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in choices.lines}
    assert len(looks) == 5
    fig = DRAWN["score_and_truth"]()
    truth, score = fig.axes
    for axis, means, ends in ((truth, [0.45, 0.2], [0.1, 0.5]), (score, [-1.1, 0.7], [-1.2, 0.9])):
        assert [list(line.get_ydata()) for line in axis.lines] == [pytest.approx(means)] * 2
        band = axis.collections[0].get_paths()[0].vertices[:, 1]
        assert [band.min(), band.max()] == ends
    assert "verifier: from 45% to 20% that pass, and from -1.10 to +0.70 in score" in fig.caption


def test_clipping_is_marked_where_the_loss_is_flat():
    for axis, clipped in zip(DRAWN["quadrants"]().axes, ([1.2, 1.5], [0.5, 0.8]), strict=True):
        loss, flat, *bounds = axis.lines
        assert list(flat.get_xdata()) == clipped and set(loss.get_xdata()) == set(RATIOS) - set(clipped)
        assert len(set(flat.get_ydata())) == 1
        assert flat.get_color() != loss.get_color() and flat.get_linestyle() != loss.get_linestyle()
        assert [line.get_xdata()[0] for line in bounds] == [0.8, 1, 1.2]
