"Which pages the site has, and the cells of each."
import ast
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

here = Path(__file__).resolve().parent
root = Path(os.environ.get("LTH_HOME") or here.parents[1]).resolve()
nbs, package, work = root/"nbs", "lth_nb", root/"data"/"cache"/"site"


@dataclass(frozen=True)
class Page:
    doc: str              # address on the site, without .html
    notebook: Path        # the notebook it is made from
    section: str = ""     # the section it belongs to
    study: str = ""       # the study a results page is run for
    ran: Path | None = None  # a run of the notebook that is shown as it is


def address(path): return re.sub(r"^\d+[a-z]?_", "", path.stem)


def find_pages(toc, study=None):
    "Every page that is made from a notebook, in the order of the site."
    # a table without a description is no study
    tables = [p.stem for p in sorted((root / "data" / "results").glob("*.csv")) if p.with_suffix(".json").is_file()]
    if study and study not in tables:
        raise SystemExit(f"study {study!r} has no table in data/results; there are {', '.join(tables) or 'none'}")
    first = ([study] if study else []) + toc["headline"]
    studies = sorted(tables, key=lambda s: (first.index(s) if s in first else len(first), s))
    pages = [Page("index", nbs/"index.ipynb", study=studies[0])] if studies and (nbs/"index.ipynb").is_file() else []
    for section in toc["sections"]:
        name, order = section["name"], section.get("order", [])
        ranks = {name: rank for rank, name in enumerate(order)}
        listed = sorted((nbs/section["folder"]).glob("*.ipynb"))
        listed.sort(key=lambda p, ranks=ranks: ranks.get(address(p), len(ranks)))
        found = [p for p in listed if p.stem != "index"]
        if name == "results":
            if studies: pages.append(Page("results/index", nbs/"site"/"results.ipynb", name))
            shown = {s: pages_of(s) for s in studies}
            pages += [Page(f"results/{s}/{address(p)}", p, name, s, paper_run(p, s)) for s in studies for p in found
                if not shown[s] or p.stem in shown[s]]
        elif name == "runs": pages += [Page(f"runs/{address(p)}", p, name, ran=a_run_of(p, studies)) for p in found]
        else: pages += [Page(f"{name}/{address(p)}", p, name) for p in found]
    return pages


def pages_of(study):
    "The names of the only notebooks that show a study; empty: all show it."
    return json.loads((root/"data"/"results"/f"{study}.json").read_text(encoding="utf-8")).get("pages", [])


def a_run_of(notebook, studies):
    "The fullest copy of a training notebook that a study left behind, if the notebook is still the same."
    current = code_of(notebook)
    found = [
        p
        for s in studies
        for p in (root / "data" / "runs" / s / notebook.stem).glob("*.ipynb")
        if ".part" not in p.name and current <= code_of(p)
    ]
    return max(found, key=lambda p: ("--base--" in p.name, p.stat().st_size, p.name), default=None)


def paper_run(notebook, study):
    "The copy of a paper's notebook that `lth run` has just executed, if nothing it depends on is younger."
    copy = root/"data"/"runs"/study/"papers"/notebook.name
    if not copy.is_file() or not code_of(notebook) <= code_of(copy): return None
    used = [
        *(root / "data" / "results").glob(f"{study}.*"),
        *(root / "data" / "papers").glob("*"),
        *(root / package).glob("*.py"),
    ]
    return copy if max(f.stat().st_mtime_ns for f in used) < copy.stat().st_mtime_ns else None


def code_of(notebook):
    return {
        "".join(c["source"])
        for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "code"
    }


def cells_of(page):
    "The cells of a page as they are to be run; a results page gets its study the way papermill passes it."
    cells = json.loads((page.ran or page.notebook).read_text(encoding="utf-8"))["cells"]
    for cell in cells: cell["source"] = "".join(cell["source"])
    if page.study and not page.ran:
        at = next((i for i, c in enumerate(cells) if "parameters" in c["metadata"].get("tags", [])), None)
        if at is None:
            raise SystemExit(
                f"{page.notebook.relative_to(root)}: no cell is tagged `parameters`; tag the one that sets `study`"
            )
        values = {
            n.targets[0].id: ast.unparse(n.value)
            for n in ast.parse(cells[at]["source"]).body
            if isinstance(n, ast.Assign)
        }
        if "study" not in values:
            raise SystemExit(f"{page.notebook.relative_to(root)}: its `parameters` cell does not set `study`")
        if values["study"] != repr(page.study):
            hidden = "#| echo: false\n" * ("echo: false" in cells[at]["source"])
            cells.insert(
                at + 1,
                dict(
                    cell_type="code", metadata={}, source=f'{hidden}study = "{page.study}"', outputs=[],
                    execution_count=None
                ),
            )
    return cells


def write(path, text):
    "Write a file unless it holds just that already, so that Sphinx sees what changed."
    if path.is_file() and path.read_text(encoding="utf-8") == text: return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
