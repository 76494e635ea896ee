"Figures: the same rows give the same bytes, and beside them stands what made them."
import hashlib
import io
import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import said
from PIL import Image

from lth_nb.curves import plot_accuracy_by_sparsity
from lth_nb.made_up import example_rows
from lth_nb.provenance import _source_line, save_figure
from lth_nb.results import table_hash
from lth_nb.rewound import plot_rewinding
from lth_nb.style import use_style

matplotlib.use("agg")
INFO = dict(study="example", scale="made-up numbers: for tests")
LINE = "study example (made-up numbers)"


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def rows():
    made = example_rows()
    return made[(made.target == "made-up A") & made.source.isin(["", "cifar10"])]


def draw(rows, folder, figure=None):
    figure = figure or plot_accuracy_by_sparsity(rows)
    return save_figure(figure, "again", "A caption.", rows, INFO, folder=folder).read_bytes()


def test_the_order_of_rows_does_not_matter(rows, tmp_path):
    first, note = draw(rows, tmp_path/"a"), (tmp_path/"a"/"again.json").read_text()
    assert draw(rows.sample(frac=1, random_state=0), tmp_path/"b") == first
    assert (tmp_path/"b"/"again.json").read_text() == note
    assert sorted(p.name for p in (tmp_path/"b").iterdir()) == ["again.json", "again.png"]
    assert b"tIME" not in first and b"Software" not in first


def test_the_image_is_what_savefig_draws(rows, tmp_path):
    figure = plot_accuracy_by_sparsity(rows).figure
    canvas, dpi = figure.canvas, figure.dpi
    image = np.asarray(Image.open(io.BytesIO(draw(rows, tmp_path, figure))))
    assert (figure.canvas, figure.dpi) == (canvas, dpi)
    with use_style():
        figure.savefig(saved := io.BytesIO(), format="png")
    expected = np.asarray(Image.open(saved).convert("RGB"))
    assert np.array_equal(image[:len(expected)], expected) and len(image) > len(expected)


def test_the_note_says_what_was_drawn(rows, tmp_path):
    image = draw(rows, tmp_path)
    made = json.loads((tmp_path/"again.json").read_text())
    assert (made["rows"], made["seeds"], made["filtered"]["target"]) == (68, [0, 1, 2, 3], "made-up A")
    assert made["drawn"]["arm"] == ["reinit", "scratch", "ticket"]
    assert made["rows_sha256"] == table_hash(rows) and made["image_sha256"] == hashlib.sha256(image).hexdigest()


def test_the_line_below_a_figure(rows):
    assert _source_line(rows, INFO) == f"{LINE}, 4 seeds, source: CIFAR-10"
    assert _source_line(pd.concat([rows, rows.assign(source="own")]), INFO) == f"{LINE}, 4 seeds"
    assert _source_line(rows[["arm"]], {**INFO, "seeds": []}) == LINE


def test_the_line_is_in_the_file_alone(rows, tmp_path):
    "So one figure can be saved twice, with the same result."
    figure = plot_accuracy_by_sparsity(rows).figure
    assert draw(rows, tmp_path/"a", figure) == draw(rows, tmp_path/"b", figure) == draw(rows, tmp_path/"c")


def test_names_and_studies_that_do_not_fit_are_refused(rows, tmp_path):
    refused = said(lambda: save_figure(None, "Fig 1", "", rows, INFO, folder=tmp_path))
    assert "lowercase letters, digits and dashes" in refused
    refused = said(lambda: save_figure(None, "other", "", rows, INFO | {"study": "small"}, folder=tmp_path))
    assert "rows of study example with the description of 'small'" in refused


@pytest.fixture(scope="module")
def lines():
    "Barriers of a dense network and of a mask, which fall with the step, and a transfer that rises."
    barriers = [
        dict(
            measure="barrier", level=l, density=0.6**l, rewind=k, seed=0, pair=p,
            barrier=0.15 / (1 + k / 10) + 0.01 * i + 0.02 * (l > 0)
        )
        for l in (0, 4) for k in (0, 10, 50, 400) for i, p in enumerate(("0-1", "0-2", "1-2"))
    ]
    transfers = [
        dict(
            measure="transfer", level=4, density=0.6**4, rewind=k, seed=s, target="made-up A",
            test_accuracy=0.6 + 0.02 * np.log1p(k) + 0.01 * s
        )
        for k in (0, 10, 50, 400) for s in range(3)
    ]
    return pd.DataFrame(barriers + transfers)


def test_rewinding_has_a_panel_of_barriers_and_one_per_target(lines):
    left, right = plot_rewinding(lines).axes
    legend = [t.get_text() for t in left.get_legend().get_texts()]
    assert legend == ["dense", "ticket's mask, 13.0% left", "stable below 2 points"]
    assert right.lines[0].get_ydata()[0] == pytest.approx(61)
    two = plot_rewinding(pd.concat([lines, lines.assign(target="made-up B")]))
    titles = [ax.get_title() for ax in two.axes if ax.get_visible()]
    assert titles == ["stability", "on made-up A", "on made-up B"]


def test_rewinding_without_transfers_or_lines(lines):
    assert len(plot_rewinding(lines.query("measure == 'barrier'")).axes) == 1
    assert "run nbs/runs/connectivity.ipynb first" in said(lambda: plot_rewinding(lines[:0]))
