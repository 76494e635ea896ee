"The wheel holds all that is needed without the checkout, and the README's commands exist."
import hashlib
import json
import re
import shlex
import subprocess
import sys
import time
import zipfile

import pytest
from conftest import ENVIRONMENT, ROOT, TINY, run
from typer.testing import CliRunner


@pytest.mark.slow
def test_wheel_works_without_the_checkout(tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir",
            str(tmp_path), str(ROOT)
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (
        ("nbs", "Snakefile"), ("nbs", "runs/*.ipynb"), ("nbs", "papers/*.ipynb"), ("nbs", "studies/*.yaml"),
        ("nbs", "profiles/*/config.yaml"), ("data", "papers/*.csv")
    ):
        for file in (ROOT/folder).glob(pattern): assert f"lth_nb/_shipped/{file.relative_to(ROOT)}" in names, file
    zipfile.ZipFile(wheel).extractall(tmp_path/"site")
    (tmp_path/"work").mkdir()
    code = (
        "import lth_nb, sys; assert lth_nb.__file__.startswith(sys.argv[1]); from lth_nb.cli import app; "
        "app(['plan', 'quick', '--images-per-second', '1000'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], cwd=tmp_path / "work",
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "networks" in done.stdout, done.stdout + done.stderr

    (tmp_path/"work"/"tiny.yaml").write_text(TINY.replace("seeds: [0, 1]", "seeds: [0]"))
    done = subprocess.run(
        [sys.executable, "-m", "lth_nb.cli", "run", "tiny.yaml", "--until", "results"], cwd=tmp_path / "work",
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "work" / "data" / "results" / "tiny.csv").is_file() and not list(
        (tmp_path / "site").rglob("*.safetensors")
    )

    done = subprocess.run(
        [sys.executable, "-m", "lth_nb.cli", "docs"],
        cwd=tmp_path / "work",
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 1
        and "the site is built from a checkout of the repository" in done.stderr
        and len(done.stderr.splitlines()) == 1
    ), done.stderr


@pytest.mark.parametrize(
    "name, text",
    [
        ("settings.ini", "[DEFAULT]\nlib_name = other\n"),
        pytest.param("pyproject.toml", "[project]\nname = 'other'\n[tool.nbdev]\n", marks=pytest.mark.slow),
    ],
    ids=["settings.ini", "pyproject.toml"],
)
def test_the_project_of_another_library_is_left_alone(tmp_path, name, text):
    "Somebody else's nbdev project, also from a folder inside it: nothing is written, and one sentence names LTH_HOME."
    (tmp_path / "other" / "nbs").mkdir(parents=True)
    (tmp_path / "other" / name).write_text(text)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("seeds: [0, 1]", "seeds: [0]"))
    before = sorted((tmp_path / "other").rglob("*"))
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    for command in (
        ("run", tmp_path / "tiny.yaml"),
        ("plan", "quick"),
        ("status", "quick"),
        ("claims", "quick"),
        ("docs",),
        ("data", "list"),
    ):
        done = run("lth_nb.cli", *command, cwd=tmp_path / "other" / "nbs", env=environment, check=False)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stdout + done.stderr
        assert f"{name}: this is the project of other, and lth_nb does not write into" in done.stderr, (
            done.stderr
        )
    run(
        "lth_nb.cli",
        "run",
        tmp_path / "tiny.yaml",
        "--until",
        "results",
        cwd=tmp_path / "other",
        env={**environment, "LTH_HOME": str(tmp_path / "mine")},
    )
    assert (tmp_path / "mine" / "data" / "results" / "tiny.csv").is_file()
    assert sorted((tmp_path / "other").rglob("*")) == before


def commands():
    "Lines of the README's shell blocks."
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", (ROOT/"README.md").read_text(), re.S)
    return [
        re.sub(r"\s+#.*", "", line).strip()
        for block in blocks
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
        if line.strip()
    ]


def test_every_command_of_the_readme_exists():
    from lth_nb.cli import app
    makefile, seen = (ROOT/"Makefile").read_text(), set()
    for line in commands():
        words = line.split()
        seen.add(words[0])
        if words[0] == "make": assert re.search(rf"^{words[1]}:", makefile, re.M), line
        elif words[0].endswith("lth"):
            named = [w for w in words[1:] if not w.startswith("-")]
            depth = 2 if named[0] in ("data", "ticket", "results") else 1
            assert CliRunner().invoke(app, [*named[:depth], "--help"]).exit_code == 0, line
        elif words[0].endswith("papermill"): assert (ROOT/words[1]).is_file(), line
        else: assert words[0] in ("git", "cd", "source", "python", "pip", ".venv/bin/pip"), line
    assert {"make"} <= seen


def test_the_readme_rerun_of_one_pair_works(home):
    (line,) = [c for c in commands() if "papermill" in c.split()[0]]
    words = shlex.split(line)
    words[2] = str(home/"out.ipynb")
    done = run("papermill", *[str(ROOT/words[1]), *words[2:]], "--cwd", ROOT/"nbs", home=home)
    assert (home/"out.ipynb").is_file() and list((home/"data"/"runs").rglob("*.csv")), done.stderr


def test_readme_is_short():
    assert len((ROOT/"README.md").read_text().splitlines()) <= 120


def test_committed_results_belong_together():
    "The table, its description, the study file and the README's verdicts are of one run."
    from lth_nb.answers import read_findings
    from lth_nb.over_targets import JUDGED, judged_tables
    from lth_nb.questions import found_in_readme
    from lth_nb.results import read_results, read_study_info
    from lth_nb.study import load_study, networks_of, study_info, ticket_cells, transfer_cells
    for name in ("quick", "small"):
        path = ROOT/"data"/"results"/f"{name}.csv"
        rows, info, study = read_results(path), read_study_info(path), load_study(name)
        planned = sum(len(networks_of(study, c)) for c in transfer_cells(study))
        searches = {
            (c.model, c.source, c.source_fraction, c.ticket_recipe, seed)
            for c in ticket_cells(study)
            for seed in c.seeds
        }
        planned += sum(study.ticket_recipes[recipe].rounds + 1 for *_, recipe, seed in searches)
        assert info.get("runs_missing") or len(rows) == planned, (
            f"{path.name} was not made by nbs/studies/{name}.yaml as it is now; run `lth run {name}`"
        )
        judged = judged_tables(rows, info)
        for table in JUDGED:
            text = path.with_suffix(f".{table}.csv").read_text(encoding="utf-8")
            assert judged[table].to_csv(index=False, lineterminator="\n") == text, (
                f"{name}.{table}.csv is not what the rows say; run `lth results publish {name}`"
            )
        now = json.loads(json.dumps(study_info(study)))
        assert {k: info[k] for k in now} == now, (
            f"data/results/{name}.json was not made by nbs/studies/{name}.yaml as it is now; run `lth run {name}`"
        )
    readme = (ROOT/"README.md").read_text()
    blocks = re.findall(r"<!-- found: ([\w]+?) \(.*?-->\n(.*?)\n<!-- /found -->", readme, flags=re.S)
    assert blocks
    for name, text in blocks: assert found_in_readme(read_findings(name)) == text, f"run `lth results publish {name}`"


def test_tickets_and_dense_networks_are_trained_on_the_same_images():
    "A block that takes another fraction of a target by mistake has nothing to be compared with."
    from lth_nb.study import load_study
    for name in ("quick", "small", "cost", "gpu"):
        arms = {}
        for b in load_study(name).transfers:
            for target in b.targets:
                for fraction in b.fractions: arms.setdefault((target, fraction), set()).update(b.arms)
        assert all("scratch" in of and "ticket" in of for of in arms.values()), f"{name}: {arms}"


def test_every_committed_figure_says_what_made_it():
    for figure in (ROOT/"figures").glob("*.png"):
        made = json.loads(figure.with_suffix(".json").read_text())
        table = (ROOT/"data"/"results"/f"{made['study']}.csv").read_bytes()
        assert made["table_sha256"] == hashlib.sha256(table).hexdigest(), (
            f"{figure.name} was made from another table; run `make study`"
        )
        assert (
            made["image_sha256"] == hashlib.sha256(figure.read_bytes()).hexdigest()
            and made["caption"]
            and made["rows"] > 0
        ), figure


def test_a_fresh_clone_does_not_filter_every_notebook(tmp_path):
    "Setting up settles which files are unchanged, so that a run's `git status` starts no filter."
    if not (ROOT/".git").exists(): pytest.skip("not a git checkout")
    clone, log = tmp_path/"clone", tmp_path/"log"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    recipe = (ROOT/"Makefile").read_text().split("@! git rev-parse")[1].split("@touch")[0]
    shell = "! git rev-parse" + recipe.replace("\\\n", " ")
    logging = f"sh -c \"echo filtered >> {log}; cat\" "  # in place of the environment's Python
    for name, value in {"$(PY) ": logging, "$(VENV)": ".venv"}.items(): shell = shell.replace(name, value)
    newest = max(p.stat().st_mtime for p in (clone/"nbs").glob("*.ipynb"))
    while time.time() < newest + 1.1: time.sleep(0.1)  # git counts in seconds
    subprocess.run(shell, shell=True, cwd=clone, check=True)
    assert "filtered" in subprocess.run(
        ["git", "config", "filter.notebook.clean"], cwd=clone, capture_output=True, text=True).stdout
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True)
    assert (changed.returncode, changed.stdout, log.exists()) == (0, "", False)
    (clone/"nbs"/"index.ipynb").touch()
    subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True)
    assert log.exists(), "a file that may have changed is filtered"
