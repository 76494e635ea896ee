"What figures say in words, how they look small, and the card that stands for the site elsewhere."
import base64
import hashlib
import html
import io
import re

import vl_convert

_FORMULA = {r"$\theta_k$": "θₖ", r"$\theta_i$": "θᵢ", r"$\theta_0$": "θ₀"}


def plain(text):
    for formula, symbol in _FORMULA.items(): text = text.replace(formula, symbol)
    return " ".join(re.sub(r"[\n$]", " ", text).split())


def several(words, most=8):
    "A list in words; of a long one the beginning and how many more."
    words = [*dict.fromkeys(filter(None, map(plain, words)))]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def panel(axes):
    "What one panel of a figure shows: its title, what is up and across, its lines and rows."
    parts = [plain(" ".join(filter(None, (axes.get_title(loc=place) for place in ("left", "center", "right")))))]
    up, across = plain(axes.get_ylabel()), plain(axes.get_xlabel())
    if axes.images and not (up or across): parts.append("a picture" if len(axes.images) == 1 else "pictures")
    if across or up: parts.append(f"{up or 'rows'} against {across or 'columns'}")
    rows = [t.get_text() for t in axes.get_yticklabels()]
    if any(re.search(r"[a-zA-Z]{2}", row) for row in rows): parts.append(f"rows: {several(reversed(rows))}")
    lines = [line.get_label() for line in axes.get_lines() if not line.get_label().startswith("_")]
    if lines: parts.append(f"lines: {several(lines)}")
    return "; ".join(filter(None, parts))


def describe(figure):
    "A matplotlib figure in words: its title, its panels, its legend."
    head = plain(figure.get_suptitle()) if hasattr(figure, "get_suptitle") else ""
    panels = [panel(axes) for axes in figure.axes if axes.axison or axes.get_title() or axes.images]
    panels = [*dict.fromkeys(filter(None, panels))]
    written = [t.get_text() for axes in figure.axes if not axes.axison for t in axes.texts]
    legend = [t.get_text() for box in figure.legends for t in box.get_texts()]
    parts = [head, *panels[:4]]
    if len(panels) > 4: parts.append(f"{len(panels) - 4} more panels: {several(p.split(';')[0] for p in panels[4:])}")
    if legend: parts.append(f"Legend: {several(legend)}")
    if written: parts.append(f"In words: {several(written)}")
    return ". ".join(filter(None, parts)) or "A figure without labels"


def tell_figures():
    "From now on in this process, a figure that a notebook shows comes with its description."
    import IPython.core.pylabtools as tools
    drawn, sharp = tools.print_figure, tools.retina_figure

    def print_figure(fig, fmt="png", *args, **kwargs):
        data = drawn(fig, fmt, *args, **kwargs)
        return (data, dict(alt=describe(fig))) if fmt == "png" and data is not None else data

    def retina_figure(fig, base64=False, **kwargs):
        found = sharp(fig, base64=base64, **kwargs)
        return found and (found[0], {**found[1], "alt": describe(fig)})

    tools.print_figure, tools.retina_figure = print_figure, retina_figure


def images_of(cells):
    "(image as bytes, its description) of every picture on a page."
    for cell in cells:
        for out in cell.get("outputs", []):
            if data := out.get("data", {}).get("image/png"):
                yield base64.b64decode("".join(data)), out.get("metadata", {}).get("image/png", {}).get("alt", "")


def stills_of(cells):
    "(image as bytes, its description) of the first view of every interactive figure on a page."
    for cell in cells:
        for out in cell.get("outputs", []):
            text = "".join(out.get("data", {}).get("text/html", ""))
            for alt, svg in re.findall(r'"explorer-still" alt="(.*?)" src="data:image/svg\+xml;base64,(.*?)"', text):
                yield vl_convert.svg_to_png(base64.b64decode(svg).decode(), scale=2), html.unescape(alt)


def name_of(image):
    "The name under which Sphinx keeps a picture."
    return hashlib.sha256(image).hexdigest()


def is_photograph(image):
    "Whether a picture is mostly photographs, which must keep their colors on a dark page."
    import numpy as np
    from PIL import Image
    small = np.asarray(Image.open(io.BytesIO(image)).convert("RGB").resize((160, 120), Image.Resampling.NEAREST))
    ground = (small > 245).all(axis=2).mean()
    colors = len(np.unique((small // 16).reshape(-1, 3), axis=0))
    return bool(ground < 0.45 and colors > 250)


def thumbnail(image, path, size=(480, 300)):
    "A small copy of a picture on a white ground; of a high one the upper part."
    from PIL import Image
    picture = Image.open(io.BytesIO(image)).convert("RGBA")
    small = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    small = small.crop((0, 0, small.width, min(small.height, round(small.width * size[1] / size[0]))))
    small.thumbnail(size, Image.Resampling.LANCZOS)
    ground = Image.new("RGB", size, "white")
    ground.paste(small, ((size[0] - small.width)//2, (size[1] - small.height)//2))
    path.parent.mkdir(parents=True, exist_ok=True)
    ground.save(path, "WEBP", quality=80)


def card(image, title, words, path):
    "The picture that other sites show for a link to this one: the home page's figure below its question."
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont
    fonts = {weight: font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight))
             for weight in ("bold", "normal")}
    ground = Image.new("RGB", (1200, 630), "white")
    draw = ImageDraw.Draw(ground)
    draw.rectangle((0, 0, 1200, 12), fill="#0072B2")
    draw.text((48, 40), title, fill="#14181e", font=ImageFont.truetype(fonts["bold"], 46))
    font = next(f for s in range(24, 0, -1) if (f := ImageFont.truetype(fonts["normal"], s)).getlength(words) < 1104)
    draw.text((48, 108), words, fill="#48566b", font=font)
    if image:
        figure = Image.open(io.BytesIO(image)).convert("RGB")
        figure.thumbnail((1104, 440), Image.Resampling.LANCZOS)
        ground.paste(figure, ((1200 - figure.width)//2, 166))
    path.parent.mkdir(parents=True, exist_ok=True)
    ground.save(path, "PNG", optimize=True)
