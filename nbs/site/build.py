"""Build the site from the notebooks: run them (an unchanged page is not run again), turn them into pages, render.

    python nbs/site/build.py [--out _site] [--strict] [--study quick]

What a run gave is kept under data/cache/site, by what it depends on: the page's code, the modules it uses, the tables it reads.
"""
import argparse, ast, hashlib, json, multiprocessing, os, re, shutil, sys, time, traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import yaml

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
import api

root = Path(os.environ.get("LTH_HOME") or here.parents[1]).resolve()
nbs, package, work = root/"nbs", "lth_nb", root/"data"/"cache"/"site"
preloaded = ["torch", "pandas", "matplotlib.pyplot", "scipy.stats", "sklearn.datasets", "statsmodels.stats.multitest", "yaml", "fastcore.all", "execnb.shell"]


@dataclass(frozen=True)
class Page:
    doc: str              # address on the site, without .html
    notebook: Path        # the notebook it is made from
    section: str = ""     # the section it belongs to
    study: str = ""       # the study a results page is run for
    ran: Path | None = None  # a run of the notebook that is shown as it is


# Which pages there are


def address(path): return re.sub(r"^\d+[a-z]?_", "", path.stem)


def find_pages(toc, study=None):
    "Every page that is made from a notebook, in the order of the site."
    tables = [p.stem for p in sorted((root/"data"/"results").glob("*.csv"))]
    if study and study not in tables: raise SystemExit(f"study {study!r} has no table in data/results; there are {', '.join(tables) or 'none'}")
    first = ([study] if study else []) + toc["headline"]
    studies = sorted(tables, key=lambda s: (first.index(s) if s in first else len(first), s))
    pages = [Page("index", nbs/"index.ipynb", study=studies[0])] if studies and (nbs/"index.ipynb").is_file() else []
    for section in toc["sections"]:
        name, order = section["name"], section.get("order", [])
        rank = lambda p: (order.index(address(p)) if address(p) in order else len(order), p.name)
        found = [p for p in sorted((nbs/section["folder"]).glob("*.ipynb"), key=rank) if p.stem != "index"]
        if name == "results":
            if studies: pages.append(Page("results/index", nbs/"site"/"results.ipynb", name))
            pages += [Page(f"results/{s}/{address(p)}", p, name, s) for s in studies for p in found]
        elif name == "runs": pages += [Page(f"runs/{address(p)}", p, name, ran=a_run_of(p, studies)) for p in found]
        else: pages += [Page(f"{name}/{address(p)}", p, name) for p in found]
    return pages


def a_run_of(notebook, studies):
    "The fullest copy of a training notebook that a study left behind, if the notebook is still the same."
    current = code_of(notebook)
    found = [p for s in studies for p in (root/"data"/"runs"/s/notebook.stem).glob("*.ipynb") if ".part" not in p.name and current <= code_of(p)]
    return max(found, key=lambda p: ("--base--" in p.name, p.stat().st_size, p.name), default=None)


