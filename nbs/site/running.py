"Running pages, each in a process of its own, unless what it gave before still holds."
import hashlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from pages import cells_of, nbs, package, root, work, write

import lth_nb.reading  # noqa: F401  it leaves out a part of nbformat that takes a second to load
from figures import tell_figures

PRELOADED = [
    "lth_nb.reading", "torch", "pandas", "matplotlib.pyplot", "scipy.stats", "sklearn.datasets",
    "statsmodels.stats.multitest", "yaml", "fastcore.all", "execnb.shell", "lth_nb.study", "lth_nb.forest",
    "lth_nb.plots", "lth_nb.explorer", "lth_nb.compact", "lth_nb.cli", "warm"
]
FOR_EXAMPLES = ["torch._dynamo", "torch.onnx._internal.exporter._core", "warm_export"]
EXAMPLES = ("api", "guides")  # the sections whose pages show examples, and no results


def digest(*parts): return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


@cache
def content(path): return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def named_in(module):
    "Return the modules of the library that one module of the library names."
    path = root/package/f"{module}.py"
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    return frozenset({*re.findall(rf"\b{package}\.(\w+)", text), *re.findall(r"^from \.(\w+) import", text, re.M)})


@cache
def imports(module):
    "Return the modules of the library that a module of the library uses, itself included."
    found, waiting = set(), [module]
    while waiting:
        one = waiting.pop()
        named = named_in(one)
        if one not in found and named is not None:
            found.add(one)
            waiting += named
    return frozenset(found)


def key_of(page, cells):
    "Everything that what a page shows depends on."
    code = [c["source"] for c in cells if c["cell_type"] == "code"]
    text = "\n".join(code)
    everything = re.search(rf"^\s*[!%]|^import {package}$|subprocess|papermill", text, re.M)
    used = (
        {p.stem for p in (root / package).glob("*.py")} if everything else set(re.findall(rf"\b{package}\.(\w+)", text))
    )
    used = set().union(*map(imports, used))
    files = [root/package/f"{m}.py" for m in sorted(used)]
    if used & {"results", "claims", "study", "benchmark"}:
        files += sorted((root / "data").glob(f"results/{page.study or '[!.]*'}.*")) + sorted(
            (root / "data" / "papers").glob("*")
        )
    if "study" in used: files += sorted((nbs/"studies").glob("*.yaml"))
    if everything: files += sorted((nbs/"runs").glob("*.ipynb"))
    if '"papers"' in text: files += sorted((nbs/"papers").glob("*.ipynb"))
    packages = ("torch", "numpy", "pandas", "matplotlib", "scipy", "execnb")
    versions = ["outputs of code cells, figures and their titles in words", sys.version, *map(version, packages)]
    return digest(*code, *versions, *map(content, files))


def skip(cell):
    """Whether a cell is shown without being run. `#| checks` marks one that only asserts, and takes long: the tests run
    it, and a page would show nothing of it."""
    return cell["cell_type"] != "code" or re.search(r"^#\|\s*(eval:\s*false|checks\b)", cell["source"], re.M)


def home_of(page):
    """A project folder of the page's own: what it reads is linked or copied, what it writes (tickets, runs, tables,
    figures) stays there and goes."""
    home = work/"home"/page.doc.replace("/", "-")
    shutil.rmtree(home, ignore_errors=True)
    (home/"data").mkdir(parents=True)
    for name in (
        "nbs", package, "settings.ini", "data/cache", "data/papers"
    ):  # not data/raw: what lies there is the user's
        if (root/name).exists(): (home/name).symlink_to(root/name)
    (home/"data"/"results").mkdir()
    for file in (root/"data"/"results").glob("[!.]*"):  # a table is written by renaming, which replaces the link
        (home/"data"/"results"/file.name).symlink_to(file)
    return home


def execute(page, cells):
    "Run the cells in this process, which runs nothing else; returns the outputs of every cell."
    from execnb.shell import CaptureShell
    home = home_of(page)
    os.environ["LTH_HOME"] = str(home)
    os.environ.pop("LTH_DATA", None)  # a page shows what ships with the package, whatever data are on this machine
    try: return run_cells(page, cells, CaptureShell)
    finally: shutil.rmtree(home, ignore_errors=True)


