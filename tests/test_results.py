"Results tables: what is written is read back bit for bit, a kill loses one row, and a description fits its table."
import hashlib
import math

import numpy as np
import pandas as pd
import pytest
from conftest import said

from lth_nb.columns import check_rows, row_key
from lth_nb.core import Paths
from lth_nb.results import (
    append_row,
    published_studies,
    read_results,
    read_study_info,
    table_hash,
    write_results,
    write_rows,
    write_study_info,
)

INFO = dict(
    study="example", scale="Made-up rows that show the format.",
    roles={"natural": ["digits"], "related": [["digits", "mnist_5k"]]}, recipes={"base": {"length": "80it"}},
    ticket_recipes={"base": {}}, models=["lenet_300_100"], seeds=[0, 1]
)


def row(**changes):
    "A made-up row."
    made = dict(
        study="example", arm="ticket", source="digits", source_fraction=1.0, ticket_recipe="base", target="mnist_5k",
        fraction=0.1, model="lenet_300_100", recipe="base", freeze="none", head="linear", seed=0, level=2,
        density=0.36, val_accuracy=0.8, test_accuracy=0.75, val_loss=0.5, test_loss=0.6, best_epoch=5, epochs=5,
        seconds=1.5, dead_layers=0, params=96000, flops=95000.0, device="cpu", torch="2", commit="", steps=80,
        recipe_hash="0012", ticket_hash="1e5", data_hash="", source_hash=""
    )
    return made | changes


def table(*seeds): return check_rows([row(seed=s) for s in seeds])


def test_a_table_read_twice_is_the_readers_own(tmp_path):
    "Tables are remembered: a reader that changes one must not change what the next one reads."
    file = tmp_path/"example.csv"
    write_rows([row(seed=s) for s in (0, 1)], file)
    first = read_results(file)
    first["test_accuracy"] = 0.0
    assert read_results(file).test_accuracy.tolist() == [0.75, 0.75]
    write_rows([row(seed=0, test_accuracy=0.5)], file)
    assert read_results(file).test_accuracy.tolist() == [0.5]


def test_rows_are_forced_to_disk_at_most_once_per_second(tmp_path, monkeypatch):
    calls, now = [], [100.0]
    monkeypatch.setattr("lth_nb.results.os.fsync", lambda file: calls.append(now[0]))
    monkeypatch.setattr("lth_nb.results.time.monotonic", lambda: now[0])
    for seed in range(30):
        append_row(row(seed=seed), tmp_path/"run.rows.csv")
        assert read_results(tmp_path/"run.rows.csv").seed.tolist() == list(range(seed + 1))  # a kill here loses none
        now[0] += 0.2
    assert len(calls) == 6 and calls[0] == 100.0
    append_row(row(seed=30), tmp_path/"other.rows.csv")
    assert len(calls) == 7  # every journal by itself


@pytest.fixture(scope="module")
def many():
    "Rows whose losses have all sizes that a float can have."
    random = np.random.default_rng(0)
    sizes = [random.exponential() * 10.0 ** random.integers(-300, 300) for _ in range(200)]
    return [row(seed=s, test_accuracy=random.random(), test_loss=size) for s, size in enumerate(sizes)]


def test_a_table_is_read_back_bit_for_bit(many, tmp_path):
    wrote = write_rows(many[::-1], tmp_path/"first.csv")
    read = read_results(tmp_path/"first.csv")
    pd.testing.assert_frame_equal(read, wrote, check_exact=True)
    assert read.test_accuracy.tolist() == [r["test_accuracy"] for r in many]
    assert read.recipe_hash[0] == "0012" and read.ticket_hash[0] == "1e5"
    write_rows(read, tmp_path/"second.csv")
    text = (tmp_path/"first.csv").read_bytes()
    assert (tmp_path/"second.csv").read_bytes() == text
    assert table_hash(wrote) == hashlib.sha256(text).hexdigest()


def test_an_empty_table_is_a_table(tmp_path):
    write_rows([], tmp_path/"none.csv")
    assert len(read_results(tmp_path/"none.csv")) == 0


def test_a_table_that_is_missing_or_damaged_is_named(tmp_path):
    file = tmp_path/"first.csv"
    assert "no such results table" in said(lambda: read_results(file), FileNotFoundError)
    file.write_text("study,arm\na,b,c\n")
    assert "row 1 has 3 cells, not 2 like the header" in said(lambda: read_results(file))
    words = "first.csv: row 1, column 'density': '2' is not allowed"
    assert words in said(lambda: write_rows([row(density=2)], file))


