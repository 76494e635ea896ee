"A cell that is killed keeps its rows, trains only what is missing, and ends with the same table."
import shutil
from contextlib import contextmanager

import pandas as pd
import pytest
import yaml
from conftest import said

import lth_nb.run
from lth_nb.core import Paths
from lth_nb.grid import cell_name, transfer_cells
from lth_nb.results import diverged
from lth_nb.run import run_cell, run_tickets, run_transfers
from lth_nb.studyfile import EXAMPLE, parse_study

STUDY = parse_study(yaml.safe_load(EXAMPLE), "example.yaml")


def results_of(frame): return frame[[c for c in frame if c not in ("seconds", "commit")]]
def same(a, b): pd.testing.assert_frame_equal(results_of(a), results_of(b))


def train(paths):
    "Five networks on a tenth of the digits."
    arms = ["ticket", "reinit", "scratch"]
    return run_transfers(STUDY, "own", "digits", arms, levels=[2, 4], seeds=[0], fractions=0.1, paths=paths)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    paths = Paths(tmp_path_factory.mktemp("whole"))
    return paths.root, train(paths)


@pytest.fixture
def whole(trained, tmp_path):
    "A copy of a project in which the five networks were trained without a break, and their table."
    shutil.copytree(trained[0], tmp_path/"whole")
    return Paths(tmp_path/"whole"), trained[1]


@pytest.fixture
def count(monkeypatch):
    "Interrupt `transfer` after some networks, as a power cut would; yields the calls."
    real = lth_nb.run.transfer

    @contextmanager
    def dying_after(limit):
        calls = []
        def train_or_die(arm, *a, **k):
            calls.append(arm)
            if len(calls) > limit: raise KeyboardInterrupt
            return real(arm, *a, **k)
        monkeypatch.setattr(lth_nb.run, "transfer", train_or_die)
        try: yield calls
        except KeyboardInterrupt: pass
        finally: monkeypatch.setattr(lth_nb.run, "transfer", real)
    return dying_after


def test_a_killed_cell_trains_what_is_missing(whole, count, tmp_path):
    paths, table = Paths(tmp_path), whole[1]
    with count(3) as calls: train(paths)
    assert len(calls) == 4
    with count(100) as calls: same(train(paths), table)
    assert len(calls) == 5 - 3
    with count(0) as calls: same(train(paths), table)
    assert calls == []


def test_a_lost_table_comes_back_from_its_journal(whole, count):
    paths, table = whole
    for file in paths.runs.rglob("*.csv"):
        if ".rows" not in file.suffixes: file.unlink()
    with count(0) as calls: same(train(paths), table)
    assert calls == []


def test_rows_made_from_other_images_are_made_again(whole, count):
    paths, table = whole
    for file in paths.runs.rglob("own*.rows.csv"):
        file.write_text(file.read_text().replace(table.data_hash[0], "0" * 12))
        file.with_name(file.name.replace(".rows", "")).unlink()
    with count(100) as calls: same(train(paths), table)
    assert len(calls) == 4
    with count(0) as calls: train(paths)
    assert calls == []


def wild(**changes):
    "A study with a recipe whose loss becomes infinite."
    recipes = {"base": {"length": "60it", "batch_size": 32}, "lr-1e9": {"like": "base", "lr": 1e9}}
    grid = dict(targets="digits", fractions=0.1, arms="scratch", recipes=["base", "lr-1e9"])
    content = {**yaml.safe_load(EXAMPLE), "recipes": recipes, "transfers": [grid], "seeds": 0, **changes}
    return parse_study(content, "example.yaml")


def test_networks_that_may_diverge_have_a_row(tmp_path):
    strict, lenient = wild(), wild(may_diverge="lr-1e9")
    (cell,) = transfer_cells(strict)
    assert "the training loss became" in said(lambda: run_cell(strict, cell, Paths(tmp_path)), FloatingPointError)
    assert cell_name(lenient, cell) == cell_name(strict, cell), "what is finished stays"
    rows = run_cell(lenient, cell, Paths(tmp_path))
    assert dict(zip(rows.recipe, diverged(rows))) == {"base": False, "lr-1e9": True}
    words = "may_diverge = 'lr-1': unknown recipe; use one of base, lr-1e9"
    assert words in said(lambda: wild(may_diverge="lr-1"))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    "A project with tickets of two seeds, and their table."
    paths = Paths(tmp_path_factory.mktemp("searched"))
    return paths, run_tickets(STUDY, "digits", 0.1, seeds=[0, 1], paths=paths)


def test_tickets_that_are_there_say_where_they_were_found(searched, monkeypatch):
    paths, found = searched
    monkeypatch.setattr(lth_nb.run, "provenance", lambda: dict(device="cpu", torch="0", commit="later"))
    pd.testing.assert_frame_equal(run_tickets(STUDY, "digits", 0.1, seeds=[0, 1], paths=paths), found)
    files = sorted(p.name for p in paths.tickets.rglob("*.safetensors"))
    assert files == ["seed0.safetensors", "seed1.safetensors"]


def test_changes_of_a_recipe_are_in_its_name(searched):
    paths, one = searched[0], dict(levels=[1], seeds=[0], fractions=0.1, paths=searched[0])
    assert run_transfers(STUDY, "own", "digits", ["ticket"], changes={"lr": 0.03}, **one).recipe.tolist() == [
        "base lr=0.03"
    ]
    few = {"rounds": 1, "length": "20it"}
    brief = run_tickets(STUDY, "digits", 0.1, seeds=[0], changes=few, paths=paths)
    assert brief.ticket_recipe.unique().tolist() == ["base rounds=1 length=20it"] and brief.steps.tolist() == [20, 20]
    rows = run_transfers(STUDY, "own", "digits", ["ticket"], ticket_changes=few, **one)
    assert rows.ticket_hash.tolist() == brief.ticket_hash.unique().tolist()


@pytest.mark.parametrize("call, words", [
    (lambda paths: run_tickets(STUDY, "digits", changes={"pace": 1}, paths=paths), "unknown key"),
    (lambda paths: run_transfers(STUDY, "own", "digits", ["tickets"], paths=paths), "unknown arm"),
    (
        lambda paths: run_transfers(STUDY, "own", "digits", ["ticket"], changes={"rate": 1}, paths=paths),
        "unknown key"
    ),
    (
        lambda paths: run_tickets(STUDY, "digits", ticket_recipe="lth", paths=paths),
        "unknown ticket recipe; use one of base, one-shot"
    ),
], ids=["pace", "arm", "rate", "recipe"])
def test_parameters_that_do_not_exist_are_named(tmp_path, call, words):
    assert words in said(lambda: call(Paths(tmp_path)))
