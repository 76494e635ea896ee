"The site: built without warnings, whole, and at home without a network."
import ast
import html
import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import Browser, find_chromium

from lth_nb.answers import read_findings
from lth_nb.claims import CLAIMS
from lth_nb.questions import short_answers

ROOT = Path(__file__).resolve().parents[1]
BUILD, SITE = ROOT/"nbs"/"site"/"build.py", ROOT/"_site"
LIBRARY = sorted((ROOT/"nbs").glob("[0-9]*.ipynb"))
sys.path.insert(0, str(BUILD.parent))
import api  # noqa: E402
import running  # noqa: E402

pytestmark = pytest.mark.slow  # the site is built once for all of them


def build(*words, **environment):
    return subprocess.run(
        [sys.executable, str(BUILD), *map(str, words)], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True
    )


class Shown(HTMLParser):
    "The text of a page's outputs, without scripts and styles."
    def __init__(self, text):
        super().__init__()
        self.open, self.said = [], []
        self.feed(text)
        self.plain = " ".join(self.said)

    def handle_starttag(self, tag, attributes):
        if tag == "div": self.open.append("cell_output" in (dict(attributes).get("class") or "").split())
        if tag in ("script", "style"): self.open.append(None)

    def handle_endtag(self, tag):
        if tag in ("div", "script", "style"): self.open.pop()

    def handle_data(self, data):
        if any(self.open) and None not in self.open: self.said.append(data)


class Page(HTMLParser):
    "What a page links to, what it loads, and where it can be linked."
    LOADS = dict(
        script="src", img="src", iframe="src", source="src", video="src", audio="src", embed="src", object="data"
    )

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], {""}
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        self.plain = html.unescape(re.sub(r"<[^>]+>", "", self.text))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[k] for k in ("id", "name") if found.get(k)}
        if tag == "a" and "href" in found: self.links.append(found["href"])
        if tag == "link" and not {"index", "search", "next", "prev"} & set(found.get("rel", "").split()):
            self.loads.append(found.get("href"))
        if found.get(self.LOADS.get(tag)): self.loads.append(found[self.LOADS[tag]])
        if "srcset" in found: self.loads += [part.split()[0] for part in found["srcset"].split(",")]


@pytest.fixture(scope="session")
def site():
    "Every page of the built site, by its path; no page has written to the checkout."
    def kept():
        return {p: p.stat().st_mtime_ns for folder in ("data/results", "figures") for p in (ROOT/folder).rglob("*")}
    before, done = kept(), build("--strict")
    assert done.returncode == 0, done.stdout + done.stderr
    assert kept() == before
    assert "WARNING" not in done.stderr
    return {path: Page(path) for path in sorted(SITE.rglob("*.html")) if "_static" not in path.parts}


def resolve(path, link):
    "The file and the anchor a relative link leads to."
    file, _, anchor = unquote(link).partition("#")
    file = file.partition("?")[0]
    return ((path.parent/file).resolve() if file else path), anchor


def test_internal_links_and_anchors_resolve(site):
    dead = []
    for path, page in site.items():
        for link in (*page.links, *page.loads):
            if re.match(r"[a-z]+:", link): continue
            target, anchor = resolve(path, link)
            if not target.is_file() or anchor and target in site and anchor not in site[target].anchors:
                dead.append(f"{path.relative_to(SITE)}: {link}")
    assert not dead


def test_nothing_is_loaded_from_elsewhere(site):
    outside = [
        f"{path.relative_to(SITE)}: {link}"
        for path, page in site.items()
        for link in page.loads
        if re.match(r"(https?:)?//", link)
    ]
    for sheet in SITE.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", sheet.read_text(encoding="utf-8"), flags=re.S)
        outside += [
            f"{sheet.relative_to(SITE)}: {link}"
            for link in re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")]*)", text)
        ]
        for link in re.findall(r"url\(\s*['\"]?([^'\")]+)", text):
            if not re.match(r"data:|#|https?:", link):
                assert (sheet.parent/link.partition("?")[0].partition("#")[0]).is_file(), f"{sheet}: {link}"
    assert not outside


def test_no_page_shows_where_it_was_built(site):
    for path, page in site.items(): assert str(ROOT) not in page.text, path


def test_no_output_shows_nan(site):
    "A reader sees an empty cell or words; the code of an example may hold the name."
    seen = [f"{path.relative_to(SITE)}: {found[0]}" for path, page in site.items()
            for found in re.finditer(r".{0,40}\b(?:nan|NaT|<NA>)\b.{0,20}", Shown(page.text).plain, re.I)]
    assert not seen