def run_command(shell, usual, command):
    "`!lth …` runs in a fork of this process, which has loaded the library; other commands run as usual."
    command = shell.var_expand(command, depth=1)
    if not re.match(r"lth [^|<>;&$`]*$", command): return usual(command)
    from lth_nb.cli import app
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        code = 1
        try: app(shlex.split(command)[1:], prog_name="lth")
        except SystemExit as e: code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
        except BaseException: traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with open(reading, encoding="utf-8") as said: print(said.read(), end="")
    shell.user_ns["_exit_code"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_cells(page, cells, CaptureShell):
    import matplotlib.pyplot as plt
    os.chdir(page.notebook.parent)
    tell_figures()
    shell = CaptureShell(page.notebook, timeout=300)
    plt.uninstall_repl_displayhook()  # it would draw every figure once more before it is shown
    shell.system = partial(run_command, shell, shell.system)
    sys.path.insert(0, str(root))
    outputs, start = [], time.time()
    for i, cell in enumerate(cells):
        if cell["cell_type"] != "code": continue  # prose may come and go without a run
        outputs.append([] if skip(cell) else list(shell.run(cell["source"])))
        if not skip(cell) and shell.exc is not None:
            where = "".join(traceback.format_exception(shell.exc)[-3:]).rstrip()
            return dict(
                error=f"{page.doc} ({page.notebook.relative_to(root)}), cell {i + 1}:\n{cell['source']}\n\n{where}"
            )
    return dict(outputs=json.loads(json.dumps(outputs)), seconds=round(time.time() - start, 1))


def run_in_pool(pages, processes, examples):
    "(page, what it gave) as each is done; a fresh process a page, forked from one that has the large packages loaded."
    if not pages: return
    print(f"{len(pages)} pages to run", flush=True)
    os.environ.update(
        OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", LTH_THREADS="1", COLUMNS="110",
        PYTHONPATH=os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED + FOR_EXAMPLES * examples)
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        for future in as_completed(jobs := {pool.submit(execute, page, cells): page for page, cells in pages.items()}):
            try: yield jobs[future], future.result()
            except Exception as e:
                yield jobs[future], dict(error=f"{jobs[future].doc}: its process ended early ({e!r})")


def run_all(pages, processes=2, examples=True):
    """The cells of every page with their outputs, and what went wrong with the pages that failed. Without `examples`,
    pages that show how to use the library are not run; they keep the outputs of an earlier build if these are valid."""
    done, waiting, errors = {}, {}, {}
    for page in pages:
        try: cells = done[page] = cells_of(page)
        except (SystemExit, ValueError) as e:
            errors[page] = f"{page.notebook.relative_to(root)}: {e}"
            done[page] = []
            continue
        if page.ran: continue
        kept = work/"runs"/f"{page.doc}.json"
        key = key_of(page, cells)
        run = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        if run.get("key") == key: fill(cells, run)
        elif page.section in EXAMPLES and not examples: done[page] = not_run(cells)
        else: waiting[page] = (cells, kept, key, run.get("seconds", len(cells)))
    for page, run in run_in_pool(
        {page: cells for page, (cells, *_) in sorted(waiting.items(), key=lambda w: -w[1][3])}, processes, examples
    ):
        cells, kept, key, _ = waiting[page]
        if "error" in run:
            errors[page] = run["error"]
            continue
        write(kept, json.dumps(dict(run, key=key)))
        fill(cells, run)
        print(f"  {run['seconds']:5.1f} s  {page.doc}", flush=True)
    return done, errors


def stop(errors): raise SystemExit("\n\n".join(["these pages failed:", *errors.values()]))


def in_place_of(page, cells, error):
    "The cells of a page that says what is wrong with the one that failed."
    title = re.search(r"^# (.+)$", cells[0]["source"], re.M) if cells else None
    return [
        dict(
            cell_type="markdown",
            metadata={},
            source=f"# {title[1] if title else page.notebook.stem}\n\n> This page failed.\n\n`````text\n{error}\n`````",
        )
    ]


def not_run(cells):
    "The cells of a page without outputs, and a note below its title that says so."
    note = "```{note}\nThis build did not run the examples below, so they have no output. `make docs` runs them.\n```"
    return [*cells[:1], dict(cell_type="markdown", metadata={}, source=note), *cells[1:]]


def fill(cells, run):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    for cell, outputs in zip(code, run["outputs"], strict=True): cell["outputs"] = outputs