def code_of(notebook): return {"".join(c["source"]) for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"}


# Running a page, or not


def digest(*parts): return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


@cache
def content(path): return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def imports(module):
    "The modules of the library that a module of the library uses, itself included."
    path = root/package/f"{module}.py"
    if not path.is_file(): return frozenset()
    direct = set(re.findall(rf"\b{package}\.(\w+)", path.read_text())) - {module}
    return frozenset({module}).union(*map(imports, direct))


def cells_of(page):
    "The cells of a page as they are to be run; a results page gets its study the way papermill passes it."
    cells = json.loads((page.ran or page.notebook).read_text(encoding="utf-8"))["cells"]
    for cell in cells: cell["source"] = "".join(cell["source"])
    if page.study:
        at = next((i for i, c in enumerate(cells) if "parameters" in c["metadata"].get("tags", [])), None)
        if at is None: raise SystemExit(f"{page.notebook.relative_to(root)}: no cell is tagged `parameters`; tag the one that sets `study`")
        values = {n.targets[0].id: ast.unparse(n.value) for n in ast.parse(cells[at]["source"]).body if isinstance(n, ast.Assign)}
        if "study" not in values: raise SystemExit(f"{page.notebook.relative_to(root)}: its `parameters` cell does not set `study`")
        if values["study"] != repr(page.study):
            hidden = "#| echo: false\n" * ("echo: false" in cells[at]["source"])
            cells.insert(at + 1, dict(cell_type="code", metadata={}, source=f'{hidden}study = "{page.study}"', outputs=[], execution_count=None))
    return cells


def key_of(page, cells):
    "Everything that what a page shows depends on."
    code = [c["source"] for c in cells if c["cell_type"] == "code"]
    text = "\n".join(code)
    everything = re.search(r"^\s*[!%]|subprocess|papermill", text, re.M)
    used = {p.stem for p in (root/package).glob("*.py")} if everything else set(re.findall(rf"\b{package}\.(\w+)", text))
    used = set().union(*map(imports, used))
    files = [root/package/f"{m}.py" for m in sorted(used)]
    if used & {"results", "study"} or not used: files += sorted((root/"data").glob(f"results/{page.study or '*'}.*")) + sorted((root/"data"/"papers").glob("*"))
    if "study" in used: files += sorted((nbs/"studies").glob("*"))
    if everything: files += sorted((nbs/"runs").glob("*.ipynb"))
    versions = [sys.version, *map(version, ("torch", "numpy", "pandas", "matplotlib", "scipy", "execnb"))]
    return digest(*code, *versions, *map(content, files))


def skip(cell): return cell["cell_type"] != "code" or re.search(r"^#\|\s*eval:\s*false", cell["source"], re.M)


def home_of(page):
    "A project folder of the page's own: what it reads is linked, what it writes (tickets, runs, figures) stays there and goes."
    home = work/"home"/page.doc.replace("/", "-")
    shutil.rmtree(home, ignore_errors=True)
    (home/"data").mkdir(parents=True)
    for name in ("nbs", package, "settings.ini", "data/cache", "data/raw", "data/results", "data/papers"):
        if (root/name).exists(): (home/name).symlink_to(root/name)
    return home


def execute(page, cells):
    "Run the cells in this process, which runs nothing else; returns the outputs of every cell."
    from execnb.shell import CaptureShell
    home = home_of(page)
    os.environ["LTH_HOME"] = str(home)
    try: return run_cells(page, cells, CaptureShell)
    finally: shutil.rmtree(home, ignore_errors=True)


def run_cells(page, cells, CaptureShell):
    os.chdir(page.notebook.parent)
    shell = CaptureShell(page.notebook, timeout=300)
    sys.path.insert(0, str(root))
    outputs, start = [], time.time()
    for i, cell in enumerate(cells):
        outputs.append([] if skip(cell) else list(shell.run(cell["source"])))
        if not skip(cell) and shell.exc is not None:
            where = "".join(traceback.format_exception(shell.exc)[-3:]).rstrip()
            return dict(error=f"{page.doc} ({page.notebook.relative_to(root)}), cell {i + 1}:\n{cell['source']}\n\n{where}")
    return dict(outputs=json.loads(json.dumps(outputs)), seconds=round(time.time() - start, 1))


def run_all(pages, processes=2):
    "The cells of every page with their outputs; stops with all the errors if a page fails."
    done, waiting, errors = {}, {}, []
    for page in pages:
        cells = done[page] = cells_of(page)
        if page.ran: continue
        kept = work/"runs"/f"{page.doc}.json"
        key = key_of(page, cells)
        run = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        if run.get("key") == key: fill(cells, run)
        else: waiting[page] = (cells, kept, key, run.get("seconds", len(cells)))
    if waiting:
        print(f"{len(waiting)} of {len(pages)} pages to run")
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", LTH_THREADS="1", PYTHONPATH=os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
                          PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), COLUMNS="110")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(preloaded)
        with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
            for future in as_completed(jobs := {pool.submit(execute, page, cells): page for page, (cells, *_) in sorted(waiting.items(), key=lambda w: -w[1][3])}):
                page = jobs[future]
                cells, kept, key, _ = waiting[page]
                run = future.result()
                if "error" in run: errors.append(run["error"]); continue
                write(kept, json.dumps(dict(run, key=key)))
                print(f"  {run['seconds']:5.1f} s  {page.doc}")
                fill(cells, run)
    if errors: raise SystemExit("\n\n".join(["these pages failed:", *errors]))
    return done


def fill(cells, run):
    for cell, outputs in zip(cells, run["outputs"], strict=True):
        if cell["cell_type"] == "code": cell["outputs"] = outputs


def write(path, text):
    "Write a file unless it holds just that already, so that Sphinx sees what changed."
    if path.is_file() and path.read_text(encoding="utf-8") == text: return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