def test_outputs_are_told_from_code_and_scripts():
    page = Shown("""<div class="cell"><div class="cell_input">float("nan")</div><div class="cell_output docutils">
        <script>var a = NaN;</script><style>nan {}</style><table><tr><td>NaN</td></tr></table><br></div></div>
        <p>nan</p>""")
    assert page.plain.split() == ["NaN"]


def test_every_section_is_there(site):
    home = (SITE/"index.html").read_text(encoding="utf-8")
    for section in ("results", "runs", "guides", "about", "api"): assert f'href="{section}/index.html"' in home
    shown = {path.stem for path in site}
    for notebook in (ROOT/"nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" not in notebook.parts:
            assert re.sub(r"^\d+[a-z]?_", "", notebook.stem) in shown, notebook


def test_search_works_without_a_server(site):
    "The index is a script, which a page from a disk may load, and it knows the pages."
    index = (SITE/"searchindex.js").read_text(encoding="utf-8")
    found = json.loads(re.fullmatch(r"Search\.setIndex\((.*)\)", index, re.S)[1])
    assert {"index", "api/masking", "about/statistics", "guides/first_ticket"} <= set(found["docnames"])
    assert {"ticket", "mask"} <= set(found["terms"]) and "searchindex.js" in site[SITE/"search.html"].text


@pytest.mark.parametrize("notebook", LIBRARY, ids=lambda p: p.stem)
def test_api_pages_hold_docments_tables(site, notebook):
    page = site[SITE/"api"/(notebook.stem.partition("_")[2] + ".html")]
    cells = [
        ("".join(c["source"]))
        for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "code"
    ]
    exported = [
        (name, node, cell)
        for cell in cells
        if re.search(r"^#\|\s*export\b", cell, re.M)
        for name, node in api.exported(cell).items()
    ]
    module = f"lth_nb.{notebook.stem.partition('_')[2]}"
    for name, node, _ in exported:
        assert re.sub(r"[._]", "-", api.label(name, node, module)).lower() in page.anchors, name
    tables = [cell for name, node, cell in exported if "Parameter |" in api.entry(name, node, cell, module, 3)]
    assert len(re.findall(r">\s*Parameter\s*<", page.text)) >= len(tables)
    takes = [
        name
        for name, node, _ in exported
        if not name.startswith("_") and isinstance(node, ast.FunctionDef) and node.args.args
    ]
    assert tables or not takes, f"no table of parameters for {takes}"


def test_results_show_a_verdict_for_every_claim(site):
    studies = [p.stem for p in (ROOT/"data"/"results").glob("*.csv") if p.with_suffix(".json").is_file()]
    cards, home = site[SITE/"results"/"index.html"], site[SITE/"index.html"]
    assert len(re.findall(r'class="verdict verdict-', cards.text)) == len(studies)*len(CLAIMS)
    for told in short_answers(read_findings("small")): assert told.sentence in home.plain, told.question
    for study in studies:
        for paper in (ROOT/"nbs"/"papers").glob("*.ipynb"): assert SITE/"results"/study/f"{paper.stem}.html" in site
        assert any(link.startswith(f"{study}/") for link in cards.links)


def test_formulas_are_drawn_by_a_script_that_is_there(site):
    page = site[SITE/"about"/"protocol.html"]
    assert page.text.count("katex-source") > 3 and any("katex.min.js" in link for link in page.loads)
    assert (SITE/"_static"/"katex"/"LICENSE").is_file()
    assert not any("katex" in link for link in site[SITE/"api"/"core.html"].loads)


def test_an_unchanged_site_is_not_built_again(site):
    begin = time.time()
    assert "is up to date" in build("--strict").stdout
    assert time.time() - begin < 20


def test_outputs_stay_with_their_code_when_prose_changes():
    def cell(kind, source): return dict(cell_type=kind, source=source, metadata={})
    code, shown = [cell("code", "a = 1"), cell("code", "a + 1")], [dict(output_type="stream", text="2")]
    page = [code[0], cell("markdown", "New words."), code[1], cell("markdown", "And more.")]
    running.fill(page, dict(outputs=[[], shown]))
    assert [c.get("outputs") for c in page] == [[], None, shown, None]


@pytest.mark.parametrize("cells, words", [
    (
        [("markdown", "# Broken\n\n> A page that fails.", []), ("code", "1 / 0", [])],
        ["about/broken", "cell 2", "ZeroDivisionError"],
    ),
    (
        [("markdown", "# Broken\n\n> A page with a [dead link](nowhere.ipynb).", [])],
        ["nbs/about/broken.ipynb", "'nowhere.ipynb'"],
    ),
], ids=["error", "dead link"])
def test_a_page_that_fails_is_named(tmp_path, cells, words):
    cells = [
        dict(
            cell_type=kind, id=f"c{i}", metadata=dict(tags=tags), source=text,
            **(dict(outputs=[], execution_count=None) if kind == "code" else {})
        )
        for i, (kind, text, tags) in enumerate(cells)
    ]
    file = tmp_path/"nbs"/"about"/"broken.ipynb"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    (tmp_path/"lth_nb").symlink_to(ROOT/"lth_nb")
    done = build("--strict", "--out", tmp_path/"_site", LTH_HOME=str(tmp_path))
    assert done.returncode == 1 and not (tmp_path/"_site").exists()
    for word in words: assert word in done.stderr
    whole = file.with_name("whole.ipynb")
    whole.write_text(
        json.dumps(
            dict(
                cells=[
                    dict(cell_type="markdown", id="c0", metadata={}, source="# Whole\n\n> A page that does not fail.")
                ],
                metadata={},
                nbformat=4,
                nbformat_minor=5,
            )
        )
    )
    done = build("--out", tmp_path/"_site", LTH_HOME=str(tmp_path))
    assert done.returncode == 1, "a site with a failed page is no success"
    for word in words: assert word in done.stderr
    failed, other = ((tmp_path/"_site"/"about"/f"{name}.html").read_text() for name in ("broken", "whole"))
    assert (
        "This page failed." in failed and "A page that does not fail." in other and words[-1] in html.unescape(failed)
    )


SOURCE = '''#| export
def shown(
    x: int | None,     # a number,
                       # or nothing
    *names: str,
    scale: Annotated[float, Field(gt=0, le=1)] = 0.5,  # of the result
) -> float:            # in [0, 1]
    "One line."

class Held:
    "A class."
    size: int = 3      # pixels
    def half(self) -> int: "Half of it."

_private = 1
LIMIT = 7  # the most
'''


def test_docments_are_read_from_source():
    found = api.exported(SOURCE)
    assert list(found) == ["shown", "Held", "LIMIT"]
    text = {name: api.entry(name, node, SOURCE, "lth_nb.example", 3) for name, node in found.items()}
    assert "shown(x, *names, scale=0.5)" in text["shown"] and "One line." in text["shown"]
    assert r"| `x` | `int \| None` |  | a number, or nothing |" in text["shown"]
    assert "| `scale` | `float`, > 0, ≤ 1 | `0.5` | of the result |" in text["shown"]
    assert "| **returns** | `float` |  | in [0, 1] |" in text["shown"]
    assert "| `size` | `int` | `3` | pixels |" in text["Held"] and "| `half()` | `int` | Half of it. |" in text["Held"]
    assert "LIMIT = 7  # the most" in text["LIMIT"]


@pytest.fixture
def browser(site):
    if not find_chromium(): pytest.skip("there is no Chromium here: apt install chromium")
    with Browser() as chromium: yield chromium


SEEN = ["index", "results/index", "results/small/budget", "results/quick/explorer", "api/masking", "about/statistics",
        "guides/first_ticket"]


@pytest.mark.parametrize("width", [400, 1300])
def test_pages_in_a_browser(browser, width):
    "No error on the console, nothing wider than the window, a title, and every picture with words for it."
    for name in SEEN:
        browser.open(SITE/f"{name}.html", width)
        assert not browser.errors, (name, browser.errors)
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} scrolls sideways"
        assert browser.run("document.title").strip(), name
        assert browser.run("[...document.images].every(i => i.alt && !/^[0-9a-f_]{32,}/.test(i.alt))"), name


