"Every library notebook runs from top to bottom with fresh modules; every run notebook runs under papermill."
import json
import subprocess
import sys

import pytest
from conftest import ENVIRONMENT, ROOT, run

LIBRARY = sorted((ROOT/"nbs").glob("[0-9]*.ipynb"))
RUNS = sorted((ROOT/"nbs"/"runs").glob("*.ipynb"))


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    "Runs notebooks one after the other. It is replaced after one that failed, so that the next ones do not suffer."
    running, log = [], tmp_path_factory.mktemp("interpreter")/"stderr"  # what notebooks' own processes print

    def run_notebook(notebook):
        with open(log, "w") as printed:
            if not running: running.append(subprocess.Popen(
                [sys.executable, ROOT/"tests"/"interpreter.py"], cwd=ROOT/"nbs", env=ENVIRONMENT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed
            ))
        running[0].stdin.write(json.dumps(str(notebook)) + "\n")
        running[0].stdin.flush()
        line = running[0].stdout.readline()  # empty if the interpreter died
        passed, said = json.loads(line) if line else (False, log.read_text())
        if not passed: running.pop().kill()
        return passed, said

    yield run_notebook
    for process in running:
        process.stdin.close()
        try: process.wait(10)
        except subprocess.TimeoutExpired: process.kill()  # a notebook has left something behind that it waits for


@pytest.mark.parametrize("notebook", LIBRARY, ids=lambda p: p.stem)
def test_library_notebook(notebook, interpreter):
    passed, said = interpreter(notebook)
    assert passed, said[-6000:]


@pytest.mark.parametrize("notebook", RUNS, ids=lambda p: p.stem)
def test_run_notebook_with_its_defaults(notebook, home):
    out = home/notebook.name
    run("papermill", "--no-progress-bar", "--cwd", ROOT/"nbs", notebook, out, home=home)
    assert '"output_type": "error"' not in out.read_text()
