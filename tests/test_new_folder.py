"""A folder of one's own: `lth init` lays it out, `lth doctor` tells whether the machine is ready, and rows say where
they went."""
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ENVIRONMENT, ROOT, TINY, run

from lth_nb.core import Paths
from lth_nb.layout import lay_out
from lth_nb.study import load_study, run_transfers


def lth(*words, cwd, check=True, **settings):
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), **settings}
    environment.pop("LTH_HOME", None)
    return run("lth_nb.cli", *words, cwd=cwd, env=environment, check=check)


@pytest.mark.slow
def test_init_makes_a_folder_in_which_a_study_runs(tmp_path):
    lth("init", "mine", cwd=tmp_path)
    mine = tmp_path/"mine"
    assert len((mine/"README.md").read_text().splitlines()) <= 10
    (mine/"studies"/"tiny.yaml").write_text(TINY.replace("seeds: [0, 1]", "seeds: [0]"))
    lth("run", "tiny", "--until", "results", cwd=mine)
    assert (mine/"data"/"results"/"tiny.csv").is_file() and sorted(p.name for p in tmp_path.iterdir()) == ["mine"]
    lth("plan", "quick", "--images-per-second", "1000", cwd=mine/"runs")
    done = lth("init", "mine", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "mine/studies/quick.yaml: already exists, so nothing was written" in done.stderr


def test_the_own_copy_of_a_study_comes_first(tmp_path):
    lay_out(tmp_path)
    file = tmp_path/"studies"/"quick.yaml"
    file.write_text(file.read_text().replace("seeds: [0, 1, 2, 3]", "seeds: [7, 8, 9]"))
    assert load_study("quick", Paths(tmp_path)).seeds == (7, 8, 9)


def test_a_notebook_that_runs_elsewhere_says_where_its_rows_went(home, tmp_path_factory, monkeypatch, capsys):
    study = load_study(home/"tiny.yaml", Paths(home))
    words = dict(source="", target="digits", arms=["scratch"], seeds=[0], fractions=[0.1], paths=Paths(home))
    monkeypatch.chdir(home)
    run_transfers(study, **words)
    assert "rows:" not in capsys.readouterr().out
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    run_transfers(study, **words)
    (said,) = [l for l in capsys.readouterr().out.splitlines() if l.startswith("rows: ")]
    file, folder = said.removeprefix("rows: ").split(" in ")
    assert folder == str(home) and (home/file).is_file() and file.startswith("data/runs/tiny/transfer/")


def test_the_doctor_finds_nothing_broken_here():
    done = lth("doctor", cwd=ROOT)
    parts = [line.split()[1] for line in done.stdout.splitlines()]
    assert {"Python", "packages", "runs", "device", "threads", "folders", "data", "kernel"} <= {
        *parts
    } and "broken" not in done.stdout
    assert {f["part"] for f in json.loads(lth("doctor", "--json", cwd=ROOT).stdout)} >= {"Python", "data"}


BROKEN = {  # part -> settings, and what is said
    "data": (dict(LTH_DATA="/no/such/folder"), "LTH_DATA names /no/such/folder, which is not a folder. Correct"),
    "threads": (dict(LTH_THREADS="0"), "LTH_THREADS='0': use a whole number, 1 or more"),
}


@pytest.mark.parametrize("part", BROKEN)
def test_the_doctor_names_the_cure(part, tmp_path):
    settings, words = BROKEN[part]
    done = lth("doctor", cwd=tmp_path, check=False, **settings)
    (line,) = [l for l in done.stdout.splitlines() if l.startswith("broken")]
    assert done.returncode == 1 and line.split()[1] == part and words in line


def test_the_doctor_sees_a_folder_a_lock_file_and_a_kernel_of_another_python(tmp_path):
    lay_out(tmp_path)
    (tmp_path/"data").write_text("a file")
    (tmp_path/"requirements.lock").write_text("torch==1.0.0\nno-such-package==2\n")
    kernels = tmp_path/"share"/"kernels"/"python3"
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text(
        json.dumps(dict(argv=[shutil.which("sh"), "-c", "{connection_file}"], display_name="other", language="python"))
    )
    done = lth("doctor", cwd=tmp_path, check=False, JUPYTER_PATH=str(tmp_path/"share"), JUPYTER_PREFER_ENV_PATH="0")
    states = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert done.returncode == 1
    assert (
        states["folders"].startswith("broken")
        and "cannot be written. Grant access, or set LTH_HOME" in states["folders"]
    )
    assert states["kernel"].startswith("broken") and "-m ipykernel install --sys-prefix" in states["kernel"]
    assert states["lock"].startswith("note") and "no-such-package missing (locked: 2)" in states["lock"]


def test_torchvision_can_be_used_in_ones_own_code(tmp_path):
    pytest.importorskip("lth_nb.references").use_torchvision()
    code = (
        "from lth_nb.references import use_torchvision; use_torchvision(); import torchvision; "
        "torchvision.models.resnet18()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True
    )
    assert done.returncode == 0, done.stderr