def test_the_explorer_changes_when_it_is_used(browser):
    "Every menu changes what is drawn; each has words in front of it."
    browser.open(SITE/"results"/"small"/"explorer.html", 1300)
    browser.until("document.querySelectorAll('.explorer svg path').length > 5")
    shape = "document.querySelector('.explorer svg').outerHTML"
    menus = "document.querySelectorAll('.explorer select')"
    assert browser.run(f"{menus}.length") == 5
    assert browser.run(f"[...{menus}].every(m => m.closest('label, .vega-bind').innerText.trim().length > 1)")
    for number in range(5):
        before = browser.run(shape)
        browser.run(f"(() => {{ const m = {menus}[{number}]; m.selectedIndex = 1; "
                    "for (const e of ['input', 'change']) m.dispatchEvent(new Event(e)) })()")
        browser.until(f"{shape} != {json.dumps(before)}")
    assert not browser.errors


def test_search_finds_words_before_code(browser):
    "What a term means comes before the functions that are named after it."
    for words in ("rewinding", "ticket"):
        address = (SITE/"search.html").resolve().as_uri()
        browser.send("Page.navigate", url=f"{address}?q={words}")
        browser.until("document.querySelectorAll('#search-results li a').length > 3")
        first = browser.run("document.querySelector('#search-results li a').getAttribute('href')")
        assert first.startswith(("about/glossary", "about/protocol")), (words, first)
