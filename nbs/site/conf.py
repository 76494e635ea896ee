"Sphinx settings of the site; `build.py` prepares the pages."
import html
import os
from configparser import ConfigParser
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.search import languages
from sphinx.search.en import SearchEnglish

here = Path(__file__).parent
settings = ConfigParser(delimiters=["="], interpolation=None)
settings.read(here.parents[1]/"settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

project, version, author = settings["lib_name"], settings["version"], settings["author"]
project_copyright = settings["copyright"]
extensions = ["myst_nb", "sphinx_design"]
exclude_patterns = ["_files/**"]
nitpicky = True
smartquotes = False                       # quotes in the docs are mostly code

# notebooks come executed
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}                     # widgets would load scripts from a CDN
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
nb_mime_priority_overrides = [("html", "text/markdown", 5)]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
myst_ref_domains = ["std"]                # the others take long, and no page refers to them
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "pydata_sphinx_theme"
html_title = project
made = os.environ.get("LTH_SITE_MADE")    # the folder of what `build.py` has drawn
html_static_path = ["_static", *([made] if made else [])]
templates_path = ["_templates"]
html_css_files = ["style.css"]
html_js_files = ["site.js"]
html_favicon = "_static/favicon.svg"
address = f"{settings['doc_host'].rstrip('/')}/{settings['doc_baseurl'].strip('/')}/"  # where the site is shown
html_show_sphinx = False
html_search_scorer = str(here/"_static"/"scorer.js")
html_copy_source = html_show_sourcelink = False
html_math_renderer = "katex"
html_theme_options = dict(
    logo=dict(text=project), navbar_align="left", header_links_before_dropdown=6,
    navbar_end=["version", "theme-switcher"],
    footer_start=["copyright"], footer_end=[], show_prev_next=True, navigation_with_keys=False, show_toc_level=2,
    pygments_light_style="a11y-high-contrast-light", pygments_dark_style="a11y-high-contrast-dark",
    back_to_top_button=False
)
html_sidebars = {"index": [], "gallery": [], "404": []}


def _formula(tag):
    def visit(self, node):
        self.body.append(f'<{tag} class="katex-source">{html.escape(node.astext())}</{tag}>')
        raise nodes.SkipNode
    return visit, None


def _load_katex(app, pagename, templatename, context, doctree):
    if doctree is None or next(doctree.findall(lambda n: isinstance(n, (nodes.math, nodes.math_block))), None) is None:
        return
    app.add_css_file("katex/katex.min.css")
    app.add_js_file("katex/katex.min.js")
    app.add_js_file("katex.js")


def _describe(app, pagename, templatename, context, doctree):
    "What a search engine and a link elsewhere say of a page: its subtitle, or else its first paragraph."
    found = list(doctree.findall(nodes.paragraph)) if doctree is not None else []
    first = next((p for p in found if "subtitle" in p["classes"]), found[0] if found else None)
    words = " ".join(first.astext().split()) if first is not None else settings["description"]
    context["description"] = words if len(words) <= 200 else words[:197].rsplit(" ", 1)[0] + " …"
    context["base"] = "/" + settings["doc_baseurl"].strip("/") + "/"
    context["card"] = f"{address}_static/card.png"
    context["card_alt"] = "Do lottery tickets transfer? The figure of the home page"


class RememberingStemmer(SearchEnglish):
    "Sphinx's stemmer of English, which looks up a word that it has seen before."
    def __init__(self, options):
        super().__init__(options)
        self.stem = cache(super().stem)


def setup(app):
    languages["en"] = RememberingStemmer
    app.add_html_math_renderer("katex", inline_renderers=_formula("span"), block_renderers=_formula("div"))
    app.connect("html-page-context", _load_katex)
    app.connect("html-page-context", _describe)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
