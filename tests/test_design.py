"The rules of the house: floors, exports, clean notebooks, tagged parameters."
import ast
import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

FLOORS = dict(
    core=0, faults=0, guard=0, reading=1, parameters=0, effects=0, moderators=1, architecture=1, gpus=1, papers=1,
    data=1, builders=1, networks=1.2, prunables=1.4, operations=1.4, models=2, masking=1, slots=2, results=1,
    pruning=3, recipes=1.5, batches=2, training=3, statistics=2, ticket_values=4, ticket_checks=5, ticket_files=6,
    tickets=7, claims=3, plots=3, pages=3, over_targets=4, names=0, answers=5, contrast_tables=6, questions=6,
    forest=6, transfer=8, connectivity=8, compact=8, export=9, latency=10, spec=9, studyfile=10, grid=10, run=11,
    plan=11, rewinding=12, freshness=11.5, ledger=12, jobs=12, pieces=13, study=14, progress=13, console=0,
    workflow=14, together=13, file_commands=15, machine_commands=15.8, cli=16
)
FLOORS |= dict(images=0.1, splits=0.1, duplicates=0.1, arrays=0.2, folders=0.3, originals=0.3, fitting=0.3)  # the wing
FLOORS |= dict(catalog=0.4, cache=0.4)                                    # of data, below data itself
FLOORS |= dict(measurements=1, plain_loop=3.5, workloads=3.5, precision=3.5, contest=3.7, mini_study=14.5, benchmark=15,
    gpu_session=15.2)  # beside the kit: how fast it is
FLOORS |= dict(columns=0.9, comparisons=3.5)  # of results and of verdicts over targets
FLOORS |= dict(made_up=1.5, style=1, curves=2.5, estimates=2.5, parts=2.7, rewound=2.5, provenance=2.5)  # of figures
FLOORS |= dict(selection=1, heads=2.2, own_files=2.3, references=2.5, doctor=15.5, layout=1, metrics=3.5, explorer=6.5)
FLOORS |= dict(layers=11.6, costs=11.6)
FLOORS |= dict(interop=2, open_lth=8, hub=6.5, choice=11)  # other libraries; what to deploy
FLOORS |= dict(channels=2, removal=2.2, structures=3.5, saliency=3.5)  # what is pruned at once, and by which score
JUDGES = (
    "core", "names", "results", "statistics", "effects", "papers", "claims", "over_targets", "columns",
    "comparisons", "answers", "contrast_tables", "questions", "forest", "plots", "style", "curves", "estimates",
    "parts", "rewound", "provenance"
)
NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts and "_proc" not in p.parts
)
MODULES = sorted(p for p in (ROOT/"lth_nb").glob("*.py") if not p.stem.startswith("_"))


def code_cells(notebook): return [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]


def imported(module):
    "Modules of the library that a module imports anywhere, also inside functions."
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lth_nb."):
            found.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("lth_nb.")}
    return found


def test_every_module_has_a_floor():
    assert {m.stem for m in MODULES} == set(FLOORS)


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_imports_point_down(module):
    up = {name for name in imported(module) if FLOORS[name] >= FLOORS[module.stem]}
    assert not up, f"{module.stem} (floor {FLOORS[module.stem]}) imports {sorted(up)}"


def test_what_judges_imports_no_torch():
    imports = f"import sys\nfor m in {JUDGES}: __import__('lth_nb.' + m)"
    code = f"{imports}\nassert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_modules_are_what_the_notebooks_export(tmp_path):
    shutil.copytree(ROOT/"nbs", tmp_path/"nbs", ignore=shutil.ignore_patterns("_proc", ".ipynb_checkpoints"))
    for name in ("settings.ini", "README.md"): shutil.copy(ROOT/name, tmp_path)
    (tmp_path/"lth_nb").mkdir()
    shutil.copy(ROOT/"lth_nb"/"__init__.py", tmp_path/"lth_nb")
    done = subprocess.run(
        [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], cwd=tmp_path,
        capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    exported = {p.name: p.read_text() for p in (tmp_path/"lth_nb").glob("*.py")}
    drift = [
        n
        for n in {*exported, *(p.name for p in (ROOT / "lth_nb").glob("*.py"))}
        if exported.get(n) != ((ROOT / "lth_nb" / n).read_text() if (ROOT / "lth_nb" / n).is_file() else None)
    ]
    assert not drift, f"run `make tidy`: {sorted(drift)} differ from what the notebooks export"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT/"nbs")))
