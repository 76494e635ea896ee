"""The papers' tables in data/papers: whole, consistent with themselves, and equal to the papers' texts where those are
at hand."""
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import prints_nan
from scipy.stats import ttest_ind_from_stats

from lth_nb.claims import CLAIMS, paper_table
from lth_nb.core import Paths
from lth_nb.over_targets import judge
from lth_nb.results import read_results, read_study_info, write_results
from lth_nb.statistics import holm

ROOT = Path(__file__).resolve().parents[1]
SEEDS = ROOT.parent/"shared"/"seeds"
NATURAL = ("CIFAR-10", "CIFAR-100", "Fashion-MNIST")
texts_at_hand = pytest.mark.skipif(
    not list(SEEDS.glob("*.txt")), reason="the papers' texts are not beside this checkout"
)


def tables(): return {p.stem: paper_table(p.stem) for p in sorted((ROOT/"data"/"papers").glob("*.csv"))}
def seed_text(number): return next(SEEDS.glob(f"{number}_*.txt")).read_text(encoding="utf-8")


def test_every_table_has_its_source():
    found = tables()
    sources = found.pop("sources")
    assert sorted(sources.file) == sorted(f"{name}.csv" for name in found)
    assert sources.mark.isin(["P", "C", "S"]).all() and sources.notna().all().all()


def test_sizes_add_up():
    sizes = tables()["sabatelli_table1"]
    assert len(sizes) == sizes.dataset.nunique() == 7
    assert (sizes.train + sizes.validation + sizes.test == sizes.total).all()
    assert sizes.domain.value_counts().to_dict() == {"pathology": 4, "art": 3}


def test_accuracies_fill_six_by_five():
    table, sizes = tables()["sabatelli_table2"], tables()["sabatelli_table1"]
    wide = table.assign(column=np.where(table.source == table.target, "own", table.source)).pivot(
        index="target", columns="column", values="mean"
    )
    assert wide.shape == (6, 5) and wide.notna().all().all()
    assert set(wide.columns) == {"", "own", *NATURAL} and set(wide.index) == set(sizes.dataset) - {
        "Artist-Classification-2"
    }
    assert ((table.arm == "scratch") == (table.source == "")).all()
    assert table["mean"].between(0, 100).all() and table["std"].between(0, 10, inclusive="neither").all()


def test_sparsities_fill_the_same_cells_and_two_leave_the_grid():
    accuracy, sparsity = tables()["sabatelli_table2"], tables()["sabatelli_table3"]
    assert len(sparsity) == 24
    keys = ["target", "source"]
    assert (
        sparsity[keys].apply(tuple, axis=1).tolist()
        == accuracy[accuracy.arm == "ticket"][keys].apply(tuple, axis=1).tolist()
    )
    grid = 1 - 0.8**np.arange(32)
    away = sparsity.sparsity.map(lambda s: np.abs(grid - s).min())
    assert sorted(sparsity.sparsity[away > 0.0006]) == [0.886, 0.963]


def test_welch_with_holm_keeps_24_of_24_and_10_of_18():
    table = tables()["sabatelli_table2"].set_index(["target", "source"])
    def welch(a, b):
        (m, s), (n, t) = table.loc[a, ["mean", "std"]], table.loc[b, ["mean", "std"]]
        return ttest_ind_from_stats(m, s, 4, n, t, 4, equal_var=False).pvalue
    tickets = [key for key in table.index if key[1]]
    over_scratch = np.array([welch(key, (key[0], "")) for key in tickets])
    natural = np.array([welch(key, (key[0], key[0])) for key in tickets if key[1] in NATURAL])
    assert (len(over_scratch), len(natural)) == (24, 18)
    assert (np.sum(holm(over_scratch) < 0.05), np.sum(holm(natural) < 0.05)) == (24, 10)


