"""Processes that start fast: each is forked from one that has loaded the large libraries, but not the kit itself.

A command in such a process finds its folder, environment and arguments as `python -m` gives them. Tests that send
signals, or that look at what is imported, start a real interpreter instead.
"""
import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

PRELOADED = ["nbdev.test", "execnb.shell", "torch", "pandas", "matplotlib.pyplot", "scipy.stats", "sklearn", "pydantic",
    "typer", "yaml"]


@cache
def context():
    "The context of all forks in this process."
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    return made


@cache
def plain_path() -> list[str]:
    "Where a new interpreter looks for modules, its own folder and PYTHONPATH aside."
    without = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    asked = [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"]
    return subprocess.run(asked, env=without, capture_output=True, text=True, check=True).stdout.splitlines()


def _become(words: list[str], folder: str, environment: dict, path: list[str], out: str, err: str) -> None:
    "Run a module as the main program of this process."
    for file, number in ((out, 1), (err, 2)): os.dup2(os.open(file, os.O_WRONLY), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1 if number == 2 else -1, closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    extra = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[:], sys.argv = [folder, *extra, *path], list(words)
    try: runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()


def run_module(words: list[str], folder: Path, environment: dict) -> subprocess.CompletedProcess:
    "Do what `python -m WORDS` does in a folder and an environment; return its exit code and output."
    with tempfile.TemporaryDirectory() as made:
        out, err = (Path(made, name) for name in ("out", "err"))
        for file in (out, err): file.touch()
        given = words, str(Path(folder).resolve()), environment, plain_path(), str(out), str(err)
        process = context().Process(target=_become, args=given)
        process.start()
        process.join()
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in (out, err)]
    return subprocess.CompletedProcess(words, process.exitcode, *texts)
