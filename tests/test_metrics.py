"Balanced accuracy, macro AUC and class weights are there when asked for, and change nothing when not."
import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from lth_nb.core import Paths
from lth_nb.data import load_dataset
from lth_nb.metrics import METRICS, class_scores, measure
from lth_nb.models import build_model
from lth_nb.results import OPTIONAL, SCHEMA, check_rows, merge_rows, read_results, rows_text
from lth_nb.run import run_cell, run_search
from lth_nb.study import (
    load_study,
    publish,
    restore,
    run_tickets,
    run_transfers,
    study_info,
    ticket_cells,
    transfer_cells,
)
from lth_nb.training import Recipe, balanced_weights, train

COLUMNS = ["val_balanced_accuracy", "test_balanced_accuracy", "val_macro_auc", "test_macro_auc"]


def rare(data, kept=6):
    "A data set of which classes 5 to 9 have a few training images each."
    few = torch.cat([(data.train_labels == c).nonzero()[:kept if c > 4 else None, 0] for c in range(10)])
    return replace(data, train_images=data.train_images[few], train_labels=data.train_labels[few], content_hash="rare")


def test_committed_tables_and_recipes_are_what_they_were():
    for name in ("quick", "small"):
        path = ROOT/"data"/"results"/f"{name}.csv"
        text = path.read_text()
        assert rows_text(read_results(path)) == text and text.splitlines()[0] == ",".join(c.name for c in SCHEMA)
        hashes = {}
        for row in csv.DictReader(text.splitlines()): hashes.setdefault(row["recipe"], set()).add(row["recipe_hash"])
        study = load_study(name)
        assert all(hashes[n] == {r.hash} for n, r in study.recipes.items() if n in hashes) and hashes
        assert "metrics" not in study_info(study) and not any(
            "class_weights" in r for r in study_info(study)["recipes"].values()
        )


def test_the_metrics_are_those_of_scikit_learn():
    data, recipe = rare(load_dataset("digits")), Recipe(length="60it", batch_size=32, lr=0.05)
    net = build_model("lenet_300_100", 10, 8, 1)
    train(net, data, recipe)
    labels, scores = class_scores(net, data, "test", recipe)
    found = measure(net, data, recipe, tuple(METRICS))
    assert found["test_balanced_accuracy"] == balanced_accuracy_score(labels, scores.argmax(1))
    assert found["test_macro_auc"] == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr", average="macro"))
    two = labels < 2
    assert METRICS["macro_auc"](labels[two], scores[two]) == pytest.approx(
        np.mean([roc_auc_score(labels[two] == c, scores[two][:, c]) for c in (0, 1)])
    )


def test_class_weights_help_rare_classes_and_are_what_torch_computes():
    data, recipe = rare(load_dataset("digits")), Recipe(length="100it", batch_size=64, lr=0.02)
    weights = balanced_weights(data)
    counts = torch.bincount(data.train_labels).double()
    assert torch.allclose(weights * counts, torch.full((10,), len(data.train_labels) / 10).double())
    found = {}
    for way in (None, "balanced"):
        nets = [build_model("lenet_300_100", 10, 8, 1, seed=s) for s in range(3)]
        for s, net in enumerate(nets): train(net, data, replace(recipe, class_weights=way), s)
        found[way] = np.mean(
            [measure(net, data, recipe, ("balanced_accuracy",))["test_balanced_accuracy"] for net in nets]
        )
    assert found["balanced"] > found[None] + 0.01, found

    first = build_model("lenet_300_100", 10, 8, 1)  # one step against a plain loop
    ours, theirs = (build_model("lenet_300_100", 10, 8, 1) for _ in range(2))
    step = Recipe(
        length="1it", batch_size=len(data.train_labels), lr=0.1, momentum=0, nesterov=False, weight_decay=0,
        schedule="constant", class_weights="balanced"
    )
    train(ours, data, step)
    pixels = (data.train_images.permute(0, 3, 1, 2).float() / 255 - data.mean[0]) / data.std[0]
    torch.nn.functional.cross_entropy(theirs(pixels), data.train_labels, weight=weights.float()).backward()
    for (name, p), q in zip(theirs.named_parameters(), ours.parameters()):
        assert torch.allclose(p - 0.1 * p.grad, q, atol=1e-5), name
    assert not torch.equal(next(first.parameters()), next(ours.parameters()))


