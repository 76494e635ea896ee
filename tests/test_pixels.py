"Pixels in a wrong range, many pages in a file, and folders whose names say something else."
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from lth_nb import arrays, images
from lth_nb.core import Paths
from lth_nb.data import content_hash, load_dataset


@pytest.fixture
def home(tmp_path):
    paths = Paths(tmp_path)
    paths.raw.mkdir(parents=True)
    return paths


def noise(*shape, high=256, seed=0): return np.random.default_rng(seed).integers(high, size=shape, dtype=np.uint8)


def save(home, **changes):
    made = {f"{s}_{part}": value for s, n in (("train", 40), ("test", 20))
            for part, value in (("images", noise(n, 8, 8, seed=n)), ("labels", np.arange(n) % 2))}
    np.savez(home.raw/"own.npz", **made | changes)


def notes_of(home):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset("own", paths=home).notes


def deep_png(path, values):
    "Write a PNG of 16 bits a channel, which Pillow reads and cannot write in color."
    height, width, channels = values.shape
    def chunk(kind, data=b""):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("high, refused", [(4096, True), (65536, False)])
def test_color_of_twelve_bits_in_sixteen_is_refused(home, channels, high, refused):
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in "ab":
            for i in range(10):
                values = draw.integers(high, size=(8, 8, channels))
                if channels == 4: values[..., 3] = 65535
                deep_png(home.raw/"own"/split/label/f"{i}.png", values)
    if refused:
        with pytest.raises(ValueError, match="have more than 8 bits but only use values up to 4095"): notes_of(home)
    else: assert load_dataset("own", paths=home).train_images.max() == 255


def test_splits_in_different_ranges_are_refused(home):
    save(home, test_images=noise(20, 8, 8, high=2))
    with pytest.raises(ValueError, match="test_images go up to 1, but train_images to 255; store the pixels of all"):
        notes_of(home)


@pytest.mark.parametrize("split, n", [("train", 40), ("test", 20)])
def test_a_split_of_one_value_is_refused(home, split, n):
    save(home, **{f"{split}_images": np.zeros((n, 8, 8), np.uint8)})
    with pytest.raises(ValueError, match=f"{split}_images have the value 0 in every pixel"): notes_of(home)


def test_blank_images_and_dark_sets_are_noted(home):
    some = noise(40, 8, 8)
    some[:3] = 0
    save(home, train_images=some)
    assert "3 images have the same value in every pixel" in " ".join(notes_of(home))
    save(home, train_images=noise(40, 8, 8, high=16), test_images=noise(20, 8, 8, high=16, seed=1))
    assert "no pixel value is above 15; scale them to 0 to 255" in " ".join(notes_of(home))
    save(home)
    assert notes_of(home) == ()


def pages(path, count, size=8):
    first, *more = (Image.fromarray(noise(size, size)) for _ in range(count))
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=more)


def test_pages_of_a_file_count_in_the_memory_that_is_needed(home, monkeypatch):
    for split in ("train", "test"):
        for label in "ab": pages(home.raw/"own"/split/label/"stack.tif", 50)
    monkeypatch.setattr(arrays, "_free_memory", lambda: 2 * 30 * 64 * 3)  # for thirty images, and each file has fifty
    with pytest.raises(ValueError, match="use a smaller image_size, fewer files"): notes_of(home)


def test_a_file_of_too_many_pages_is_refused_before_they_are_read(tmp_path, monkeypatch):
    pages(tmp_path/"stack.tif", 50)
    assert len(images.read_image(tmp_path/"stack.tif").pages) == 50
    monkeypatch.setattr(images, "MAX_PIXELS", 49 * 64)
    with pytest.raises(images.UnreadableImage, match="has 50 pages of 8 x 8 pixels"):
        images.read_image(tmp_path/"stack.tif")
    assert len(images.read_image(tmp_path/"stack.tif", image_size=4).pages) == 50


@pytest.mark.parametrize("names", [("mask", "nomask"), ("train", "plane"), ("test", "control")])
def test_classes_with_the_names_of_splits_or_masks_are_said(home, names):
    for name in names:
        for i in range(10):
            (home.raw/"own"/name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(8, 8)).save(home.raw/"own"/name/f"{i}.png")
    with pytest.raises((ValueError, FileNotFoundError), match=f"cannot be called {names[0]}: rename it"): notes_of(home)


def test_copies_of_training_images_are_noted(home):
    same = noise(40, 8, 8)
    save(home, train_images=same, test_images=same[:20], val_images=same[:8], val_labels=np.arange(8) % 2)
    said = " ".join(notes_of(home))
    assert "20 images of test are also training images" in said and "8 images of val are also" in said


def test_keys_and_files_that_look_like_groups_are_refused(home):
    save(home, train_group=np.arange(40) // 4)
    with pytest.raises(ValueError, match="keys train_group would be ignored; rename them to"): notes_of(home)
    for label in "ab":
        (home.raw/"patients"/label).mkdir(parents=True)
        for i in range(12): Image.fromarray(noise(8, 8) // (i + 1)).save(home.raw/"patients"/label/f"{i}.png")
    (home.raw/"patients"/"Groups.csv").write_text("path,group\n")
    with pytest.raises(ValueError, match="Groups.csv: the file would be ignored under this name; rename it"):
        load_dataset("patients", paths=home)


@pytest.mark.parametrize("damage", [b"", b"\x9c" * 64, b"g" * 64])
def test_a_damaged_hash_is_worked_out_again(home, damage):
    save(home)
    true = content_hash("own", paths=home)
    (kept,) = (home.cache/"hashes").iterdir()
    kept.write_bytes(damage)
    assert content_hash("own", paths=home) == true