def test_notebook_is_clean(notebook):
    nb = json.loads(notebook.read_text())
    dirty = [
        i
        for i, c in enumerate(nb["cells"])
        if c.get("outputs") or c.get("execution_count") or set(c["metadata"]) - {"tags"}
    ]
    assert not dirty, f"run `make tidy`: cells {dirty} have outputs or metadata"
    assert set(nb["metadata"]) <= {"kernelspec", "jupytext"}, nb["metadata"]
    first = "".join(nb["cells"][0]["source"])
    assert re.match(r"# .+\n\n> .+", first), f"the first cell is a title and a `> subtitle`, not {first[:60]!r}"


RUN = [p for p in NOTEBOOKS if p.parent.name in ("runs", "papers")]


@pytest.mark.parametrize("notebook", RUN, ids=lambda p: p.stem)
def test_parameters_are_tagged(notebook):
    tagged = [c for c in code_cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, (
        "one cell carries the tag `parameters`; without it papermill injects at the top and the defaults win"
    )
    for node in ast.parse("".join(tagged[0]["source"])).body: ast.literal_eval(node.value)
    assert all("#" in line for line in tagged[0]["source"] if "=" in line), "every parameter has a comment"


def importing(lines):
    "How many lines of a cell import, or name what is exported again."
    nodes = ast.parse("".join(lines)).body
    names = [n for n in nodes if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "_all_"]
    imports = [n for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
    return sum(n.end_lineno - n.lineno + 1 for n in (*imports, *names))


@pytest.mark.parametrize("notebook", [p for p in NOTEBOOKS if p.name[0].isdigit()], ids=lambda p: p.stem)
def test_a_module_is_one_room(notebook):
    "At most 300 exported lines."
    cells = ["".join(c["source"]) for c in code_cells(notebook)]
    assert sum(c.count("\n") for c in cells if re.match(r"#\|\s*export", c)) <= 300


@pytest.mark.parametrize("notebook", [p for p in NOTEBOOKS if p.name[0].isdigit()], ids=lambda p: p.stem)
def test_exported_cells_are_short(notebook):
    "At most 32 lines, imports aside."
    cells = [c["source"] for c in code_cells(notebook) if re.match(r"#\|\s*export", "".join(c["source"]))]
    long = [(lines[1].strip()[:60], len(lines)) for lines in cells if len(lines) - importing(lines) > 32]
    assert not long, f"split these cells: {long}"


@pytest.mark.parametrize("notebook", [p for p in NOTEBOOKS if p.parent.name == "nbs"], ids=lambda p: p.stem)
def test_examples_are_short(notebook):
    "At most 24 lines in a cell that is not exported: what is longer is a regression test and belongs here."
    cells = [c["source"] for c in code_cells(notebook) if not re.match(r"#\|\s*export", "".join(c["source"]))]
    long = [(lines[0].strip()[:60], len(lines)) for lines in cells if len(lines) > 24]
    assert not long, f"keep one example that teaches and move the rest to tests/: {long}"


def test_no_pickle_and_no_catch_all():
    for module in MODULES:
        text = module.read_text()
        if module.stem == "open_lth":  # whose files are those of torch.save; reading them runs no code
            text = re.sub(r"torch\.load\([^()]*weights_only=True\)|torch\.save(?=\()", "read_or_write", text)
        assert not re.search(r"\bpickle\b|torch\.(save|load)\(|except:\s", text), module
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ExceptHandler) or ast.unparse(node.type or ast.Name("")) not in (
                "Exception",
                "BaseException",
            ):
                continue
            says_why = "#" in text.splitlines()[node.lineno - 1]
            raises = any(isinstance(n, ast.Raise) for n in ast.walk(node))
            assert says_why or raises, (
                f"{module.name}:{node.lineno} catches everything; re-raise it, or say in a comment why"
            )