def test_a_kill_at_any_byte_loses_at_most_one_row(tmp_path):
    "And the repeated run ends with the same file, which is also what one call writes."
    run = tmp_path/"run.rows.csv"
    rows = [row(seed=s, test_loss=loss) for s, loss in enumerate((1e22, 5e-324, math.inf, math.nan))]
    ends = []
    for r in rows:
        append_row(r, run)
        ends.append(run.stat().st_size)
    whole = run.read_bytes()
    for cut in range(0, len(whole) + 1, 37):
        run.write_bytes(whole[:cut])
        done = {row_key(r) for r in read_results(run).to_dict("records")}
        assert len(done) == sum(end <= cut for end in ends)
        for r in rows:
            if row_key(r) not in done: append_row(r, run)
        assert run.read_bytes() == whole
    write_rows(rows, tmp_path/"table.csv")
    assert (tmp_path/"table.csv").read_bytes() == whole


@pytest.mark.parametrize("changes, words", [
    (dict(level=0), "breaks the rule that level 0 has density 1"),
    (dict(accuracy=1), "unknown column accuracy"),
    (dict(seed=-1), "column 'seed': '-1' is not allowed"),
])
def test_a_row_that_breaks_a_rule_is_not_appended(tmp_path, changes, words):
    assert words in said(lambda: append_row(row(**changes), tmp_path/"run.rows.csv"))
    assert not (tmp_path/"run.rows.csv").exists()


def test_a_journal_with_other_columns_is_not_appended_to(tmp_path):
    (tmp_path/"run.rows.csv").write_text("study,arm\n")
    assert "other columns" in said(lambda: append_row(row(), tmp_path/"run.rows.csv"))


@pytest.fixture
def published(tmp_path):
    "The table of a study of two seeds, with its description."
    write_results(table(0, 1), INFO, tmp_path/"example.csv")
    return tmp_path/"example.csv"


def test_a_description_belongs_to_its_table(published):
    info = read_study_info(published)
    assert info["table_sha256"] == table_hash(table(0, 1))
    assert {k: info[k] for k in INFO} == INFO
    write_rows(table(1, 2), published)
    assert "differs from table_sha256 in example.json" in said(lambda: read_study_info(published))
    other = published.with_name("other.csv")
    assert "description is missing" in said(lambda: read_study_info(other), FileNotFoundError)


def test_tables_without_a_description_are_no_studies(tmp_path):
    home = Paths(tmp_path)
    home.results.mkdir(parents=True)
    assert published_studies(home) == {}
    write_results(table(0, 1), INFO, home.results/"example.csv")
    write_rows(table(0, 1), home.results/"pieces.csv")
    assert list(published_studies(home)) == ["example"]


@pytest.mark.parametrize("info, words", [
    ({"study": "example"}, "scale, roles, recipes"),
    (INFO | {"roles": {"nature": []}}, "unknown role nature; use natural"),
    (INFO | {"roles": {"related": ["digits"]}}, "role 'related' contains 'digits'"),
])
def test_a_wrong_description_is_refused(published, info, words):
    before = published.with_suffix(".json").read_bytes()
    assert words in said(lambda: write_study_info(published, info))
    assert published.with_suffix(".json").read_bytes() == before


def test_rows_of_another_study_are_not_published(published):
    before = published.read_bytes()
    words = "rows of study example, not 'other'"
    assert words in said(lambda: write_results(table(0, 1), INFO | {"study": "other"}, published))
    assert published.read_bytes() == before


def test_the_same_results_change_no_file(published):
    "Other seconds, commits and machines do not count; another scale and another result do."
    def files(): return published.read_bytes(), published.with_suffix(".json").read_bytes()
    before, rows = files(), table(0, 1)
    again = rows.assign(seconds=rows.seconds + 1, commit="another", torch="9.9", device="a GPU")
    assert write_results(again, INFO, published).seconds.tolist() == read_results(published).seconds.tolist()
    assert files() == before
    write_results(again, INFO | {"scale": "Another scale."}, published)
    assert published.read_bytes() == before[0] and read_study_info(published)["scale"] == "Another scale."
    write_results(again.assign(test_accuracy=rows.test_accuracy / 2), INFO, published)
    assert read_results(published).commit.unique().tolist() == ["another"]
