"Connectivity runs: what is measured is kept, published lines come back, and a rewound ticket is the study's own."
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml
from conftest import said

from lth_nb.connectivity import weights_at
from lth_nb.core import Paths
from lth_nb.data import load_dataset
from lth_nb.models import build_model
from lth_nb.rewinding import connectivity_table, run_connectivity
from lth_nb.run import run_transfers
from lth_nb.studyfile import EXAMPLE, parse_study
from lth_nb.training import Recipe

STUDY = parse_study(yaml.safe_load(EXAMPLE), "example.yaml")


def connect(paths, **changes):
    "Barriers at two rewind points and at the end, for the dense network and the mask of level 2, and transfers."
    usual = dict(
        rewinds=["0it", "20it", "60it"], levels=[0, 2], seeds=[0], orders=2, targets={"mnist_5k": 0.01}, points=5,
        images=200, paths=paths
    )
    return run_connectivity(STUDY, "digits", **{**usual, **changes})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    paths = Paths(tmp_path_factory.mktemp("measured"))
    return paths.root, connect(paths)


@pytest.fixture
def connected(measured, tmp_path):
    "A copy of a project with a finished run, and its lines."
    shutil.copytree(measured[0], tmp_path, dirs_exist_ok=True)
    return Paths(tmp_path), measured[1]


def test_lines_of_a_run(connected):
    "A pair for each level at each point with something left to train, and a transfer for each point."
    lines = connected[1]
    assert len(lines) == 2 * 2 + 3 and lines.barrier.dropna().ge(0).all()


def test_nothing_is_measured_twice(connected):
    paths, lines = connected
    before = connectivity_table(paths, "example").stat().st_mtime_ns
    assert len(connect(paths)) == len(lines)
    assert connectivity_table(paths, "example").stat().st_mtime_ns == before


def test_published_lines_come_back(connected):
    paths, lines = connected
    connectivity_table(paths, "example").unlink()
    assert connect(paths).seconds.tolist() == lines.seconds.tolist()


def test_rewound_to_the_studys_own_point_it_is_the_studys_own_ticket(connected):
    paths, lines = connected
    assert len(connect(paths, rewinds=["10it"], orders=0)) == len(lines) + 1
    published = pd.read_csv(connectivity_table(paths))
    assert len(published) == len(lines) + 1
    again = published.query("measure == 'transfer'").set_index("rewind")
    own = run_transfers(
        STUDY, "digits", "mnist_5k", ["ticket"], levels=[2], seeds=[0], fractions=0.01, paths=paths
    )
    assert again.loc[10, "test_accuracy"] == own.test_accuracy[0]


def test_an_unknown_recipe_is_named(tmp_path):
    assert "unknown ticket recipe" in said(lambda: connect(Paths(tmp_path), ticket_recipe="lth"))


def test_early_stopping_does_not_move_the_rewind_point():
    "With a high learning rate and a patience of one epoch, the best state is not the last one."
    digits, recipe = load_dataset("digits", fraction=0.1), Recipe(length="8ep", batch_size=32, lr=0.8)
    found = []
    for one in (recipe, replace(recipe, patience=1)):
        net = build_model("lenet_300_100", 10, image_size=8, channels=1, seed=0)
        found.append(weights_at(net, digits, one, 0, 30))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
