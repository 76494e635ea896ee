"Prose a person reads: habits that make sentences hard, names as people write them, terms that are defined."
import ast
import json
import re

import pytest
from conftest import ROOT

from lth_nb.catalog import DATASETS

NOTEBOOKS = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if not {".ipynb_checkpoints", "_proc"} & set(p.parts))
TEXTS = [ROOT/"README.md", ROOT/"CONTRIBUTING.md"]
LONGEST = 40  # words of a sentence; the aim is 25
HABITS = {
    "British spelling": r"\b(?:\w*colour\w*|grey\w*|licence[sd]?|neighbour\w*|behaviour\w*|centre[sd]?|catalogue\w*"
                        r"|(?:initial|normal|standard|summar|organ|recogn|minim|serial|visual|random|optim)is(?:e[sd]?|"
                        r"ing|ation\w*))\b",
    "coined words": r"\b(?:at hand|of consequence|is no part|(?:lies?|lay|stands?) beside|beside it|taken as it is"
                    r"|is no secret|no speed by itself)\b",
    "'goes on where it was' for 'continues'": r"\bgoes on (?:where|from|with)\b|\bgo on (?:where|from)\b",
    "'not there' for 'missing'": r"\b(?:is|are) not there\b|\bthat (?:is|are) there already\b",
    "'as done' with 'take'": r"\b[Tt]akes? (?:[\w.`/]+ ){1,8}as done\b",
    "'so many' for 'this many'": r"\b(?:after|only|of|under) so many\b",
    "'a' for 'per'": r"\b(?:[Oo]ne|[Aa]) (?:row|line|panel|dot|byte|file|table|thread|network|run|cell|word|label) an? "
                     r"(?:row|line|panel|seed|target|level|class|claim|cell|network|weight|run|process|page|source)\b"
                     r"|\b(?:images|networks|jobs) an? (?:second|hour|minute)\b",
    "'whoever'": r"\b[Ww]hoever\b",
}
NOUN_FIRST = r"(?:The|A|An|What|Which|How|Whether|Every|Each|All|One|Returns|Raises|Yields|Gives|Makes|Reads|Writes)\b"


def without_code(text):
    "Text without code, tables, addresses and what other programs write."
    text = re.sub(r"```.*?```|<!--.*?-->|\$\$.*?\$\$", " ", text, flags=re.S)
    text = re.sub(r"^\s*\|.*$", "", text, flags=re.M)
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`\n]*`|\$[^$\n]*\$", "x", text))


def pieces(path):
    "(what it is, text) of every piece of prose in a file: Markdown, docstrings of functions, help of commands."
    if path.suffix == ".md": return [("Markdown", path.read_text(encoding="utf-8"))]
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown": found.append(("Markdown", source))
        if cell["cell_type"] != "code": continue
        try: tree = ast.parse(re.sub(r"^\s*[!%].*$", "pass", source, flags=re.M))
        except SyntaxError: continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                kind = "property" if "property" in ast.unparse(node).partition("def ")[0] else kind
                found.append((kind, ast.get_docstring(node)))
            if isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant):
                found.append(("help", str(node.value.value)))
    return found


def sentences(text):
    "The sentences of Markdown."
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*:] |\d+\. |#|>))", without_code(text)):
        yield from re.split(r"(?<=[.?!:])\s+(?=[A-Z\[*x])", " ".join(paragraph.split()))


def one_by_one(paths):
    "A test for every file."
    return pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in paths])


FILES = one_by_one([*TEXTS, *NOTEBOOKS])


@FILES
def test_no_listed_habit(path):
    found = [f"{name}: …{plain[max(0, m.start() - 40):m.end() + 30]}…" for _, text in pieces(path)
             for plain in [" ".join(without_code(text).split())] for name, habit in HABITS.items()
             for m in re.finditer(habit, plain)]
    assert not found, "\n".join(found)


@FILES
def test_no_sentence_is_too_long(path):
    long = [s for kind, text in pieces(path) if kind == "Markdown" for s in sentences(text) if len(s.split()) > LONGEST]
    assert not long, "\n".join(long)


@one_by_one(NOTEBOOKS)
def test_docstrings_of_functions_are_imperative(path):
    found = [text for kind, text in pieces(path) if kind == "function" and re.match(NOUN_FIRST, text)]
    assert not found, "\n".join(found)


PAGES = [p for p in NOTEBOOKS if p.parent.name == "papers" or p.stem == "index"]


@pytest.mark.parametrize("path", [ROOT/"README.md", *PAGES], ids=lambda p: p.stem)
def test_data_sets_have_the_names_that_people_write(path):
    text = re.sub(r"```.*?```", "", "\n".join(t for kind, t in pieces(path) if kind == "Markdown"), flags=re.S)
    found = [name for name in DATASETS if "_" in name and re.search(rf"`{name}`", text)]
    assert not found, found


def test_home_defines_its_terms_where_they_first_occur():
    text = "\n".join(t for _, t in pieces(ROOT/"nbs"/"index.ipynb"))
    for term in ("winning ticket", "source", "target", "arm", "budget"):
        first = re.search(rf"(?i)\W*\b{term}s?\b\W*", text)[0]
        assert "*" in first, f"{term!r} is used before it is defined: {first!r}"


def test_habits_are_found():
    "Each habit is found in a sentence that has it."
    for bad in ("The colour of the line.", "The tables were not at hand.", "It goes on where it was.",
                "Tickets that are not there.", "Takes the rows as done.", "after so many minutes", "One row a target.",
                "Whoever looks twice."):
        assert any(re.search(habit, bad) for habit in HABITS.values()), bad
    assert len([*sentences("A first one. A second one.\n\n- A third.")]) == 3
