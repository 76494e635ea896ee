"The guides, followed to the letter in a copy of the checkout, and the tests afterwards."

import json
import re
import subprocess
import sys
import textwrap

import nbformat
import numpy as np
import pytest
from conftest import ROOT, checkout, prints_nan, run_in

DESIGN = (
    "tests/test_design.py",
    "tests/test_protocols.py",
    "tests/test_package.py::test_committed_results_belong_together",
)


def cells_of(guide):
    "The code cells of a guide, by what they hold."
    cells = json.loads((ROOT/"nbs"/"guides"/f"{guide}.ipynb").read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def cell_with(guide, text): return next(c for c in cells_of(guide) if text in c)


def passes_tests(folder, *words, **settings):
    done = run_in(
        folder,
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not slurm",
        *words,
        check=False,
        **settings,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def notebooks_pass(folder, *names, **settings):
    "The library notebooks run in the copy itself, as `nbdev_test` runs them."
    code = (
        "import sys; from pathlib import Path; from nbdev.test import test_nb\n"
        "sys.exit(not all([test_nb(Path(n), basepath=Path('..'))[0] for n in sys.argv[1:]]))\n"
    )
    (folder/"run_notebooks.py").write_text(code)
    for name in names:
        (file,) = (folder/"nbs").glob(f"[0-9]*_{name}.ipynb")
        run_in(
            folder,
            "run_notebooks",
            file,
            env={"PYTHONPATH": str(folder), "LTH_HOME": str(folder), **settings.get("env", {})},
        )
    (folder/"run_notebooks.py").unlink()


@pytest.mark.slow
def test_a_data_set_and_a_study_of_ones_own(tmp_path):
    "`add_a_data_set`: images into data/raw, the study verbatim, plan, run, papers and site pages, then the tests."
    home = checkout(tmp_path)
    (home/"data"/"raw").mkdir()
    steps = [cell_with("add_a_data_set", text) for text in ("def shape(", "np.savez(f\"{folder.name}/shapes.npz\"")]
    script = "\n".join(
        [cells_of("add_a_data_set")[0], *steps, "import shutil; shutil.copy(f'{folder.name}/shapes.npz', 'data/raw/')"]
    )
    (home/"follow.py").write_text(script)
    run_in(home, "follow")
    (home/"follow.py").unlink()
    study = re.search(r'text = """\n(.*?)"""', cell_with("add_a_data_set", 'text = """'), re.S)[1]
    (home/"nbs"/"studies"/"shapes.yaml").write_text(study)

    planned = run_in(home, "lth_nb.cli", "plan", "shapes", "--images-per-second", 20000)
    assert "the study has two seeds. One seed does not count for a verdict" in planned.stderr
    assert "5 of" not in run_in(home, "lth_nb.cli", "run", "shapes", "-n").stdout
    run_in(home, "lth_nb.cli", "run", "shapes", "--jobs", 2, "--until", "paper")
    pages = sorted((home/"data"/"runs"/"shapes"/"papers").glob("*.ipynb"))
    assert [p.name for p in pages] == sorted(p.name for p in (ROOT/"nbs"/"papers").glob("*.ipynb"))
    for page in pages: assert not prints_nan(json.loads(page.read_text())["cells"]), page.name
    judged = run_in(home, "lth_nb.cli", "claims", "shapes")
    assert "S8" in judged.stdout and not prints_nan([judged.stdout, judged.stderr])

    passes_tests(home, *DESIGN)
    notebooks_pass(home, "spec", "studyfile", "cli")
    for name in {p.name.partition(".")[0] for p in (home/"data"/"results").glob("*.judged.json")} - {"shapes"}:
        for file in (home/"data"/"results").glob(f"{name}.*"): file.unlink()
    (home/"pages_of_the_study.py").write_text(SITE_PAGES)
    run_in(home, "pages_of_the_study")


SITE_PAGES = """
import sys
sys.path.insert(0, "nbs/site")
import yaml
from pages import find_pages, here
from running import run_all

if __name__ == "__main__":
    toc = yaml.safe_load((here/"toc.yaml").read_text())
    cells, errors = run_all([p for p in find_pages(toc, "shapes") if p.section in ("", "results")])
    papers = len([*(here.parent/"papers").glob("*.ipynb")])  # and the home page, and the one with all claims
    assert len(cells) == papers + 2 and not errors, errors
"""


@pytest.mark.slow
def test_an_arm_and_a_claim_that_stay(tmp_path):
    "`add_an_arm_or_claim`, 'Make them stay', step by step, and the tests afterwards."
    guide, home = "add_an_arm_or_claim", checkout(tmp_path)
    arm = re.search(r"Arm\(.*\)", cell_with(guide, "= Arm("), re.S)[0]
    edit(home/"nbs"/"07_transfer.ipynb", "ARMS = {", lambda text: text.replace("\n)}", f"\n    {arm},\n)}}"))
    steps = guide_text(guide, "## Make them stay")
    claim = textwrap.dedent("   " + re.search(r"```yaml\n\s*(A1:.*?)```", steps, re.S)[1].rstrip())
    with open(home/"data"/"papers"/"claims.yaml", "a") as claims: claims.write(f"\n{claim}\n")
    export = [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"]
    subprocess.run(export, cwd=home, check=True, capture_output=True)
    line = re.search(r'line = "(.*)"', cell_with(guide, 'line = "'))[1]
    with open(home/"nbs"/"studies"/"quick.yaml", "a") as study: study.write(f"{line}\n")

    refused = run_in(home, "lth_nb.cli", "results", "publish", "quick", check=False)
    assert refused.returncode == 1 and "first run `lth results restore quick`" in refused.stderr, (
        refused.stderr
    )
    assert "restored" in run_in(home, "lth_nb.cli", "results", "restore", "quick").stdout
    left = run_in(home, "lth_nb.cli", "run", "quick", "-n").stdout
    assert "mnist_5k--digits" in left and " 12 networks to train" in left, left
    run_in(home, "lth_nb.cli", "run", "quick", "--jobs", 2, "--until", "paper")
    judged = run_in(home, "lth_nb.cli", "claims", "quick").stdout
    assert "A1  fine-tuning needs the exact mask\n    Not tested: a verdict needs 5 targets" in judged, judged
    run_in(home, "lth_nb.cli", "results", "restore", "small")
    run_in(home, "lth_nb.cli", "results", "publish", "small")
    passes_tests(
        home,
        *DESIGN,
        "tests/test_package.py::test_every_committed_figure_says_what_made_it",
        "tests/test_package.py::test_readme_is_short",
    )
    notebooks_pass(home, "transfer", "claims", "plots", "cli")


def guide_text(guide, text):
    "Return the text cell of a guide that begins with some words."
    cells = nbformat.read(ROOT/"nbs"/"guides"/f"{guide}.ipynb", 4).cells
    return next(c.source for c in cells if c.cell_type == "markdown" and c.source.startswith(text))


def edit(notebook, text, change):
    "Change the cell of a notebook that holds a text."
    nb = nbformat.read(notebook, 4)
    cell = next(c for c in nb.cells if c.cell_type == "code" and text in c.source)
    cell.source = change(cell.source)
    nbformat.write(nb, notebook)


@pytest.mark.slow
def test_what_lies_in_a_users_folders_changes_nothing(tmp_path):
    "Sets of one's own in data/raw and LTH_DATA: tests and notebooks still pass, and no page sees them."
    home, elsewhere = checkout(tmp_path/"home"), tmp_path/"elsewhere"
    images, labels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3
    parts = dict(train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    for folder, name in (
        (home / "data" / "raw", "aaa_mine"),
        (home / "data" / "raw", "zzz_mine"),
        (elsewhere, "elsewhere_mine"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{name}.npz", **parts)
    there = {"LTH_DATA": str(elsewhere)}
    passes_tests(home, *DESIGN, env=there)
    notebooks_pass(home, "data", "spec", "studyfile", "cli", env=there)
    (home/"page.py").write_text(ONE_PAGE)
    run_in(home, "page", env=there)


ONE_PAGE = """
import json, sys
sys.path.insert(0, "nbs/site")
import yaml
from pages import find_pages, here
from running import run_all

if __name__ == "__main__":
    toc = yaml.safe_load((here/"toc.yaml").read_text())
    cells, errors = run_all([p for p in find_pages(toc) if p.doc == "api/cli"])
    assert len(cells) == 1 and not errors, errors
    assert "_mine" not in json.dumps(next(iter(cells.values())))
"""
