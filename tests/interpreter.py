"""Runs notebooks, one after the other, in an interpreter that has already loaded the large libraries.

A new interpreter spends most of a short notebook's time on imports. Here every notebook gets new modules of `lth_nb`,
the environment, the folder, the warning filters and the state of torch that a new interpreter would have.
"""
import contextlib
import io
import json
import os
import sys
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


def serve() -> None:
    "Run the notebooks named in the lines of standard input; answer each with one line of JSON."
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1): os.dup2(nothing, number)  # what notebooks and their children read and print
    import matplotlib.pyplot  # noqa: F401
    import nbdev.test  # noqa: F401
    import pandas  # noqa: F401
    import torch  # noqa: F401
    for line in requests:
        print(json.dumps(run_notebook(Path(line.rstrip("\n")))), file=answers, flush=True)


if __name__ == "__main__": serve()
