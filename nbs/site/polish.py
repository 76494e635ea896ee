"The last touch on every finished page: what the theme and other packages write that a screen reader stumbles over."
import html
import json
import re


def with_words(text, alts):
    "Every picture with its own description, and a mark on photographs; a cell has one for all its pictures."
    def image(m):
        found = alts.get(m[2])
        if not found: return m[0]
        tag = re.sub(r' (alt|data-photograph)="[^"]*"', "", m[0])
        mark = ' data-photograph=""' if found["photograph"] else ""
        return f'{tag[:4]} alt="{html.escape(found["alt"])}"{mark}{tag[4:]}'
    return re.sub(r'<img( [^>]*?)?src="[^"]*_images/([0-9a-f]{64})\.png"[^>]*>', image, text)


def polished(text, alts):
    "A page without labels that differ from the words they label, and without headers that name nothing."
    text = re.sub(r'(<summary) aria-label="Toggle hidden content"', r"\1", text)
    text = re.sub(r"<th( [^>]*)?>(?:\s|&nbsp;)*</th>", r"<td\1></td>", text)
    return with_words(text, alts)


def polish(out, source):
    "All pages of a finished site."
    alts = json.loads((source.parent/"pictures.json").read_text(encoding="utf-8"))
    for page in out.rglob("*.html"):
        if "_static" in page.parts: continue
        text = page.read_text(encoding="utf-8")
        if (new := polished(text, alts)) != text: page.write_text(new, encoding="utf-8")
