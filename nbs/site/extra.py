"Pages that are no notebooks: the changelog, how to cite, and what a wrong address shows."
import re

import yaml
from pages import root


def not_found(sections):
    "What a wrong address shows."
    links = ", ".join(f"[{s}](/{s}/index)" for s in sections)
    return ("---\norphan: true\n---\n# This page does not exist\n\n{.subtitle}\nThe address may be old or mistyped."
            f"\n\nGo to the [home page](/index), to one of the sections ({links}), or search the site.\n")



def changelog():
    "CHANGELOG.md, with a subtitle."
    text = (root/"CHANGELOG.md").read_text(encoding="utf-8") if (root/"CHANGELOG.md").is_file() else "# Changelog\n"
    return re.sub(r"\A# (.+)\n", "# \\1\n\n{.subtitle}\nWhat each version changed, added and fixed.\n", text, count=1)


def citation():
    "CITATION.cff in words and as BibTeX."
    file = root/"CITATION.cff"
    if not file.is_file(): return "# How to cite\n\n{.subtitle}\nThis project has no citation file.\n"
    about = yaml.safe_load(file.read_text(encoding="utf-8"))
    authors = " and ".join(f"{{{a['name']}}}" if "name" in a else f"{a['family-names']}, {a['given-names']}"
                           for a in about["authors"])
    entry = f"@software{{lth_nb,\n  author = {{{authors}}},\n  title = {{{about['title']}}},\n" \
            f"  version = {{{about['version']}}},\n  license = {{{about['license']}}}\n}}"
    written = file.read_text(encoding="utf-8").rstrip()
    return (f"# How to cite\n\n{{.subtitle}}\nVersion {about['version']}, {about['license']} license.\n\n"
            f"If you use this software, please cite it:\n\n```bibtex\n{entry}\n```\n\n"
            f"Please also cite the papers whose claims it tests:\n\n{PAPERS}\n\n"
            f"The same in the Citation File Format:\n\n```yaml\n{written}\n```\n")


PAPERS = """- Morcos, Yu, Paganini and Tian (2019). One ticket to win them all: generalizing lottery ticket
  initializations across datasets and optimizers. [arXiv:1906.02773](https://arxiv.org/abs/1906.02773)
- Sabatelli, Kestemont and Geurts (2020). On the transferability of winning tickets in non-natural image datasets.
  [arXiv:2005.05232](https://arxiv.org/abs/2005.05232)
- Mehta (2019). Sparse transfer learning via winning lottery tickets.
  [arXiv:1905.07785](https://arxiv.org/abs/1905.07785)"""
