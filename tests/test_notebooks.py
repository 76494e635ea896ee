"Every library notebook runs from top to bottom in a fresh process; every run notebook runs under papermill."
import subprocess
import sys

import pytest
from conftest import ENVIRONMENT, ROOT, run

LIBRARY = sorted((ROOT/"nbs").glob("[0-9]*.ipynb"))
RUNS = sorted((ROOT/"nbs"/"runs").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", LIBRARY, ids=lambda p: p.stem)
def test_library_notebook(notebook):
    code = (
        "import sys; from pathlib import Path; from nbdev.test import test_nb; "
        "ok, seconds = test_nb(Path(sys.argv[1]), basepath=Path(sys.argv[2])); sys.exit(not ok)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(notebook), str(ROOT)], cwd=ROOT / "nbs", env=ENVIRONMENT, capture_output=True,
        text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("notebook", RUNS, ids=lambda p: p.stem)
def test_run_notebook_with_its_defaults(notebook, home):
    out = home/notebook.name
    run("papermill", "--no-progress-bar", "--cwd", ROOT/"nbs", notebook, out, home=home)
    assert '"output_type": "error"' not in out.read_text()