def test_reimplementation_and_sparse_transfer_are_whole():
    found = tables()
    morcos, mehta = found["morcos_reimplementation"], found["mehta"]
    optimizers = morcos[morcos.experiment == "optimizers"]
    assert set(zip(optimizers.ticket_optimizer, optimizers.optimizer)) == {
        (a, b) for a in ("SGD", "Adam") for b in ("SGD", "Adam")
    }
    assert sorted(morcos[morcos.experiment == "datasets"].arm) == ["scratch", "ticket", "weights_only"]
    assert len(mehta) == 5 and mehta[["least_density", "best_accuracy"]].notna().all().all()
    full = mehta[(mehta.target == "SmallNORB") & (mehta.freeze == "none")].set_index("pruning").least_density
    assert full["iterative"] < full["one-shot"]


@texts_at_hand
def test_tables_equal_the_papers_text():
    lines = [line.split("\t") for line in seed_text("001").splitlines() if "\t" in line]
    found = tables()
    start = next(i for i, line in enumerate(lines) if line[0] == "Dataset")
    for line, row in zip(lines[start + 1:], found["sabatelli_table1"].itertuples(index=False), strict=False):
        assert line == [str(v) for name, v in row._asdict().items() if name != "domain"]
    heads = [i for i, line in enumerate(lines) if line[0] == "Target-Dataset"]
    for name, head, columns in (
        ("sabatelli_table2", heads[0], ["mean", "std"]),
        ("sabatelli_table3", heads[1], ["sparsity"]),
    ):
        table, cells = found[name].set_index(["target", "source"])[columns], {}
        for target, *row in lines[head + 1:head + 7]:
            for column, cell in zip(lines[head][1:], row, strict=True):
                source = {"Scratch-Training": "", "Target-Ticket": target}.get(column, column)
                if cell != "-": cells[target, source] = tuple(float(v) for v in cell.split(r"\pm"))
        assert cells == {key: tuple(row) for key, row in zip(table.index, table.to_numpy().tolist())}
    settings = {
        line[0]: line[1] for line in lines[next(i for i, line in enumerate(lines) if line[0] == "Hyperparameter") + 1 :]
    }
    def plain(text):
        return re.sub(r"[\s\[\],]+", " ", text.replace("10^{-1}", "0.1").replace("10^{-5}", "1e-5")).strip()
    ours = found["sabatelli_table4"].set_index("hyperparameter").value
    assert {re.sub(r" [ρα]$", "", key): plain(value) for key, value in settings.items()} == ours.to_dict()


@texts_at_hand
@pytest.mark.parametrize("claim", [c for c in CLAIMS.values() if c.quoted], ids=lambda c: c.id)
def test_quotes_stand_in_the_papers(claim):
    def plain(text):
        return re.sub(r"\s+", " ", re.sub(r"[`$\\]|\bapprox\b|≈", "", text))
    paper = plain(seed_text({"S": "001", "M": "002", "T": "003"}[claim.id[0]]))
    for part in claim.words.split(" … "): assert plain(part) in paper, part


