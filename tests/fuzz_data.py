"""Damage image files and .npz files in thousands of ways and read them: nothing but the kit's own errors may come out.

    python tests/fuzz_data.py [--inputs 10000] [--seed 0] [--out data/results/fuzz_data.json]
"""
import argparse
import io
import json
import resource
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from lth_nb.core import Paths
from lth_nb.data import load_dataset
from lth_nb.images import UnreadableImage, read_image

LIMIT_SECONDS, LIMIT_BYTES = 1.0, 2 * 2**30  # one input may take so long, and all of them so much more memory
EXTREMES = (0, 1, 127, 128, 255)
WORDS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\xff\xff", b"\x80\0\0\0")


def encoded(image, kind, **options):
    "The bytes of one image file."
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def whole_images(rng):
    "Sound files, one of every kind that people have: suffix and bytes."
    color = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    clear, pages = color.copy(), [color.rotate(90 * i) for i in range(1, 4)]
    clear.putalpha(Image.effect_noise(color.size, 90))
    deep, exif = Image.fromarray(rng.integers(0, 2**16, (24, 32), dtype=np.uint16)), Image.Exif()
    exif[0x0112] = 6
    more = dict(save_all=True, append_images=pages)
    kinds = [
        (".png", color, "PNG", {}), (".png", clear, "PNG", {}), (".png", color.convert("L"), "PNG", {}),
        (".png", color.quantize(16), "PNG", dict(transparency=3)), (".png", deep, "PNG", {}),
        (".png", color, "PNG", more), (".jpg", color, "JPEG", dict(exif=exif)),
        (".jpg", color.convert("CMYK"), "JPEG", {}), (".jpg", color, "JPEG", dict(progressive=True)),
        (".gif", color, "GIF", more), (".bmp", color, "BMP", {}),
        (".tif", color, "TIFF", more), (".tif", color, "TIFF", dict(compression="tiff_deflate", **more)),
        (".tif", color, "TIFF", dict(compression="tiff_lzw")), (".tif", deep, "TIFF", {}),
        (".webp", color, "WEBP", {}), (".webp", clear, "WEBP", dict(lossless=True, **more)), (".ppm", color, "PPM", {}),
        (".jp2", color, "JPEG2000", {}), (".tga", color, "TGA", {}), (".ico", color, "ICO", {}),
        (".pcx", color, "PCX", {}), (".sgi", color, "SGI", {}), (".dds", color, "DDS", {}), (".im", color, "IM", {}),
        (".avif", color, "AVIF", {}),
    ]
    return [(suffix, encoded(image, kind, **options)) for suffix, image, kind, options in kinds]


