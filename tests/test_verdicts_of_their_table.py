"Verdicts belong to the table beside them; commands refuse what would lose or misread a table."
import json
import shutil

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from typer.testing import CliRunner

from lth_nb.answers import answer, read_findings
from lth_nb.cli import app
from lth_nb.core import Paths, device
from lth_nb.over_targets import JUDGED, judge, read_judged
from lth_nb.plan import check_lengths
from lth_nb.results import table_hash
from lth_nb.studyfile import EXAMPLE, parse_study, read_yaml


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A project with the table of the quick study."
    monkeypatch.setenv("LTH_HOME", str(tmp_path))
    paths = Paths(tmp_path)
    paths.results.mkdir(parents=True)
    for file in (ROOT/"data"/"results").glob("quick.*"): shutil.copy(file, paths.results)
    return paths


def lth(*words):
    done = CliRunner().invoke(app, [*map(str, words)])
    return done.exit_code, " ".join(done.output.split())


def piece(home, change, described=True):
    "A copy of the table, changed, with a description that fits."
    rows = pd.read_csv(home.results/"quick.csv", keep_default_na=False, dtype=str)
    file = home.root/"piece"/"quick.csv"
    file.parent.mkdir()
    change(rows).to_csv(file, index=False, lineterminator="\n")
    info = json.loads((home.results/"quick.json").read_text())
    from lth_nb.results import read_results
    info["table_sha256"] = table_hash(read_results(file))
    if described: file.with_suffix(".json").write_text(json.dumps(info))
    return file


def reversed_accuracies(rows): return rows.assign(test_accuracy=["0.01" if a == "ticket" else "0.99" for a in rows.arm])


def test_a_merged_table_is_judged_anew(home):
    code, before = lth("claims", "quick")
    file = piece(home, reversed_accuracies)
    code, said = lth("results", "merge", file, "-o", home.results/"quick.csv")
    assert code == 0 and "updated the verdicts" in said, said
    code, after = lth("claims", "quick")
    assert code == 0 and "digits -98.0" in after and "digits -98.0" not in before


def test_verdicts_of_another_table_are_refused(home):
    file = piece(home, reversed_accuracies)
    for suffix in (".csv", ".json"): shutil.copy(file.with_suffix(suffix), home.results)
    code, said = lth("claims", "quick")
    assert code == 1 and "its verdicts are from another version" in said, said
    judge(home.results/"quick.csv")
    assert lth("claims", "quick")[0] == 0


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n"])
def test_a_damaged_table_of_verdicts_is_named(home, content):
    (home.results/"quick.verdicts.csv").write_text(content)
    with pytest.raises(ValueError, match="quick.verdicts.csv: .* results publish quick"): read_judged("quick", home)


def test_pieces_without_descriptions_do_not_replace_a_published_table(home):
    before = (home.results/"quick.csv").read_bytes()
    shorter = piece(home, lambda r: r[:-40], described=False)
    code, said = lth("results", "merge", shorter, "-o", home.results/"quick.csv")
    assert code == 1 and "a published table with a description, but the pieces have none" in said
    assert (home.results/"quick.csv").read_bytes() == before


def test_targets_that_are_left_out_are_the_reason(home):
    info = json.loads((home.results/"quick.json").read_text())
    names = sorted({*pd.read_csv(home.results/"quick.targets.csv").target})
    info["left_out"] = dict.fromkeys(names, "for a test")
    (home.results/"quick.json").write_text(json.dumps(info))
    judge(home.results/"quick.csv")
    said = answer(read_findings("quick", paths=home), "S1")
    assert "every target with these comparisons is left out" in said and "for a test" in said


@pytest.mark.parametrize("words, said", [
    (("plan", "quick", "--images-per-second", "-5"), "--images-per-second -5.0: use a number above 0"),
    (("plan", "quick", "--images-per-second", "nan"), "use a number above 0"),
    (("run", "quick", "--first", "-3"), "Invalid value for '--first'"),
    (("run", "quick", "-n", "--first", "2"), "--first: leave it out with --dry-run"),
    (("run", "quick", "-n", "--profile", "nope"), "the profiles there are slurm"),
])
def test_numbers_and_profiles_are_checked_before_anything_is_shown(home, words, said):
    code, text = lth(*words)
    assert code != 0 and said in text, text


def test_every_judged_table_has_its_mark():
    for study in ("quick", "small", "cost"):
        assert set(read_judged(study, Paths(ROOT))) == {*JUDGED}


@pytest.mark.parametrize("change, words", [
    (("rewind: 10it", "rewind: 100ep"), "ticket_recipes.base.rewind = '100ep': later than the end of training, '60it'"),
    (("length: 60it", "length: 60it, warmup: 100ep"), "warmup = '100ep': later than the end"),
])
def test_lengths_after_the_end_are_found_when_images_are_known(change, words):
    text = EXAMPLE.replace(*change)
    assert text != EXAMPLE
    with pytest.raises(ValueError, match=words): check_lengths(parse_study(yaml.safe_load(text), "example.yaml"))


@pytest.mark.parametrize("number", ["010", "1:30", "-07"])
def test_numbers_that_yaml_reads_otherwise_are_refused(tmp_path, number):
    (tmp_path/"odd.yaml").write_text(f"seeds: [{number}]\n")
    with pytest.raises(ValueError, match=f"odd.yaml: line 1: YAML reads {number} as another number"):
        read_yaml(tmp_path/"odd.yaml")


@pytest.mark.parametrize("threads", ["0", "x", "-1"])
def test_a_number_of_threads_that_is_none(monkeypatch, threads):
    monkeypatch.setenv("LTH_THREADS", threads)
    with pytest.raises(ValueError, match=f"LTH_THREADS={threads}: use a whole number"): device("cpu")


def test_a_file_is_no_project(tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(ValueError, match="not a project folder; set LTH_HOME"): Paths(tmp_path/"file")
