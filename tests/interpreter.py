"""Runs notebooks and commands, one after the other, from an interpreter that has already loaded the large libraries.

A new interpreter spends most of a short notebook's or command's time on imports. Here every notebook gets new modules
of `lth_nb`, the environment, the folder, the warning filters and the state of torch that a new interpreter would have.
Every command gets a process of its own, forked from one that has loaded libraries, but nothing of `lth_nb`.
"""
import atexit
import contextlib
import importlib
import io
import json
import os
import runpy
import sys
import threading
import traceback
import warnings
from pathlib import Path


@contextlib.contextmanager
def as_in_a_new_interpreter():
    "Undo at the end what a notebook usually changes in its interpreter."
    import matplotlib
    import matplotlib.pyplot as plt
    import torch
    kept = dict(os.environ), os.getcwd(), warnings.filters[:], list(sys.path), torch.get_rng_state()
    for name in [n for n in sys.modules if n.partition(".")[0] == "lth_nb"]: del sys.modules[name]
    try:
        yield
    finally:
        environment, folder, warnings.filters[:], sys.path[:], state = kept
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        torch.set_rng_state(state)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(torch.float32)
        plt.close("all")
        matplotlib.rcdefaults()


def run_notebook(notebook: Path) -> tuple[bool, str]:
    "Run a library notebook as `nbdev_test` does; return whether it passed, and all that was printed."
    from nbdev.test import test_nb
    said = io.StringIO()
    with as_in_a_new_interpreter(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        passed, _ = test_nb(notebook, basepath=notebook.parents[1])
    return passed, said.getvalue()


def run_command(words: list[str], folder: str, environment: dict[str, str], out: str, err: str) -> int:
    "Run `python -m WORDS` in a forked process, with files for what it prints; return its exit code."
    if child := os.fork(): return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        for number, file in ((1, out), (2, err)): os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv, sys.path[:1] = words, [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as e: code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException: traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(commands: bool) -> None:
    "Run what the lines of standard input ask for, in JSON; answer each with one line of JSON."
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1): os.dup2(nothing, number)  # what notebooks, commands and their children read and print
    large = ["pandas", "torch", "pydantic", "typer.rich_utils", "yaml", "safetensors.torch", "fastcore.basics", "tqdm"]
    for name in large if commands else [*large, "matplotlib.pyplot", "nbdev.test"]: importlib.import_module(name)
    for line in requests:
        asked = json.loads(line)
        answer = run_command(**asked) if commands else run_notebook(Path(asked))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__": serve(commands="commands" in sys.argv[1:])
