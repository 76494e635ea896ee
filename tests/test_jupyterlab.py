"JupyterLab in Chromium: Run All on a run notebook, another parameter, an edit of the library; what git sees of it."
import contextlib
import json
import re
import subprocess
import sys
import time

import pytest
from browser import Browser, find_chromium
from conftest import ENVIRONMENT, ROOT, checkout

pytestmark = [
    pytest.mark.slow, pytest.mark.skipif(find_chromium() is None, reason="no chromium here: apt-get install chromium")
]
RUNS = "nbs/runs/transfer.ipynb"
PERSON = "-c", "user.name=test", "-c", "user.email=test@example.org"
FIND = """
globalThis.panel = globalThis.jupyterapp && [...jupyterapp.shell.widgets("main")].find(w => w.context?.path == PATH);
globalThis.panel?.context.isReady && panel.sessionContext.session?.kernel?.status == "idle"
"""
IDLE = ("panel.sessionContext.session?.kernel?.status == 'idle' && "
        "panel.content.widgets.filter(c => c.model.type == 'code').every(c => c.model.executionCount > 0)")


def git(home, *words):
    "What git says."
    return subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    "A clone whose git stores notebooks as `make install` sets it."
    home = tmp_path_factory.mktemp("clone")
    checkout(home)
    settings = re.findall(r"git config (\S+) '([^']*)'", (ROOT/"Makefile").read_text())
    assert len(settings) == 3
    for words in (("init", "-q"), ("add", "-A"), (*PERSON, "commit", "-qm", "as published")): git(home, *words)
    for key, value in settings:
        git(home, "config", key, value.replace("$(PY)", sys.executable).replace("$(VENV)/bin", f"{sys.prefix}/bin"))
    return home


@contextlib.contextmanager
def lab(home):
    "A JupyterLab server of a folder; yields its address."
    words = ["lab", "--no-browser", "--allow-root", "--port=0", "--IdentityProvider.token=", "--expose-app-in-browser",
             f"--ServerApp.root_dir={home}"]
    environment = {**ENVIRONMENT, "LTH_HOME": str(home), "PYTHONPATH": str(home),
                   "JUPYTER_CONFIG_DIR": str(home/"config"), "JUPYTERLAB_WORKSPACES_DIR": str(home/"workspaces")}
    log = home/"lab.log"
    with log.open("w") as out:
        command = [sys.executable, "-m", "jupyter", *words]
        server = subprocess.Popen(command, cwd=home, env=environment, stdout=out, stderr=out)
    try:
        end = time.time() + 90
        while not (found := re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/lab", log.read_text())):
            assert time.time() < end and server.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        server.terminate()
        server.wait(30)


def opened(browser, address, path):
    "Open a notebook and wait for its kernel."
    browser.send("Emulation.setDeviceMetricsOverride", width=1300, height=900, deviceScaleFactor=1, mobile=False)
    browser.send("Page.navigate", url=f"{address}/lab/tree/{path}?reset")
    browser.until(FIND.replace("PATH", json.dumps(path)), 90)
    browser.run("jupyterapp.shell.activateById(panel.id)")


def run_all(browser, seconds=240):
    "Run all cells by the menu's command, and save."
    browser.run("jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
    browser.until(IDLE, seconds)
    errors = browser.run("panel.content.widgets.flatMap(c => c.model.outputs ? c.model.outputs.toJSON() : [])"
                         ".filter(o => o.output_type == 'error').map(o => o.evalue).join('; ')")
    assert not errors, errors
    browser.run("panel.context.save().then(() => true)")


def set_cell(browser, cell, old, new):
    "Replace words in a cell, as an editor does."
    source = browser.run(f"panel.content.widgets[{cell}].model.sharedModel.getSource()")
    assert old in source, source
    browser.run(f"panel.content.widgets[{cell}].model.sharedModel.setSource({json.dumps(source.replace(old, new))})")


def test_run_all_a_parameter_and_an_edit_of_the_library(clone):
    with lab(clone) as address, Browser() as browser:
        opened(browser, address, RUNS)
        parameters = next(i for i, c in enumerate(json.loads((clone/RUNS).read_text())["cells"])
                          if "parameters" in c["metadata"].get("tags", []))
        set_cell(browser, parameters, '["ticket", "reinit", "scratch"]', '["ticket"]')
        set_cell(browser, parameters, "levels: list[int] = [2, 5, 8]", "levels: list[int] = [2]")
        run_all(browser)
        saved = json.loads((clone/RUNS).read_text())
        assert any(c.get("outputs") for c in saved["cells"]), "the saved notebook has lost its outputs"
        rows = list((clone/"data"/"runs").rglob("*.csv"))
        assert rows, "no rows were written"
        changed = git(clone, "diff", "--numstat").split("\n")[:-1]
        assert changed == [f"2\t2\t{RUNS}"], changed

        opened(browser, address, "nbs/08a_names.ipynb")
        cells = json.loads((clone/"nbs"/"08a_names.ipynb").read_text())["cells"]
        edited = next(i for i, c in enumerate(cells) if '"cifar10": "CIFAR-10"' in "".join(c["source"]))
        set_cell(browser, edited, '"cifar10": "CIFAR-10"', '"cifar10": "CIFAR 10"')
        set_cell(browser, edited, '"CIFAR-100"', '"CIFAR 100"')
        browser.run("panel.context.save().then(() => true)")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(clone)}
    subprocess.run([f"{sys.prefix}/bin/nbdev_export"], cwd=clone, env=environment, check=True, capture_output=True)
    changed = sorted(line.split("\t")[2] for line in git(clone, "diff", "--numstat").split("\n")[:-1])
    assert changed == ["lth_nb/names.py", "nbs/08a_names.ipynb", RUNS], changed
    assert '"CIFAR 10"' in (clone/"lth_nb"/"names.py").read_text()


def test_notebooks_of_two_branches_are_merged_cell_by_cell(clone):
    "Two people edit two cells of one notebook, and one has run it."
    file = clone/"nbs"/"08a_names.ipynb"
    git(clone, "checkout", "-q", "--", "nbs", "lth_nb")

    def edited(cell, ran):
        notebook = json.loads(file.read_text())
        notebook["cells"][cell]["source"][0] = "# edited\n" + notebook["cells"][cell]["source"][0]
        if ran: next(c for c in notebook["cells"] if c["cell_type"] == "code")["execution_count"] = 7
        file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")

    main = git(clone, "branch", "--show-current").strip()
    git(clone, "checkout", "-qb", "other")
    edited(0, ran=True)
    git(clone, *PERSON, "commit", "-qam", "one cell")
    git(clone, "checkout", "-q", main)
    edited(-1, ran=False)
    git(clone, *PERSON, "commit", "-qam", "another cell")
    git(clone, *PERSON, "merge", "-q", "--no-edit", "other")
    merged = json.loads(file.read_text())["cells"]
    assert "".join(merged[0]["source"]).startswith("# edited") and "".join(merged[-1]["source"]).startswith("# edited")
    assert all(c.get("execution_count") is None for c in merged)
