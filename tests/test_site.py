"The site: built without warnings, whole, and at home without a network."
import ast
import html
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote_plus, unquote

import pytest
from browser import Browser, find_chromium
from PIL import Image

from lth_nb.answers import read_findings
from lth_nb.claims import CLAIMS
from lth_nb.questions import short_answers

ROOT = Path(__file__).resolve().parents[1]
BUILD, SITE = ROOT/"nbs"/"site"/"build.py", ROOT/"_site"
LIBRARY, PAPERS = sorted((ROOT/"nbs").glob("[0-9]*.ipynb")), ROOT/"nbs"/"papers"
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


def claims_on(page):
    "The claims that a results page shows, by its code."
    shown = re.search(r"show_claims\(found, (\[.*?\])", (PAPERS/f"{page}.ipynb").read_text())
    return re.findall(r"[A-Z]\d+", shown[1]) if shown else []


def test_results_show_a_verdict_for_every_claim(site):
    "Or, if a study names its pages, for the claims of these pages."
    studies = [p for p in (ROOT/"data"/"results").glob("*.json") if p.with_suffix(".csv").is_file()]
    pages = {study.stem: json.loads(study.read_text()).get("pages", []) for study in studies}
    expected = [sum(map(len, map(claims_on, named))) if named else len(CLAIMS) for named in pages.values()]
    cards, home = site[SITE/"results"/"index.html"], site[SITE/"index.html"]
    assert len(re.findall(r'class="verdict verdict-', cards.text)) == sum(expected) and 1 in expected
    for told in short_answers(read_findings("small")): assert told.sentence in home.plain, told.question
    for study, named in pages.items():
        for paper in (ROOT/"nbs"/"papers").glob("*.ipynb"):
            shown = not named or paper.stem in named
            assert (SITE/"results"/study/f"{paper.stem}.html" in site) == shown, (study, paper.stem)
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


def page_that_prints(name, words):
    title = dict(cell_type="markdown", id="c0", metadata={}, source=f"# {name}\n\n> A page that prints.")
    code = dict(cell_type="code", id="c1", metadata={}, source=f"print({words!r}.upper())", outputs=[],
        execution_count=None)
    return json.dumps(dict(cells=[title, code], metadata={}, nbformat=4, nbformat_minor=5))