def numbers_of_claims():
    "What the claims cite, written anew from the tables; claims without a number in them are left out."
    found = tables()
    two = found["sabatelli_table2"].set_index(["target", "source"])["mean"]
    own = {t: two[t, t] for t in two.index.unique("target")}
    natural = {t: two[t][list(NATURAL)] for t in own}
    art = [t for t in own if found["sabatelli_table1"].set_index("dataset").domain[t] == "art"]
    morcos, mehta = found["morcos_reimplementation"], found["mehta"]
    by_source = morcos[morcos.experiment == "datasets"].set_index("source").accuracy
    by_optimizer = morcos[morcos.experiment == "optimizers"]
    pruned = {e: part.sparsity.max() for e, part in morcos.groupby("experiment")}
    norb = mehta[mehta.target == "SmallNORB"]
    full, frozen = (
        norb[norb.freeze == "none"].set_index("pruning").least_density,
        norb[norb.freeze == "backbone"].set_index("head"),
    )
    assert frozen.least_density.nunique() == 1
    return {
        "S1": "best ticket / scratch: " + ", ".join(f"{t} {max(two[t].drop('')):.2f} / {two[t, '']:.2f}" for t in own),
        "S2": "points over the target's own: "
        + ", ".join(f"{t} {(natural[t] - own[t]).min():+.2f} to {(natural[t] - own[t]).max():+.2f}" for t in art),
        "S3": "points over the best natural: "
        + ", ".join(
            f"{t} {own[t] - natural[t].max():+.2f}" for t in ("Human-LBA", "Lung-Tissues", "Bone-Marrow", "Mouse-LBA")
        ),
        "M1": f"re-implementation, VGG19 on CIFAR-10, {pruned['datasets']:g}% pruned: own {by_source['CIFAR-10']:.2f}, "
              f"from CIFAR-100 {by_source['CIFAR-100']:.2f}, dense {by_source['']:.2f}",
        "M2": f"re-implementation, VGG19 on CIFAR-10, {pruned['datasets']:g}% pruned: from CIFAR-100 "
              f"{by_source['CIFAR-100']:.2f}, own {by_source['CIFAR-10']:.2f}",
        "M3": f"re-implementation, {pruned['optimizers']:g}% pruned, found with - trained with: "
        + ", ".join(f"{r.ticket_optimizer} - {r.optimizer} {r.accuracy:.2f}" for r in by_optimizer.itertuples()),
        "T1": f"ResNet-18, least weights left: SmallNORB {full['iterative']:.1f}%, Fashion-MNIST "
              f"{mehta[mehta.target == 'Fashion-MNIST'].least_density.item():.1f}%",
        "T3": f"SmallNORB, least weights left: iterative {full['iterative']:.1f}%, one-shot {full['one-shot']:.1f}%",
        "T4": f"SmallNORB: linear {frozen.best_accuracy['linear']:.2f}, two-layer {frozen.best_accuracy['mlp']:.2f}, "
              f"both won down to {frozen.least_density.iloc[0]:g}% left"
    }


def test_numbers_that_claims_cite_are_the_tables():
    ours = numbers_of_claims()
    assert {id: CLAIMS[id].numbers for id in ours} == ours
    typed = {id for id, claim in CLAIMS.items() if re.search(r"\d", re.sub(r"\b[A-Z]\d+\b", "", claim.numbers))}
    assert typed - set(ours) == {"S7"}  # read off a figure; no table has it


def test_effects_of_claims_are_the_tables():
    "The paper's differences that forest plots show, computed anew from its tables."
    found = tables()
    two = found["sabatelli_table2"].set_index(["target", "source"])["mean"]
    domain = found["sabatelli_table1"].set_index("dataset").domain
    morcos = found["morcos_reimplementation"]
    of = morcos[morcos.experiment == "datasets"].set_index("source").accuracy
    by = morcos[morcos.experiment == "optimizers"].set_index(["ticket_optimizer", "optimizer"]).accuracy
    targets = two.index.unique("target")
    mean_natural = {t: two[t][list(NATURAL)].mean() for t in targets}
    expected = {
        "S1": {t: two[t].drop("").mean() - two[t, ""] for t in targets},
        "S2": {t: mean_natural[t] - two[t, t] for t in targets if domain[t] == "art"},
        "S3": {t: two[t, t] - mean_natural[t] for t in targets if domain[t] == "pathology"},
        "M1": {"CIFAR-10": of["CIFAR-100"] - of["CIFAR-10"]},
        "M3": {
            "re-implementation": (by["Adam", "SGD"] - by["SGD", "SGD"] + by["SGD", "Adam"] - by["Adam", "Adam"]) / 2
        },
    }
    assert {id for id, claim in CLAIMS.items() if claim.effects} == set(expected)
    for id, effects in expected.items(): assert CLAIMS[id].effects == pytest.approx(effects, abs=0.006), id