def whole_archives(rng):
    "Sound .npz files."
    found = []
    for compressed in (False, True):
        for groups in (False, True):
            images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
            arrays = {f"{s}_{p}": images if p == "images" else np.arange(40) % 4
                      for s in ("train", "test") for p in ("images", "labels")}
            if groups: arrays |= dict(train_groups=np.arange(40) // 2, test_groups=np.arange(40) // 2 + 20)
            buffer = io.BytesIO()
            (np.savez_compressed if compressed else np.savez)(buffer, **arrays, class_names=np.array(list("abcd")))
            found.append((".npz", buffer.getvalue()))
    return found


def with_checksums(content):
    "A PNG file whose chunks have their right checksums again, so that the damage reaches the decoder."
    at, fixed = 8, bytearray(content)
    while content[:4] == b"\x89PNG" and at + 12 <= len(fixed):
        size = int.from_bytes(fixed[at:at + 4], "big")
        if at + 12 + size > len(fixed): break
        fixed[at + 8 + size:at + 12 + size] = zlib.crc32(fixed[at + 4:at + 8 + size]).to_bytes(4, "big")
        at += 12 + size
    return bytes(fixed)


def inside_members(content, rng):
    "A sound .zip file whose arrays are damaged, so that the damage reaches numpy."
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = rng.integers(len(old.namelist()))
        for i, name in enumerate(old.namelist()):
            member = old.read(name)
            new.writestr(name, damaged(member, member, rng, head=140) if i == chosen else member)
    return buffer.getvalue()


def damaged(content, other, rng, head=None):
    "The bytes with one to four faults; `head`: most of them lie so far from the beginning."
    x = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if len(x) < 8: break
        at = int(rng.integers(min(len(x), head) if head and rng.random() < 0.8 else len(x)))
        match rng.integers(8):
            case 0: x[at] ^= 1 << rng.integers(8)
            case 1: x[at] = EXTREMES[rng.integers(len(EXTREMES))]
            case 2: x[at:at + 4] = WORDS[rng.integers(len(WORDS))]
            case 3: del x[at:]
            case 4: del x[at:at + int(rng.integers(1, 64))]
            case 5: x[at:at] = rng.bytes(int(rng.integers(1, 64)))
            case 6: x[at:at] = x[at:at + int(rng.integers(1, 200))]
            case 7: x[at:] = other[min(at, len(other)):]
    return bytes(x)


def read_whole_set(home, suffix, content):
    "Load a data set of folders in which one file of forty-one is damaged."
    where = home.raw/"pictures"
    if not where.exists():
        for split in ("train", "test"):
            for i in range(40):
                file = where/split/"ab"[i % 2]/f"{i:02}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (i, 0, 0)).save(file)
    for old in (where/"train"/"a").glob("damaged*"): old.unlink()
    (where/"train"/"a"/f"damaged{suffix}").write_bytes(content)
    return load_dataset("pictures", 8, paths=home)


def attempt(home, number, suffix, content):
    "Read one input: what came of it, and the seconds; an error that is not the kit's own comes out."
    file = home.raw/f"damaged{suffix}"
    file.write_bytes(content)
    began = time.perf_counter()
    try:
        if suffix == ".npz": load_dataset("damaged", paths=home)
        elif number % 10 == 0: read_whole_set(home, suffix, content)
        else: read_image(file)
        outcome = "read"
    except (UnreadableImage, ValueError) as e:
        assert "damaged" in str(e) and ("; " in str(e) or "too few" in str(e)), f"names no file or no cure: {e}"
        assert type(e) in (UnreadableImage, ValueError) and len(str(e)) < 2500, repr(e)
        outcome = "refused"
    return outcome, time.perf_counter() - began


def fuzz(inputs, seed=0):
    "Counts of what came of so many damaged inputs; AssertionError with the input that broke a promise."
    rng, outcomes, slowest = np.random.default_rng(seed), Counter(), 0.0
    images, archives = whole_images(rng), whole_archives(rng)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        home = Paths(folder)
        home.raw.mkdir(parents=True)
        for suffix, content in (*images, *archives): assert attempt(home, 1, suffix, content)[0] == "read", suffix
        for number in range(inputs):
            kind = archives if number % 4 == 3 else images  # a quarter are .npz files
            suffix, content = kind[rng.integers(len(kind))]
            deep = suffix == ".npz" and rng.random() < 0.6
            broken = inside_members(content, rng) if deep else damaged(content, kind[rng.integers(len(kind))][1], rng)
            if suffix == ".png" and rng.random() < 0.5: broken = with_checksums(broken)
            try:
                outcome, seconds = attempt(home, number, suffix, broken)
                assert seconds < LIMIT_SECONDS, f"took {seconds:.2f} s"
            except BaseException as e:
                kept = Path(tempfile.gettempdir())/f"fuzz-{seed}-{number}{suffix}"
                kept.write_bytes(broken)
                raise AssertionError(f"input {number} of seed {seed} ({kept}): {type(e).__name__}: {e}") from e
            outcomes["npz" if suffix == ".npz" else "images", outcome] += 1
            slowest = max(slowest, seconds)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < LIMIT_BYTES, f"memory grew by {grown / 2**20:.0f} MiB"
    counts = {f"{kind}_{what}": outcomes[kind, what] for kind in ("images", "npz") for what in ("read", "refused")}
    return dict(inputs=inputs, seed=seed, **counts, other_errors=0, slowest_seconds=round(slowest, 3),
                memory_grown_mib=round(grown / 2**20))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    report = json.dumps(fuzz(given.inputs, given.seed), indent=1)
    if given.out: given.out.write_text(report + "\n")
    sys.stdout.write(report + "\n")
