"Every library notebook runs from top to bottom in a process of its own; every run notebook runs under papermill."
import io
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT, run
from forked import context

LIBRARY = sorted((ROOT/"nbs").glob("[0-9]*.ipynb"))
RUNS = sorted((ROOT/"nbs"/"runs").glob("*.ipynb"))


def tested(notebook: Path) -> tuple[bool, str]:
    "Run the cells of a notebook as nbdev does; return whether all of them passed, and what was printed."
    from nbdev.test import test_nb
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    os.chdir(ROOT/"nbs")
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed): passed, _ = test_nb(notebook, basepath=ROOT)
    return passed, printed.getvalue()


@pytest.fixture(scope="module")
def processes():
    "Each job gets a process of its own."
    with ProcessPoolExecutor(1, mp_context=context(), max_tasks_per_child=1) as pool: yield pool


@pytest.mark.parametrize("notebook", LIBRARY, ids=lambda p: p.stem)
def test_library_notebook(notebook, processes):
    passed, printed = processes.submit(tested, notebook).result()
    assert passed, printed[-6000:]


def test_a_notebook_that_fails_is_seen(tmp_path, processes):
    text = (ROOT/"nbs"/"08a_names.ipynb").read_text()
    assert '"#| export\\n",' in text
    wrong = tmp_path/"08a_names.ipynb"
    wrong.write_text(text.replace('"#| export\\n",', '"assert False, 1234\\n",', 1))
    passed, printed = processes.submit(tested, wrong).result()
    assert not passed and "1234" in printed


def test_the_library_is_loaded_anew_for_each_notebook(processes):
    assert processes.submit(loaded).result() == []


def loaded(): return [m for m in sys.modules if m.partition(".")[0] == "lth_nb"]


@pytest.mark.parametrize("notebook", RUNS, ids=lambda p: p.stem)
def test_run_notebook_with_its_defaults(notebook, home):
    out = home/notebook.name
    run("papermill", "--no-progress-bar", "--cwd", ROOT/"nbs", notebook, out, home=home)
    assert '"output_type": "error"' not in out.read_text()