def test_a_class_without_images_weighs_nothing():
    data = load_dataset("digits")
    here = data.train_labels != 3
    less = replace(data, train_images=data.train_images[here], train_labels=data.train_labels[here])
    weights = balanced_weights(less)
    assert weights[3] == 0 and weights[less.train_labels].mean() == pytest.approx(1)


def published(home, text):
    "Run a study, and return its table's file."
    (home/"tiny.yaml").write_text(text)
    study, paths = load_study(home/"tiny.yaml", Paths(home)), Paths(home)
    for cell in ticket_cells(study): run_search(study, cell, paths)
    for cell in transfer_cells(study): run_cell(study, cell, paths)
    return study, publish(study, paths)


def test_a_study_has_the_columns_that_it_asks_for(home):
    plain, table = published(home, TINY)
    before = read_results(table)
    assert [*before] == [c.name for c in SCHEMA]
    asked, table = published(home, TINY + "metrics: [balanced_accuracy, macro_auc]\n")
    rows = read_results(table)
    assert (
        [*rows] == [c.name for c in SCHEMA] + COLUMNS
        and not rows[COLUMNS].isna().any(axis=None)
        and set(rows.arm) >= {"imp", "scratch", "ticket"}
    )
    results = [c.name for c in SCHEMA if not c.varies]
    assert rows[results].equals(before[results])  # the same networks, measured further; tickets were not found again
    described = (table.parent/"columns.csv").read_text()
    assert all(name in described for name in COLUMNS)
    assert len([*(home/"data"/"tickets").rglob("*.safetensors")]) == sum(len(c.seeds) for c in ticket_cells(asked))
    assert rows_text(rows) == table.read_text()

    for file in (home/"data"/"runs").rglob("*.csv"): file.unlink()
    assert restore(asked, Paths(home)) == len(rows)
    for file in (home/"data"/"runs").rglob("*.csv"): file.unlink()
    assert restore(plain, Paths(home)) == len(rows)  # without the columns that it does not ask for
    assert [*read_results(publish(plain, Paths(home)))] == [c.name for c in SCHEMA]
    for file in (home/"data"/"runs").rglob("*.csv"): file.unlink()
    assert restore(asked, Paths(home)) == 0  # rows without the columns do not count


def test_tables_with_and_without_the_columns_are_joined(home):
    rows = read_results(ROOT/"data"/"results"/"quick.csv").head(4)
    more = rows.iloc[2:].assign(test_macro_auc=[0.5, 0.75])
    joined = merge_rows([rows.iloc[:2], more])
    assert [*joined] == [c.name for c in SCHEMA] + ["test_macro_auc"] and sorted(joined.test_macro_auc.dropna()) == [
        0.5,
        0.75,
    ]
    with pytest.raises(ValueError, match="column 'test_macro_auc': '1.5' is not allowed"):
        check_rows(more.assign(test_macro_auc=1.5))
    with pytest.raises(ValueError, match="unknown column test_recall"): check_rows(more.assign(test_recall=1.0))
    assert {c.name for c in OPTIONAL} == {*COLUMNS}


def test_wrong_names_are_refused(home):
    for line, words in (("metrics: recall\n", "metrics"), ("", "class_weights")):
        text = TINY + line if line else TINY.replace("batch_size: 32}", "batch_size: 32, class_weights: heavy}")
        (home/"tiny.yaml").write_text(text)
        with pytest.raises(ValueError, match=f"tiny.yaml: .*{words}.*should be"):
            load_study(home/"tiny.yaml", Paths(home))


def test_a_study_with_class_weights_runs(home):
    (home/"tiny.yaml").write_text(TINY.replace("batch_size: 32}", "batch_size: 32, class_weights: balanced}"))
    study, paths = load_study(home/"tiny.yaml", Paths(home)), Paths(home)
    assert study_info(study)["recipes"]["base"]["class_weights"] == "balanced"
    found = run_tickets(study, "digits", 0.1, seeds=[0], paths=paths)
    moved = run_transfers(
        study, "digits", "mnist_5k", ["ticket"], [1], [0], [0.05], [0.1], freeze=["backbone"], paths=paths
    )
    assert len(found) == 4 and len(moved) == 1
