"What needs no run: lines, imports, names and types."
import ast
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

CHECKED = ("lth_nb", "nbs", "tests", "bench", "setup.py")


def test_ruff():
    "The rules stand in ruff.toml; nothing is excused line by line but where the line says why."
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format=concise", *CHECKED],
        cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def patched(tree):
    "Functions of a module that `@patch` puts into a class: {class: [function as a method]}."
    found = {}
    for node in [n for n in tree.body if isinstance(n, ast.FunctionDef)]:
        names = {ast.unparse(d): d for d in node.decorator_list}
        mark = next((n for n in names if n == "patch" or n.startswith("patch(")), None)
        if mark is None: continue
        tree.body.remove(node)
        of = node.args.args[0].annotation
        node.decorator_list = [d for n, d in names.items() if n != mark]
        if "as_prop" in mark: node.decorator_list = [ast.Name("property", ast.Load())]
        if "cls_method" in mark: node.decorator_list = [ast.Name("classmethod", ast.Load())]
        node.args.args[0].annotation = None
        found.setdefault(ast.unparse(of), []).append(node)
    return found


def with_methods(source):
    "A module's source with patched functions inside their classes, where a type checker sees them."
    tree = ast.parse(source)
    methods = patched(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef): node.body += methods.pop(node.name, [])
    for of, functions in methods.items():  # of a class of another module: its body is checked here
        for node in functions:
            node.args.args[0].annotation = ast.Name(f"type[{of}]" if node.decorator_list else of, ast.Load())
            node.name, node.decorator_list = f"_{of}_{node.name}", []
            tree.body.append(node)
    return ast.unparse(ast.fix_missing_locations(tree))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "The library as a type checker understands it."
    folder = tmp_path_factory.mktemp("types")
    ignore = shutil.ignore_patterns("_modidx.py", "__pycache__", "_shipped")
    shutil.copytree(ROOT/"lth_nb", folder/"lth_nb", ignore=ignore)
    for module in (folder/"lth_nb").rglob("*.py"): module.write_text(with_methods(module.read_text()))
    return folder


def mypy(folder, *files):
    words = [sys.executable, "-m", "mypy", "--config-file", ROOT/"mypy.ini", "--cache-dir", folder/".mypy", *files]
    return subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True)


def test_types(plain):
    "mypy over the library; lines are those of the copy, in which patched methods stand in their classes."
    done = mypy(plain, "lth_nb")
    assert done.returncode == 0, done.stdout


def test_a_wrong_type_would_be_seen(plain):
    (plain/"wrong.py").write_text(
        "from lth_nb.core import Paths\nPaths().resutls\nPaths().results.exists(1, 2, 3)\n"
    )
    said = mypy(plain, "wrong.py").stdout
    assert '"Paths" has no attribute "resutls"' in said and "Too many" in said, said