# From executed cells to a page


def parted(source):
    "The `#|` directives of a cell as a dict, and the source without them."
    lines = source.splitlines()
    directives = dict((re.split(r"[:\s]\s*", line[2:].strip(), maxsplit=1) + [""])[:2] for line in lines if line.startswith("#|"))
    return directives, "\n".join(line for line in lines if not line.startswith("#|")).strip("\n")


def only_imports(source):
    try: body = ast.parse(source).body
    except SyntaxError: return False
    return bool(body) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)


def heading(cells):
    "Title and subtitle: the `# ` and the `> ` line of the first cell."
    first = cells[0]["source"] if cells and cells[0]["cell_type"] == "markdown" else ""
    find = lambda pattern: m.group(1).strip() if (m := re.search(pattern, first, re.M)) else ""
    return find(r"^# (.+)$"), find(r"^> (.+)$")


class Site:
    "What the pages must know of each other: addresses, titles, exported names."

    def __init__(self, pages, cells):
        self.pages, self.cells = pages, cells
        self.headings = {p.doc: heading(cells[p]) for p in pages}
        self.by_notebook = {}
        for p in pages: self.by_notebook.setdefault(p.notebook, []).append(p)
        self.names = {}
        for p in pages:
            if p.section != "api": continue
            for cell in cells[p]:
                for name, node in self.exported(cell).items(): self.names.setdefault(name, []).append(api.label(name, node, self.module(p)))
        self.files = {}

    def module(self, page): return f"{package}.{address(page.notebook)}"

    def exported(self, cell):
        directives, source = parted(cell["source"])
        return api.exported(source) if cell["cell_type"] == "code" and "export" in directives else {}

    def twin(self, notebook, study):
        "The page of a notebook, that of the study if it has several."
        found = self.by_notebook.get(notebook, [])
        return next((p for p in found if p.study == study), found[0] if found else None)

    def target(self, page, link):
        "The page or file a relative link in a notebook leads to; None for all other links."
        if not link or re.match(r"[a-z]+:|[#/<]", link): return None
        link, _, study = link.partition("?study=")
        path = Path(os.path.normpath(page.notebook.parent/link))
        if found := self.twin(path, study or page.study): return found
        if path.is_file() and path.suffix != ".ipynb": return path
        raise SystemExit(f"{page.notebook.relative_to(root)}: a link leads to {link!r}, which is no page of the site and no file")

    def markdown(self, page, text):
        "Links between notebooks become links between pages; names of the library become links to their entries."
        def link(m):
            to = self.target(page, m[2])
            if isinstance(to, Path):
                self.files[copy := f"_files/{to.relative_to(root)}"] = to
                return f"{m[1]}(/{copy})"
            return f"{m[1]}(/{to.doc}.ipynb{m[3] or ''})" if to else m[0]

        def name(m):
            bare = m[1].removesuffix("()").rpartition(".")[2]
            labels = self.names.get(bare, [])
            certain = m[1].endswith("()") or m[1].startswith(package) or not re.fullmatch(r"[a-z]+", bare)
            return f"[`{m[1]}`](#{labels[0]})" if len(labels) == 1 and certain else m[0]

        parts = re.split(r"(^ *`{3,}.*?^ *`{3,} *$|^#+ .*?$)", text, flags=re.M | re.S)
        for i in range(0, len(parts), 2):
            parts[i] = re.sub(r"(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s#]*)(#[^)\s]*)?\)", link, parts[i])
            parts[i] = re.sub(r"(?<![`\[\w])(?<!\n\| )`([A-Za-z_][\w.]*(?:\(\))?)`(?![`\]])", name, parts[i])
        return "".join(parts)

    def html(self, page, text):
        "The same for links in HTML outputs."
        def link(m):
            to = self.target(page, m[1])
            return f'href="{os.path.relpath(to.doc, Path(page.doc).parent)}.html{m[2] or ""}"' if isinstance(to, Page) else m[0]
        return re.sub(r'href="([^"#]+\.ipynb)(#[^"]*)?"', link, text)

    def outputs(self, page, cell):
        "Outputs fit for a page: no progress bars, no widgets, images at the size they were drawn for."
        kept, width = [], None
        for out in cell["outputs"]:
            out = {k: v for k, v in out.items() if k != "transient"}
            if out["output_type"] == "stream":
                text = "".join(out["text"])
                if out["name"] == "stderr" and ("\r" in text or "it/s" in text): continue
                out["text"] = text.replace("\r\n", "\n")
            if data := dict(out.get("data", {})):
                if "application/vnd.jupyter.widget-view+json" in data: continue
                if "text/html" in data: data["text/html"] = self.html(page, "".join(data["text/html"]))
                if "text/markdown" in data: data["text/markdown"] = self.markdown(page, "".join(data["text/markdown"]))
                size = out.get("metadata", {}).get("image/png", {})
                width = size.get("width", width)
                out.update(data=data, metadata={})
            kept.append(out)
        return kept, width

    def page(self, page):
        "The page as a notebook for myst-nb, as JSON."
        made, level = [], 1
        def add(text): made.append(dict(cell_type="markdown", metadata={}, source=self.markdown(page, text)))
        for cell in self.cells[page]:
            if cell["cell_type"] == "raw": continue
            if cell["cell_type"] == "markdown":
                for m in re.finditer(r"^(#+) ", cell["source"], re.M): level = len(m[1])
                add(re.sub(r"\A(# .+\n+)> (.+)$", r'\1{.subtitle}\n\2', cell["source"], count=1, flags=re.M))
                continue
            directives, source = parted(cell["source"])
            tags = set(cell["metadata"].get("tags", []))
            if {"hide", "default_exp"} & set(directives) or "remove-cell" in tags or not source: continue
            names = self.exported(cell) if page.section == "api" else {}
            for name, node in names.items(): add(api.entry(name, node, source, self.module(page), min(level, 2) + 1))
            outputs, width = self.outputs(page, cell)
            if directives.get("output") == "asis":
                for out in outputs: add("".join(out.get("data", {}).get("text/markdown", out.get("text", ""))))
                continue
            if directives.get("output") == "false": outputs = []
            shown, prompt = set(), None
            if directives.get("echo") == "false": shown.add("remove-input")
            elif "export" in directives or "exporti" in directives:
                if only_imports(source) and not outputs: continue
                shown.add("hide-input"); prompt = "Source" if names else "Source of " + ", ".join(api.defined(source))
            elif page.section in ("api", "about", "results") and not outputs:
                if only_imports(source): shown.add("hide-input"); prompt = "Imports"
                elif page.section == "api" and re.search(r"^\s*(assert|test_\w+\(|with .*(assert|test_))|\btest_(eq|fail|close|ne)\(", source, re.M): shown.add("hide-input"); prompt = "Tests"
            elif directives.get("code-fold") == "true": shown.add("hide-input")
            mystnb = dict(**(dict(image=dict(width=f"{width}px")) if width else {}), **(dict(code_prompt_show=prompt, code_prompt_hide=prompt) if prompt else {}))
            made.append(dict(cell_type="code", execution_count=None, metadata=dict(tags=sorted(shown), **(dict(mystnb=mystnb) if mystnb else {})),
                             source=source, outputs=outputs))
        made.append(dict(cell_type="markdown", metadata={}, source=self.footer(page)))
        for i, cell in enumerate(made): cell["id"] = f"c{i}"
        page = dict(cells=made, metadata=dict(kernelspec=dict(display_name="Python 3", language="python", name="python3"),
            language_info=dict(name="python", pygments_lexer="ipython3")), nbformat=4, nbformat_minor=5)
        return json.dumps(page, indent=1, ensure_ascii=False).replace(f"{root}/", "").replace(str(root), ".")  # where it was built is of no interest

    def footer(self, page):
        words = f"This page is the notebook `{page.notebook.relative_to(root)}`"
        if page.study: words += f", run for the study `{page.study}`"
        if page.ran: words += f", as it ran in `{page.ran.relative_to(root)}`"
        return "{.colophon}\n" + words + "." + (self.toctrees() if page.doc == "index" else self.results_toctree() if page.doc == "results/index" else "")

    def tree(self, docs, caption=""):
        return "\n\n" + "\n".join(["```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), "", *docs, "```"])

    def toctrees(self): return self.tree([f"/{s}/index" for s in dict.fromkeys(p.section for p in self.pages if p.section)])

    def results_toctree(self):
        studies = dict.fromkeys(p.study for p in self.pages if p.section == "results" and p.study)
        return "".join(self.tree([f"/{p.doc}" for p in self.pages if p.section == "results" and p.study == s], f"Study {s}") for s in studies)

    def section(self, section):
        "The landing page of a section: every page with its subtitle."
        pages = [p for p in self.pages if p.section == section["name"]]
        rows = []
        for p in pages:
            title, subtitle = self.headings[p.doc]
            names = [n for cell in self.cells[p] for n in self.exported(cell)] if section["name"] == "api" else []
            links = " ".join(f"[`{n}`](#{self.names[n][0]})" for n in names if len(self.names[n]) == 1)
            rows.append(f"## [{title}](/{p.doc}.ipynb)\n\n{subtitle}\n\n{links}" if section["name"] == "api" else
                        f":::{{grid-item-card}} {title}\n:link: /{p.doc}\n:link-type: doc\n{subtitle}\n:::")
        body = "\n\n".join(rows) if section["name"] == "api" else "::::{grid} 1 2 2 3\n:gutter: 3\n\n" + "\n".join(rows) + "\n::::"
        return f"# {section['title']}\n\n{{.subtitle}}\n{section['subtitle']}\n\n{body}" + self.tree([f"/{p.doc}" for p in pages]) + "\n"


# The site


def write_sources(toc, pages, cells):
    "The Sphinx sources of all pages; those of pages that are gone are removed."
    site, source = Site(pages, cells), work/"source"
    texts = {f"{p.doc}.ipynb": site.page(p) for p in pages}
    texts |= {f"{s['name']}/index.md": site.section(s) for s in toc["sections"] if s["name"] != "results" and any(p.section == s["name"] for p in pages)}
    if "index.ipynb" not in texts: texts["index.md"] = "# lth_nb\n\nNo study has a results table yet: `make study` makes the first." + site.toctrees() + "\n"
    for name, text in texts.items(): write(source/name, text)
    for name, path in site.files.items():
        (source/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, source/name)
    wanted = {source/name for name in (*texts, *site.files)}
    gone = [p for p in source.rglob("*") if p.is_file() and p not in wanted]
    for p in gone: p.unlink()
    return source, bool(gone), digest(*sorted(texts.items()), *(content(p) for p in sorted(site.files.values())),
                                      *(content(p) for p in sorted(here.rglob("*")) if p.is_file() and "__pycache__" not in p.parts))


def render(source, out, strict, fresh):
    "Sphinx over the sources; returns its warnings."
    from sphinx.cmd.build import build_main
    if fresh: shutil.rmtree(work/"doctrees", ignore_errors=True); shutil.rmtree(out, ignore_errors=True)
    log = work/"warnings.txt"
    status = build_main(["-b", "html", "-q", "-j", "2", "-c", str(here), "-d", str(work/"doctrees"), "-w", str(log), *(["-W", "--keep-going"] if strict else []), str(source), str(out)])
    warnings = log.read_text(encoding="utf-8").strip() if log.is_file() else ""
    if status or warnings: shutil.rmtree(work/"doctrees", ignore_errors=True)  # so that the next build warns again
    if status: raise SystemExit(f"Sphinx stopped:\n{warnings}")
    return warnings


def build(out=root/"_site", strict=False, study=None):
    "Build the site into `out` and return the path of its first page."
    from filelock import FileLock
    start, out, built = time.time(), Path(out).resolve(), work/"built.json"
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work/".lock"):
        toc = yaml.safe_load((here/"toc.yaml").read_text(encoding="utf-8"))
        pages = find_pages(toc, study)
        source, gone, state = write_sources(toc, pages, run_all(pages))
        before = json.loads(built.read_text()) if built.is_file() else {}
        if before == dict(out=str(out), state=state) and (out/"index.html").is_file(): print(f"{out/'index.html'} is up to date")
        else:
            built.unlink(missing_ok=True)
            warnings = render(source, out, strict, gone or before.get("out") != str(out))
            if not warnings: write(built, json.dumps(dict(out=str(out), state=state)))
            print(f"{len(pages)} pages in {time.time() - start:.0f} s: {out/'index.html'}")
    return out/"index.html"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=root/"_site", help="folder of the finished site")
    parser.add_argument("--strict", action="store_true", help="fail on a warning")
    parser.add_argument("--study", help="the study on the home page, which has a table in data/results (default: the first of `headline` in toc.yaml)")
    arguments = parser.parse_args()
    build(arguments.out, arguments.strict, arguments.study)