def test_examples_are_left_out_or_kept(tmp_path):
    "Without examples, API and guides have no outputs, unless an earlier build ran them. Other pages are run."
    for name in ("nbs/site", "lth_nb", "settings.ini", "CHANGELOG.md", "CITATION.cff"):
        (tmp_path/name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path/name).symlink_to(ROOT/name)
    for name, words in (("guides/one", "first"), ("about/two", "second")):
        (tmp_path/"nbs"/name).parent.mkdir(exist_ok=True)
        (tmp_path/"nbs"/f"{name}.ipynb").write_text(page_that_prints(Path(name).name, words))

    def pages(*how):
        done = build("--out", tmp_path/"_site", *how, LTH_HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        return [(tmp_path/"_site"/f"{name}.html").read_text() for name in ("guides/one", "about/two")]

    guide, about = pages("--no-examples")
    assert "FIRST" not in guide and "did not run the examples" in guide and "SECOND" in about
    guide, about = pages()
    assert "FIRST" in guide and "did not run the examples" not in guide and "SECOND" in about
    assert "FIRST" in pages("--no-examples")[0], "the outputs of an earlier build are valid"
    (tmp_path/"nbs"/"guides"/"one.ipynb").write_text(page_that_prints("one", "third"))
    guide = pages("--no-examples")[0]
    assert "FIRST" not in guide and "THIRD" not in guide, "outputs of other code are not shown"


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


AXE = importlib.util.find_spec("axe_playwright_python")
NARROW, WIDE = 400, 1300
FOUND_BY_AXE = """axe.run(document, {resultTypes: ["violations"], preload: false,
  rules: {"label-content-name-mismatch": {enabled: true}, "scrollable-region-focusable": {enabled: true}}}).then(
  found => found.violations.filter(v => ["serious", "critical"].includes(v.impact) || v.id == "empty-table-header")
    .flatMap(v => v.nodes.map(n => `${v.id}: ${n.html.slice(0, 120)}`)))"""


@pytest.mark.parametrize("scheme, width", [("light", WIDE), ("light", NARROW), ("dark", WIDE)])
def test_every_page_in_a_browser(browser, site, scheme, width):
    "No error on a first visit, nothing wider than the window, words for every picture, and nothing serious from axe."
    axe = Path(AXE.submodule_search_locations[0], "axe.min.js").read_text(encoding="utf-8") if AXE else ""
    browser.prefer(scheme)
    wrong, titles = [], {}
    for path in site:
        browser.open(path, width)
        name = str(path.relative_to(SITE))
        wrong += [f"{name}: console: {error}" for error in browser.errors]
        if not browser.run("document.documentElement.scrollWidth <= window.innerWidth"):
            wrong.append(f"{name}: scrolls sideways")
        blind = browser.run("[...document.images].filter(i => !i.hasAttribute('alt') || "
                            "/[0-9a-f]{32}/.test(i.alt)).map(i => i.src)")
        wrong += [f"{name}: no words for {source}" for source in blind]
        titles.setdefault(browser.run("document.title"), []).append(name)
        if axe: wrong += [f"{name}: {found}" for found in browser.run(f"{axe};{FOUND_BY_AXE}")]
    wrong += [f"{title!r} is the title of {', '.join(names)}" for title, names in titles.items() if len(names) > 1]
    assert not wrong, "\n".join(wrong[:40])
    if not axe: pytest.skip("all but axe was tested: pip install --no-deps axe-playwright-python")


def test_every_picture_says_what_it_shows(site):
    "Pictures of one page differ in their words."
    for path, page in site.items():
        found = re.findall(r'<img[^>]*? alt="([^"]*)"[^>]*?_images/', page.text)
        assert all(len(words) > 15 for words in found), (path, found)
        assert len(set(found)) == len(found), (path, [w for w in found if found.count(w) > 1][:2])


EXPLORER = SITE/"results"/"small"/"explorer.html"
SHAPE = "document.querySelector('#explorer svg').outerHTML"
MENUS = "document.querySelectorAll('#explorer select')"


def test_the_explorer_changes_when_it_is_used(browser):
    "Every menu with a choice changes what is drawn; each has words in front of it."
    browser.open(EXPLORER, WIDE)
    browser.until("document.querySelectorAll('#explorer svg path').length > 5")
    names = browser.run(f"[...{MENUS}].map(m => m.closest('label').innerText.trim().split('\\n')[0])")
    assert len(names) == 7 and all(names), names
    for number, name in enumerate(names):
        if browser.run(f"{MENUS}[{number}].options.length") == 1: continue
        before = browser.run(SHAPE)
        browser.run(f"(() => {{ const m = {MENUS}[{number}]; m.selectedIndex = 1; "
                    "for (const e of ['input', 'change']) m.dispatchEvent(new Event(e)) })()")
        browser.until(f"{SHAPE} != {json.dumps(before)}")
        assert browser.run("document.querySelector('#explorer-said').innerText"), name
        browser.run(f"(() => {{ const m = {MENUS}[{number}]; m.selectedIndex = 0; "
                    "for (const e of ['input', 'change']) m.dispatchEvent(new Event(e)) })()")
        browser.until("/^[1-9]/.test(document.querySelector('#explorer-said').innerText)")
    assert not browser.errors


def test_the_explorer_by_keyboard(browser):
    "An arrow key on a menu draws anew, and the table below tells the new numbers."
    browser.open(EXPLORER, WIDE)
    browser.until("document.querySelectorAll('#explorer-table tbody tr').length > 5")
    rows = "document.querySelector('#explorer-table tbody').textContent"
    drawn, told = browser.run(SHAPE), browser.run(rows)
    browser.run(f"{MENUS}[1].focus()")
    browser.press("ArrowDown", 40)
    browser.until(f"{SHAPE} != {json.dumps(drawn)} && {rows} != {json.dumps(told)}")
    heads = browser.run("[...document.querySelectorAll('#explorer-table thead th')].map(h => h.textContent)")
    assert heads[0] == "arm" and all(heads)


def test_a_point_of_the_explorer_tells_its_key(browser):
    browser.open(EXPLORER, WIDE)
    browser.until("document.querySelectorAll('#explorer .mark-symbol path').length > 5")
    mark = "document.querySelectorAll('#explorer .mark-symbol.role-mark path')[3]"
    browser.run(f"{mark}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    browser.run("new Promise(done => setTimeout(done, 1000))")  # until the page has settled
    x, y = browser.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({mark}.getBoundingClientRect())")
    shown = "!!document.querySelector('#vg-tooltip-element.visible')"
    for turn in range(20):  # a busy machine may miss a movement
        for shift in (-3, turn % 2): browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + shift, y=y)
        if browser.run(f"new Promise(done => setTimeout(() => done({shown}), 500))"): break
    said = browser.run("document.querySelector('#vg-tooltip-element').innerText")
    for word in ("arm", "level", "target", "tickets from", "network", "recipe", "seeds", "weights left"):
        assert word in said, said


def test_the_layers_of_a_mask(browser):
    "The slider changes the bars, and a second mask adds its own."
    browser.open(SITE/"results"/"quick"/"explorer.html", WIDE)
    bars = "document.querySelectorAll('#layers .mark-rect path').length"
    browser.until(f"{bars} > 0")
    shape, one = browser.run("document.querySelector('#layers svg').outerHTML"), browser.run(bars)
    browser.run("(() => { const m = document.querySelector('#layers input[type=range]'); m.value = 1; "
                "m.dispatchEvent(new Event('input')) })()")
    browser.until(f"document.querySelector('#layers svg').outerHTML != {json.dumps(shape)}")
    browser.run("(() => { const m = document.querySelectorAll('#layers select')[2]; m.selectedIndex = 2; "
                "for (const e of ['input', 'change']) m.dispatchEvent(new Event(e)) })()")
    browser.until(f"{bars} == {2 * one}")


def test_the_explorer_without_scripts(browser):
    "A page that may run no script shows the first view as a picture, with words."
    browser.scripts(False)
    browser.open(EXPLORER, WIDE)
    browser.scripts(True)
    picture = "document.querySelector('img.explorer-still')"
    assert browser.run(f"{picture}.naturalWidth") > 200 and browser.run(f"{picture}.alt")
    noted = (SITE/"results"/"small"/"explorer.html").read_text(encoding="utf-8")
    assert noted.count('<noscript><img class="explorer-still"') >= 1


@pytest.mark.parametrize("words", ["rewinding", "theta_k", "θ_k", "late resetting", "ticket"])
def test_search_finds_words_before_code(browser, words):
    "What a term means comes before the functions that are named after it."
    browser.send("Page.navigate", url=f"{(SITE/'search.html').resolve().as_uri()}?q={quote_plus(words)}")
    browser.until("document.querySelectorAll('#search-results li a').length > 1")
    browser.until("/finished|found/i.test(document.querySelector('#search-results').innerText)")
    found = browser.run("[...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'))")
    assert found[0].startswith(("about/glossary", "about/protocol")), (words, found)
    at = [next((i for i, f in enumerate(found) if f.startswith(p)), 99) for p in ("about/glossary", "about/protocol")]
    first_code = next((i for i, f in enumerate(found) if f.startswith("api/")), 99)
    assert max(at) < first_code, (words, found)


def test_home_and_results_on_a_telephone(browser):
    "The figure of the home page is legible, no table is cut, and the list of answers is not endless."
    browser.open(SITE/"index.html", NARROW)
    scale = browser.run("(i => i.clientWidth / i.naturalWidth)(document.querySelector('article img'))")
    assert scale * 2 * 10 * 100 / 72 > 9, "its smallest labels, of 10 points, are less than 9 pixels high"
    assert browser.run("[...document.querySelectorAll('table')].every(t => t.scrollWidth <= 400)")
    browser.open(SITE/"results"/"index.html", NARROW)
    assert browser.run("document.documentElement.scrollHeight") < 12_000


def test_code_is_copied_by_a_button(browser):
    browser.open(SITE/"guides"/"first_ticket.html", WIDE)
    browser.until("document.querySelectorAll('button.copy').length > 3")
    browser.run("""navigator.clipboard.writeText = async text => { window.copied = text };
                   document.querySelector('button.copy').click()""")
    code = browser.run("document.querySelector('div.highlight pre').innerText")
    browser.until("window.copied")
    assert browser.run("window.copied") == code.rstrip()


def test_figures_in_the_dark(browser):
    "Figures turn their lightness round; photographs stay as they are."
    browser.prefer("dark")
    browser.open(SITE/"results"/"small"/"budget.html", WIDE)
    look = "getComputedStyle(document.querySelector('div.cell_output img:not([data-photograph])')).filter"
    assert "invert" in browser.run(look)
    browser.prefer("light")
    browser.open(SITE/"results"/"small"/"budget.html", WIDE)
    assert browser.run(look) == "none"


def test_what_readers_expect_of_a_site(site):
    "Gallery, downloads, version, changelog, citation, 404, descriptions, card, icon."
    gallery = site[SITE/"gallery.html"]
    assert gallery.text.count('class="sd-card-img-top') > 15
    assert '_images/results-small-explorer.webp"' in gallery.text
    for page in ("about/changelog", "about/citation", "404"): assert SITE/f"{page}.html" in site
    assert "@software" in site[SITE/"about"/"citation.html"].plain
    for notebook in ("guides/first_ticket", "results/small/budget", "api/masking"):
        book = json.loads((SITE/"_downloads"/f"{notebook}.ipynb").read_text(encoding="utf-8"))
        assert book["cells"] and not any(c.get("outputs") for c in book["cells"])
        ast.parse(re.sub(r"^[!%].*$", "", (SITE/"_downloads"/f"{notebook}.py").read_text(encoding="utf-8"), flags=re.M))
        assert any(link.endswith(f"_downloads/{notebook}.py") for link in site[SITE/f"{notebook}.html"].links)
    card = Image.open(SITE/"_static"/"card.png")
    assert card.size == (1200, 630) and len(set(card.convert("L").resize((120, 63)).tobytes())) > 20
    said = {}
    for path, page in site.items():
        words = re.search(r'<meta name="description" content="([^"]+)"', page.text)
        assert words and len(words[1]) > 10, path
        said.setdefault(words[1], []).append(path)
        assert 'property="og:image" content="https://' in page.text and 'rel="icon"' in page.text, path
        assert re.search(r'class="version"[^>]*>version \d', page.text), path
    several = {w: ps for w, ps in said.items() if len(ps) > 4}
    assert not several, several


def test_run_notebooks_declare_the_kinds_of_their_parameters():
    for notebook in sorted((ROOT/"nbs"/"runs").glob("*.ipynb")):
        done = subprocess.run([sys.executable, "-m", "papermill", "--help-notebook", str(notebook)],
                              capture_output=True, text=True)
        assert "Parameters inferred" in done.stdout and "Unknown type" not in done.stdout, done.stdout
