"What networks cost to run, measured by the script on a study that is trained here."
import sys

import pandas as pd
import pytest
import yaml
from conftest import ROOT, TINY, said

from lth_nb.core import Paths
from lth_nb.costs import COSTS, NETWORK, cost_points, read_costs
from lth_nb.grid import ticket_cells
from lth_nb.latency import write_latency
from lth_nb.models import build_model
from lth_nb.run import run_search
from lth_nb.studyfile import parse_study

sys.path.insert(0, str(ROOT/"bench"))
from ticket_cost import measure  # noqa: E402

STUDY = yaml.safe_load(TINY) | dict(
    models="cnn_small", image_size=16, seeds=[0],
    ticket_recipes={
        "base": {"training": "base", "rounds": 2, "rate": 0.5, "rewind": "5it"},
        "channel": {"like": "base", "granularity": "channel"}
    },
    transfers=[
        {"targets": "digits", "fractions": 0.1, "arms": "scratch"},
        {"targets": "digits", "fractions": 0.1, "arms": "scratch", "models": "lenet_300_100"},
        {"sources": "own", "targets": "digits", "fractions": 0.1, "arms": "ticket", "levels": [1, 2],
            "ticket_recipes": ["base", "channel"]}
    ],
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    "The study, and its measurements in a table."
    pytest.importorskip("onnxruntime")
    paths, study = Paths(tmp_path_factory.mktemp("costs")), parse_study(STUDY, "tiny.yaml")
    for cell in ticket_cells(study): run_search(study, cell, paths)
    table = pd.DataFrame(measure(study, "digits", 0, paths, rounds=1))
    paths.results.mkdir(parents=True, exist_ok=True)
    write_latency(table, paths.results/"ticket_cost.csv")
    return study, paths, table


def test_every_network_is_measured_once_per_batch(measured):
    study, _, table = measured
    levels = {("cnn_small", recipe, level) for recipe in ("base", "channel") for level in (1, 2)}
    expected = levels | {("cnn_small", "", 0), ("lenet_300_100", "", 0)}
    keys = ["model", "ticket_recipe", "level"]
    for batch in (1, 64): assert {*table[table["batch"] == batch][keys].itertuples(index=False, name=None)} == expected
    assert len(table) == 2 * len(expected) and (table["ms"] > 0).all() and (table["low"] <= table["high"]).all()


def test_dense_networks_cost_what_they_hold_and_tickets_less(measured):
    one = measured[2][measured[2]["batch"] == 1].set_index(["model", "ticket_recipe", "level"])
    dense = build_model("cnn_small", 10, 16, 1)
    assert one.loc[("cnn_small", "", 0), "params"] == sum(p.numel() for p in dense.parameters())
    assert one.loc[("cnn_small", "base", 2), "alive"] < 0.5 * one.loc[("cnn_small", "", 0), "alive"]
    assert one.loc[("cnn_small", "channel", 2), "params"] < one.loc[("cnn_small", "", 0), "params"]
    assert one.loc[("cnn_small", "channel", 2), "flops"] < one.loc[("cnn_small", "channel", 1), "flops"]
    assert one.loc[("cnn_small", "base", 2), "gzip_bytes"] < 0.8 * one.loc[("cnn_small", "", 0), "gzip_bytes"]


def test_the_table_is_read_back_by_network(measured):
    study, paths, table = measured
    costs = read_costs("tiny", paths)
    assert len(costs) == len(table) / 2 and not costs[[*COSTS]].isna().any(axis=None)
    assert read_costs("another study", paths).empty
    rows = costs[NETWORK].assign(arm=["ticket" if r else "scratch" for r in costs["ticket_recipe"]], recipe="base",
        source=["digits" if r else "" for r in costs["ticket_recipe"]], val_accuracy=0.5, test_accuracy=0.5)
    info = dict(models=["cnn_small"], ticket_recipes=dict(base={}, channel=dict(granularity="channel")))
    points = cost_points(rows, info, costs)
    assert points["kind"].value_counts().to_dict() == {"channel": 2, "weight": 2, "dense": 2}
    assert points.loc[(points["kind"] == "dense") & (points["model"] == "cnn_small"), [*COSTS]].eq(1).all(axis=None)


def test_a_table_of_something_else_is_refused(measured, tmp_path):
    paths = Paths(tmp_path)
    paths.results.mkdir(parents=True)
    (paths.results/"ticket_cost.csv").write_text("study,target\ncost,moths\n")
    assert "no column" in said(lambda: read_costs("cost", paths))