def test_numbers_on_the_protocol_page_are_those_of_the_study_files():
    "What is typed there of a paper stands in its study file, and so under a mark."
    from lth_nb.study import load_study
    cells = [
        "".join(c["source"])
        for c in json.loads((ROOT / "nbs" / "about" / "protocol.ipynb").read_text())["cells"]
        if c["cell_type"] == "code"
    ]
    page = dict(paper_table=paper_table, load_study=load_study)
    exec("from lth_nb.training import Recipe\nfrom lth_nb.tickets import TicketRecipe", page)
    for start in ("table4 = ", "networks = ", "training = ", "pruning = "):
        exec(next(c for c in cells if start in c and "side_by_side(" not in c), page)
    def plain(text):
        return {
            float(n.replace(",", ""))
            for n in re.findall(
                r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?:e-\d+)?", re.sub(r"(?:ResNet|VGG|CIFAR|Places)-?\d+", "", str(text))
            )
        }
    for place, paper in enumerate(("sabatelli", "morcos", "mehta"), 1):
        study = load_study(f"paper-{paper}")
        text = (ROOT/"nbs"/"studies"/f"paper-{paper}.yaml").read_text().replace("it", " ").replace("ep", " ")
        t = study.ticket_recipes["base"]
        known = plain(re.sub(r"(?<=\d)\.0e", "e", text)) | {
            round(100 * t.rate),
            round(100 * (1 - t.density_at(t.rounds)), 2),
            len(study.seeds),
        }
        typed = set().union(*(plain(row[place][0]) for row in page["networks"] + page["training"] + page["pruning"]))
        assert typed and not typed - known, (paper, typed - known)


# Every page on every valid table

PAGES = [*sorted((ROOT/"nbs"/"papers").glob("*.ipynb")), ROOT/"nbs"/"site"/"results.ipynb", ROOT/"nbs"/"index.ipynb"]


def committed(study):
    "Rows and information of a committed study, as it would be published anew."
    file = ROOT/"data"/"results"/f"{study}.csv"
    info = read_study_info(file)
    return read_results(file), {k: v for k, v in info.items() if k not in ("provenance", "table_sha256")}


def few_levels(rows): return rows[rows["level"].isin([0, 3, 6, 9])]


def renamed(rows, info):
    "A study whose recipes have other names than ours."
    names = {"base": "usual", "lr-0.1": "fast"}
    rows = rows.assign(recipe=rows["recipe"].replace(names), ticket_recipe=rows["ticket_recipe"].replace(names))
    named = {key: {names.get(n, n): r for n, r in info[key].items()} for key in ("recipes", "ticket_recipes")}
    return rows, info | named


def one_pair(rows, info):
    "What `add_a_data_set` makes: two seeds, three arms, one foreign source and the target's own, no roles."
    usual = (
        rows["arm"].isin(["ticket", "reinit", "scratch", "imp"])
        & (rows["recipe"] == "base")
        & rows["ticket_recipe"].isin(["", "base"])
    )
    return rows[usual & (rows["seed"] < 2) & (rows["target"] == "digits")], info | {"roles": {}}


TABLES = {  # what is left of a committed table
    "no rows": lambda rows, info: (rows[:0], info),
    "only searches": lambda rows, info: (rows[rows["arm"] == "imp"], info),
    "one target": lambda rows, info: (rows[(rows["target"] == "digits") & (rows["seed"] < 3)], info),
    "two seeds": lambda rows, info: (rows[rows["seed"] < 2], info),
    "one seed": lambda rows, info: (rows[rows["seed"] == 0], info),
    "one arm": lambda rows, info: (rows[(rows["arm"] == "ticket") & (rows["seed"] < 2)], info),
    "only scratch": lambda rows, info: (rows[rows["arm"] == "scratch"], info | {"ticket_recipes": {}}),
    "no scratch": lambda rows, info: (rows[(rows["arm"] != "scratch") & (rows["seed"] < 2)], info),
    "one row": lambda rows, info: (rows[rows["arm"] == "ticket"][:1], info),
    "other names": lambda rows, info: renamed(rows[rows["seed"] < 2], info),
    "one pair": one_pair,
}


