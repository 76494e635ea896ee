"""Build the site from the notebooks: run them (an unchanged page is not run again), turn them into pages, render.

    python nbs/site/build.py [--out _site] [--strict] [--study quick | --ran quick] [--no-examples]

A notebook put into a folder of nbs/ that toc.yaml names is a page. What its run gave is kept under data/cache/site, by
what it depends on: the page's code, the modules it uses, the tables it reads; prose may change without a run. Each page
runs in a process and a project folder of its own, so that building the site leaves tickets, runs and figures of the
checkout alone.
"""
import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
from extra import changelog, citation, not_found
from pages import find_pages, here, root, work, write
from polish import polish
from running import content, digest, in_place_of, run_all, stop
from sources import Site

from figures import card, images_of


def page_texts(site, errors):
    "The source of every page; a page that fails here is noted and replaced too."
    for p in site.pages:
        try: text = site.page(p)
        except SystemExit as e:
            site.cells[p] = in_place_of(p, site.cells[p], errors.setdefault(p, str(e)))
            text = site.page(p)
        yield f"{p.doc}.ipynb", text


def write_sources(toc, pages, cells, errors, strict):
    "The Sphinx sources of all pages; those of pages that are gone are removed."
    site, source = (
        Site(pages, {p: in_place_of(p, c, errors[p]) if p in errors else c for p, c in cells.items()}),
        work / "source",
    )
    texts = dict(page_texts(site, errors))
    if errors and strict: stop(errors)
    texts |= {
        f"{s['name']}/index.md": site.section(s)
        for s in toc["sections"]
        if s["name"] != "results" and any(p.section == s["name"] for p in pages)
    }
    if "index.ipynb" not in texts:
        texts["index.md"] = (
            "# lth_nb\n\nNo study has a results table yet: `make study` makes the first." + site.toctrees() + "\n"
        )
    sections = dict.fromkeys(p.section for p in pages if p.section)
    if "about" in sections: texts |= {"about/changelog.md": changelog(), "about/citation.md": citation()}
    texts["404.md"] = not_found(sections)
    texts["gallery.md"] = site.gallery(work/"thumbnails")
    for name, text in texts.items(): write(source/name, text)
    for name, path in site.files.items():
        (source/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, source/name)
    write(work/"pictures.json", json.dumps(site.pictures, sort_keys=True, ensure_ascii=False))
    wanted = {source/name for name in (*texts, *site.files)}
    gone = [p for p in source.rglob("*") if p.is_file() and p not in wanted]
    for p in gone: p.unlink()
    draw_card(site)
    for old in (work/"downloads").rglob("*.*"): old.unlink(missing_ok=True)
    for name, text in site.written.items(): write(work/"downloads"/name, text)
    return (
        source,
        bool(gone),
        digest(
            *sorted(texts.items()),
            *sorted(site.written.items()),
            *sorted(site.pictures),
            *(content(p) for p in sorted(site.files.values())),
            *(content(p) for p in sorted(here.rglob("*")) if p.is_file() and "__pycache__" not in p.parts),
        ),
    )


def draw_card(site):
    "The picture for links elsewhere, from the home page's first figure."
    if not site.pages: return
    home = site.pages[0]
    question, subtitle = site.headings[home.doc] if home.doc == "index" else ("lth_nb", "")
    figure = next(images_of(site.cells[home]), (b"",))[0]
    card(figure, question or "lth_nb", subtitle, work/"made"/"card.png")


def render(source, out, strict, fresh):
    "Sphinx over the sources; returns its warnings."
    from sphinx.cmd.build import build_main
    os.environ["LTH_SITE_MADE"] = str(work/"made")
    if fresh:
        shutil.rmtree(work/"doctrees", ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
    log = work/"warnings.txt"
    status = build_main(
        [
            "-b", "html", "-q", "-j", "2", "-c", str(here), "-d", str(work / "doctrees"), "-w", str(log),
            *(["-W", "--keep-going"] if strict else []), str(source), str(out)
        ]
    )
    shutil.rmtree(out.parent/"jupyter_execute", ignore_errors=True)  # myst-nb's copies of what it never runs here
    warnings = log.read_text(encoding="utf-8").strip() if log.is_file() else ""
    if status or warnings: shutil.rmtree(work/"doctrees", ignore_errors=True)  # so that the next build warns again
    if status: raise SystemExit(f"Sphinx stopped:\n{warnings}")
    polish(out, source)
    shutil.copytree(work/"downloads", out/"_downloads", dirs_exist_ok=True)
    return warnings


def build(out=root/"_site", strict=False, study=None, examples=True):
    """Build the site into `out`; a page that fails is replaced by one that says so, and named when all the others are
    there."""
    from filelock import FileLock
    start, out, built = time.time(), Path(out).resolve(), work/"built.json"
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work/".lock"):
        toc = yaml.safe_load((here/"toc.yaml").read_text(encoding="utf-8"))
        pages = find_pages(toc, study)
        cells, errors = run_all(pages, examples=examples)
        source, gone, state = write_sources(toc, pages, cells, errors, strict)
        before = json.loads(built.read_text()) if built.is_file() else {}
        if before == dict(out=str(out), state=state) and (out/"index.html").is_file():
            print(f"{out/'index.html'} is up to date")
        else:
            built.unlink(missing_ok=True)
            warnings = render(source, out, strict, gone or before.get("out") != str(out))
            if not warnings and not errors: write(built, json.dumps(dict(out=str(out), state=state)))
            print(f"{len(pages)} pages in {time.time() - start:.0f} s: {out/'index.html'}")
    if errors: stop(errors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=root/"_site", help="folder of the finished site")
    parser.add_argument("--strict", action="store_true", help="stop at a page that fails and at a warning")
    parser.add_argument(
        "--study",
        help="the study on the home page, which has a table in data/results (default: the first of `headline` in "
             "toc.yaml)",
    )
    parser.add_argument("--ran", help="the study that was run: as --study, unless toc.yaml names it in `headline`")
    parser.add_argument(
        "--no-examples", action="store_true",
        help="do not run the pages of API and guides, which take most of the time; they keep the outputs that an "
             "earlier build gave them",
    )
    arguments = parser.parse_args()
    toc = yaml.safe_load((here/"toc.yaml").read_text(encoding="utf-8"))
    own = arguments.ran if arguments.ran not in toc["headline"] else None
    build(arguments.out, arguments.strict, arguments.study or own, not arguments.no_examples)
