"""From executed cells to Sphinx sources: directives, links between pages, API entries, outputs, tables of contents.

Directives that are heeded: default_exp, hide (the cell is left out); export (an entry with its docments, the source
folded); echo: false (only outputs); output: false; output: asis (its Markdown becomes part of the page);
code-fold: true; eval: false.
"""
import ast
import json
import os
import re
from itertools import chain
from pathlib import Path

import api
from pages import Page, address, package, root

from figures import images_of, is_photograph, name_of, stills_of, thumbnail

TESTS = re.compile(
    r"^\s*(assert|test_\w+\(|with .*(assert|test_))|\btest_(eq|fail|close|ne)\(", re.M
)  # a cell that checks and shows nothing


def parted(source):
    "The `#|` directives of a cell as a dict, and the source without them."
    lines = source.splitlines()
    directives = dict(
        (re.split(r"[:\s]\s*", line[2:].strip(), maxsplit=1) + [""])[:2] for line in lines if line.startswith("#|")
    )
    return directives, "\n".join(line for line in lines if not line.startswith("#|")).strip("\n")


def only_imports(source):
    try: body = ast.parse(source).body
    except SyntaxError: return False
    return bool(body) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)


def heading(cells):
    "Title and subtitle: the `# ` and the `> ` line of the first cell."
    first = cells[0]["source"] if cells and cells[0]["cell_type"] == "markdown" else ""
    def find(pattern):
        return m.group(1).strip() if (m := re.search(pattern, first, re.M)) else ""
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
                for name, node in self.exported(cell).items():
                    self.names.setdefault(name, []).append(api.label(name, node, self.module(p)))
        self.files = {}
        self.written = {}  # files beside the pages, by name
        self.pictures = {}
        for p in pages:
            for image, words in images_of(cells[p]):
                alt = words or f"Figure of the page {self.headings[p.doc][0]}"
                self.pictures[name_of(image)] = dict(alt=alt, photograph=is_photograph(image))

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
        raise SystemExit(
            f"{page.notebook.relative_to(root)}: a link leads to {link!r}, which is no page of the site and no file"
        )

    def markdown(self, page, text):
        """Links between notebooks become links between pages; names of the library become links to their entries."""
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
            return (
                f'href="{os.path.relpath(to.doc, Path(page.doc).parent)}.html{m[2] or ""}"'
                if isinstance(to, Page)
                else m[0]
            )
        return re.sub(r'href="([^"#]+\.ipynb)(#[^"]*)?"', link, text)

    def outputs(self, page, cell):
        """Outputs fit for a page: no progress bars, no widgets; and how images are shown: at the width they were drawn
        for, with their alternative text."""
        kept, image = [], {}
        for out in cell["outputs"]:
            out = {k: v for k, v in out.items() if k != "transient"}
            if out["output_type"] == "stream":
                text = "".join(out["text"])
                if out["name"] == "stderr" and (re.search(r"\r|\d%\|", text) or not text.strip()): continue
                out["text"] = text.replace("\r\n", "\n")
            if data := dict(out.get("data", {})):
                if "application/vnd.jupyter.widget-view+json" in data: continue
                if "text/html" in data: data["text/html"] = self.html(page, "".join(data["text/html"]))
                if "text/markdown" in data: data["text/markdown"] = self.markdown(page, "".join(data["text/markdown"]))
                about = out.get("metadata", {}).get("image/png", {})
                image |= {"width": f"{about['width']}px"} if "width" in about else {}
                image |= {"alt": self.headings[page.doc][0]} if "image/png" in data else {}  # `polish` has each one's
                out.update(data=data, metadata={})
            kept.append(out)
        return kept, image

    def page(self, page):
        "The page as a notebook for myst-nb, as JSON."
        made, level = [], 1
        def add(text): made.append(dict(cell_type="markdown", metadata={}, source=self.markdown(page, text)))
        for cell in self.cells[page]:
            if cell["cell_type"] == "raw": continue
            if cell["cell_type"] == "markdown":
                for m in re.finditer(r"^(#+) ", cell["source"], re.M): level = len(m[1])
                text = re.sub(r"\A(# .+\n+)> (.+)$", r'\1{.subtitle}\n\2', cell["source"], count=1, flags=re.M)
                add(text if made else re.sub(r"\A# .+$", lambda _: f"# {self.title(page)}", text, count=1, flags=re.M))
                continue
            directives, source = parted(cell["source"])
            tags = set(cell["metadata"].get("tags", []))
            if {"hide", "default_exp"} & set(directives) or "remove-cell" in tags or not source: continue
            names = self.exported(cell) if page.section == "api" else {}
            for name, node in names.items(): add(api.entry(name, node, source, self.module(page), min(level, 2) + 1))
            outputs, image = self.outputs(page, cell)
            if directives.get("output") == "asis":
                for out in outputs: add("".join(out.get("data", {}).get("text/markdown", out.get("text", ""))))
                continue
            if directives.get("output") == "false": outputs = []
            shown, prompt = set(), None
            if directives.get("echo") == "false": shown.add("remove-input")
            elif "export" in directives or "exporti" in directives:
                if only_imports(source) and not outputs: continue
                shown.add("hide-input")
                prompt = "Source" if names else "Source of " + ", ".join(api.defined(source))
            elif page.section in ("api", "about", "results") and not outputs:
                if only_imports(source):
                    shown.add("hide-input")
                    prompt = "Imports"
                elif page.section == "api" and TESTS.search(source):
                    shown.add("hide-input")
                    prompt = "Tests"
            elif directives.get("code-fold") == "true": shown.add("hide-input")
            mystnb = dict(
                **(dict(image=image) if image else {}),
                **(dict(code_prompt_show=prompt, code_prompt_hide=prompt) if prompt else {}),
            )
            made.append(
                dict(
                    cell_type="code", execution_count=None,
                    metadata=dict(tags=sorted(shown), **(dict(mystnb=mystnb) if mystnb else {})), source=source,
                    outputs=outputs
                )
            )
        made.append(dict(cell_type="markdown", metadata={}, source=self.footer(page)))
        for i, cell in enumerate(made): cell["id"] = f"c{i}"
        page = dict(
            cells=made,
            metadata=dict(
                kernelspec=dict(display_name="Python 3", language="python", name="python3"),
                language_info=dict(name="python", pygments_lexer="ipython3"),
            ),
            nbformat=4,
            nbformat_minor=5,
        )
        # where it was built is of no interest
        return json.dumps(page, indent=1, ensure_ascii=False).replace(f"{root}/", "").replace(str(root), ".")

    def title(self, page):
        "The title of a page, unlike that of any other."
        title = self.headings[page.doc][0]
        if page.section == "results" and page.study: return f"{title} (study {page.study})"
        return f"{title} (lth_nb.{address(page.notebook)})" if page.section == "api" else title

    def downloads(self, page):
        "The page's notebook without outputs, and the same as a script; links to both."
        cells = [dict(c) for c in self.cells[page]]
        for i, c in enumerate(cells):
            c |= dict(id=f"c{i}", metadata=c.get("metadata", {}))
            if c["cell_type"] == "code": c |= dict(outputs=[], execution_count=None)
        spec = dict(display_name="Python 3", language="python", name="python3")
        book = dict(cells=cells, metadata=dict(kernelspec=spec), nbformat=4, nbformat_minor=5)
        script = "\n\n".join(
            "# %%" + ("\n" + c["source"] if c["cell_type"] == "code"
                     else " [markdown]\n" + re.sub(r"^", "# ", c["source"], flags=re.M))
            for c in cells if c["cell_type"] in ("code", "markdown"))
        self.written[f"{page.doc}.ipynb"] = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
        self.written[f"{page.doc}.py"] = re.sub(r"[ \t]+$", "", script, flags=re.M) + "\n"
        up = "../" * page.doc.count("/") + "_downloads/" + page.doc
        return (f' Download the <a href="{up}.ipynb" download>notebook</a> or the '
                f'<a href="{up}.py" download>script</a>.')

    def footer(self, page):
        words = f"This page is the notebook `{page.notebook.relative_to(root)}`"
        if page.study: words += f", run for the study `{page.study}`"
        if page.ran: words += f", as it ran in `{page.ran.relative_to(root)}`"
        return (
            "{.colophon}\n"
            + words
            + "."
            + self.downloads(page)
            + (
                self.toctrees()
                if page.doc == "index"
                else self.results_toctree()
                if page.doc == "results/index"
                else ""
            )
        )

    def tree(self, docs, caption=""):
        return "\n\n" + "\n".join(
            ["```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), "", *docs, "```"]
        )

    def toctrees(self):
        sections = dict.fromkeys(p.section for p in self.pages if p.section)
        return self.tree([*(f"/{s}/index" for s in sections), "/gallery"])

    def results_toctree(self):
        studies = dict.fromkeys(p.study for p in self.pages if p.section == "results" and p.study)
        return "".join(
            self.tree([f"{self.headings[p.doc][0]} </{p.doc}>" for p in self.pages
                       if p.section == "results" and p.study == s], f"Study {s}")
            for s in studies
        )

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
        body = (
            "\n\n".join(rows)
            if section["name"] == "api"
            else "::::{grid} 1 2 2 3\n:gutter: 3\n\n" + "\n".join(rows) + "\n::::"
        )
        return (
            f"# {section['title']}\n\n{{.subtitle}}\n{section['subtitle']}\n\n{body}"
            + self.tree([f"{self.headings[p.doc][0]} </{p.doc}>" for p in pages]
                        + ["/about/changelog", "/about/citation"] * (section["name"] == "about"))
            + "\n"
        )

    def gallery(self, folder):
        "A page with a small picture of every figure's page, in the order of the site; the pictures go to a folder."
        text = ["# Gallery\n\n{.subtitle}\nEvery page with a figure, by its first picture."]
        headline = next((p.study for p in self.pages if p.study), "")
        names = dict(results=f"Results of study {headline}", runs="Runs", guides="Guides", about="About", api="API")
        for section, words in names.items():
            cards = []
            for p in self.pages:
                if p.section != section or (p.study and p.study != headline): continue
                if (found := next(chain(images_of(self.cells[p]), stills_of(self.cells[p])), None)) is None: continue
                name = f"_thumbnails/{p.doc.replace('/', '-')}.webp"
                self.files[name] = folder/Path(name).name
                thumbnail(found[0], self.files[name])
                title, subtitle = self.headings[p.doc]
                alt = self.pictures.get(name_of(found[0]), {}).get("alt", f"{title}. {found[1]}")
                alt = " ".join(alt.replace(":", ",").split())[:200]
                cards.append(f":::{{grid-item-card}} {title}\n:link: /{p.doc}\n:link-type: doc\n:img-top: /{name}\n"
                             f":img-alt: {alt}\n\n{subtitle}\n:::")
            if cards: text += [f"## {words}", "::::{grid} 1 2 3 3\n:gutter: 3\n\n" + "\n".join(cards) + "\n::::"]
        return "\n\n".join(text) + "\n"
