"What several test files need."
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.pop("LTH_DATA", None)  # tests see what ships with the package, whatever data are on this machine
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "MPLBACKEND": "agg"}

TINY = """
study: tiny
scale: two seeds of a very short study, for tests
image_size: 8
channels: 1
models: lenet_300_100
seeds: [0, 1]
seeds_per_run: 2
recipes:
  base: {length: 20it, batch_size: 32}
ticket_recipes:
  base: {training: base, rounds: 3, rate: 0.6, rewind: 5it}
transfers:
  - {sources: [mnist_5k, own], targets: digits, fractions: 0.1, arms: [ticket, reinit], levels: [1, 3]}
  - {targets: digits, fractions: 0.1, arms: scratch}
"""


@pytest.fixture
def home(tmp_path):
    "An empty project folder with a tiny study, its parsed data sets shared with the checkout's cache."
    (tmp_path/"data").mkdir()
    (ROOT/"data"/"cache").mkdir(parents=True, exist_ok=True)
    (tmp_path/"data"/"cache").symlink_to(ROOT/"data"/"cache")
    (tmp_path/"tiny.yaml").write_text(TINY)
    return tmp_path


@cache
def interpreter():
    "A process from which commands are forked (see interpreter.py). It ends with this one, which closes its input."
    return subprocess.Popen([sys.executable, ROOT/"tests"/"interpreter.py", "commands"], env=ENVIRONMENT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def forked(words, folder, environment):
    "A command of the kit, run in a process forked from one that has loaded the large libraries."
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        asked = dict(words=words, folder=str(folder), environment=environment, out=str(out), err=str(err))
        interpreter().stdin.write(json.dumps(asked) + "\n")
        interpreter().stdin.flush()
        code = json.loads(interpreter().stdout.readline())
        return subprocess.CompletedProcess(words, code, *(f.read_text(encoding="utf-8") for f in (out, err)))


def run(*words, home=None, check=True, anew=False, **settings):
    """A command with the project's Python; fails the test with its output if it exits with another code than 0. With
    `anew`, a command of the kit also gets a new interpreter."""
    environment = settings.pop("env", {**ENVIRONMENT, **({"LTH_HOME": str(home)} if home else {})})
    folder, words = settings.pop("cwd", home or ROOT), [*map(str, words)]
    if words[0] == "lth_nb.cli" and not (anew or settings): done = forked(words, folder, environment)
    else:
        python = [sys.executable, "-m", *words]
        done = subprocess.run(python, cwd=folder, env=environment, capture_output=True, text=True, **settings)
    assert done.returncode == 0 or not check, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done


def said(call, kind=ValueError):
    "The message of the error in which a call ends."
    with pytest.raises(kind) as error: call()
    return str(error.value)


def checkout(folder):
    "A copy of the checkout, with changes that are not committed yet; parsed data sets are shared."
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if not (ROOT/name).is_file(): continue
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/name, folder/name)
    (ROOT/"data"/"cache").mkdir(parents=True, exist_ok=True)
    if not (folder/"data"/"cache").exists(): (folder/"data"/"cache").symlink_to(ROOT/"data"/"cache")
    return folder


def run_in(folder, *words, **settings):
    "A command in a copy of the checkout, with the copy's own modules."
    environment = {**ENVIRONMENT, "PYTHONPATH": str(folder), **settings.pop("env", {})}
    return run(*words, cwd=folder, env=environment, **settings)


def prints_nan(cells):
    "The outputs of executed cells, or the texts, in which somebody would read `nan`."
    texts = []
    for cell in cells:
        if isinstance(cell, str):
            texts.append(cell)
            continue
        for output in cell.get("outputs", []):
            shown = {k: v for k, v in output.get("data", {}).items() if not k.startswith(("image/", "application/"))}
            texts += ["".join(v) for v in (*shown.values(), output.get("text", ""))]
    plain = [re.sub(r"<(style|script).*?</\1>", "", text, flags=re.S) for text in texts]
    return [text for text in plain if re.search(r"\bnan\b", text, re.I)]