def shown(page, study):
    "The cells of a page with what they show for a study; fails with the cell that fails."
    from execnb.shell import CaptureShell
    cells, shell = json.loads(page.read_text(encoding="utf-8"))["cells"], CaptureShell(page)
    for i, cell in enumerate(cells):
        if cell["cell_type"] != "code": continue
        cell["outputs"] = json.loads(json.dumps(list(shell.run("".join(cell["source"])))))
        if "parameters" in cell["metadata"].get("tags", []): shell.run(f"study = {study!r}")
        assert shell.exc is None, f"{page.name}, cell {i + 1}: {type(shell.exc).__name__}: {shell.exc}"
    return cells


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project folder with our pages and the papers' tables, and no study."
    (tmp_path/"data").mkdir()
    for name in ("nbs", "lth_nb", "data/papers"): (tmp_path/name).symlink_to(ROOT/name)
    monkeypatch.setenv("LTH_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT/"nbs"/"papers")
    yield Paths(tmp_path)
    assert os.environ["LTH_HOME"] == str(tmp_path)


def publish(project, rows, info):
    "Write a table and judge it, as `lth results publish` does."
    table = project.results/f"{info['study']}.csv"
    write_results(rows, info, table)
    judge(table)


def check_pages(project, rows, info, study="part"):
    publish(project, rows.assign(study=study), info | {"study": study})
    for page in PAGES:
        cells = shown(page, study)
        assert not prints_nan(cells), f"{page.name} prints nan"
        empty = [
            o
            for c in cells
            for o in c.get("outputs", [])
            if "Empty DataFrame" in "".join(o.get("data", {}).get("text/plain", ""))
        ]
        assert not empty, f"{page.name} shows an empty table instead of words"


ODD = [name if name in ("one seed", "one row") else pytest.param(name, marks=pytest.mark.slow) for name in TABLES]


@pytest.mark.parametrize("name", ODD)
def test_every_page_works_on_every_valid_table(project, name):
    "No page fails, prints `nan` or shows an empty table, whatever rows a study has."
    rows, info = committed("quick")
    check_pages(project, *TABLES[name](few_levels(rows), info))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one target", "two seeds", "one seed", "no scratch"])
def test_every_page_works_on_parts_of_the_small_study(project, name):
    rows, info = committed("small")
    rows = rows[rows["target"].isin(["heritage_elements", "white_blood_cells"])].replace(
        {"target": {"white_blood_cells": "digits"}}
    )
    check_pages(project, *TABLES[name](rows.replace({"source": {"white_blood_cells": "digits"}}), info))


def test_a_table_with_one_seed_says_so(project):
    rows, info = committed("quick")
    publish(project, rows[rows["seed"] == 0].assign(study="part"), info | {"study": "part"})
    text = json.dumps(shown(ROOT/"nbs"/"papers"/"sabatelli_fig1.ipynb", "part"))
    assert (
        "1 seed per target cannot decide a claim" in text
        and "every target has one seed, and a comparison needs two" in text
    )


def test_a_run_with_the_same_results_changes_no_file(project):
    "Networks trained again take other seconds, on another day: table, description and figures stay as they are."
    rows, info = committed("quick")
    rows, info = few_levels(rows[rows["seed"] < 2]).assign(study="part"), info | {"study": "part"}
    page = ROOT/"nbs"/"papers"/"sabatelli_fig1.ipynb"

    def files():
        return {
            p: (p.read_bytes(), p.stat().st_mtime_ns)
            for folder in (project.results, project.figures)
            for p in folder.glob("part*")
        }

    publish(project, rows, info)
    shown(page, "part")
    before = files()
    assert {p.suffix for p in before} == {".csv", ".json", ".png"}
    again = rows.assign(seconds=rows["seconds"] * 1.7 + 1, commit="0123456789ab+", torch="9.9.9", device="another")
    publish(project, again, info)
    shown(page, "part")
    assert files() == before

    better = again.assign(
        test_accuracy=again["test_accuracy"].where(again["arm"] != "reinit", again["test_accuracy"] / 2)
    )
    publish(project, better, info)
    shown(page, "part")
    after = files()
    assert after.keys() == before.keys() and all(after[p][0] != before[p][0] for p in before), (
        "another result did not reach every file"
    )
