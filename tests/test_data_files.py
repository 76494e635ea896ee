"What people have in their folders is read as it is, counted, or refused in one sentence that names the file."
import io
import os
import unicodedata
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from conftest import run
from PIL import Image, ImageCms

from lth_nb.core import Paths
from lth_nb.data import (
    SPLITS,
    check_files,
    content_hash,
    count_images,
    find_dataset,
    is_here,
    load_dataset,
    own_datasets,
)

RNG = np.random.default_rng(0)


@pytest.fixture
def raw(tmp_path):
    "The data/raw of an empty project."
    folder = tmp_path/"data"/"raw"
    folder.mkdir(parents=True)
    return folder


def home(raw): return Paths(raw.parents[1])


def pixels(gray=False): return RNG.integers(0, 256, (12, 12) if gray else (12, 12, 3), dtype=np.uint8)


def save(file, mode="RGB", **options):
    "Write one random image of a mode."
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels(mode in ("L", "1"))).convert(mode)
    image.save(file, **options)
    return image


def folders(where, n=20, test=8, suffix=".png", sub="", **options):
    "Write a set of two classes as split/class/image."
    for split, count in (("train", n), ("test", test)):
        for name in "ab":
            for i in range(count): save(where/split/name/sub.format(i)/f"{i:02}{suffix}", **options)
    return where


def load(raw, name, **settings):
    "Load a set without its notes as warnings."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset(name, paths=home(raw), **settings)


def refused(raw, name, *words, **settings):
    "Assert that a set is refused with a sentence that holds these words."
    with pytest.raises((ValueError, FileNotFoundError)) as e: load(raw, name, **settings)
    for word in words: assert word in str(e.value), str(e.value)
    assert len(str(e.value)) < 2500


# the key of the cache

@pytest.mark.parametrize("linked", ["split", "class", "image", "set"])
def test_a_set_of_links_is_not_answered_with_another_one(raw, tmp_path, linked, monkeypatch):
    one, two = folders(tmp_path/"one"), folders(tmp_path/"two")
    for name, real in (("first", one), ("second", two)):
        if linked == "set":
            (raw/name).symlink_to(real)
            continue
        for split in ("train", "test"):
            if linked == "split":
                (raw/name).mkdir(exist_ok=True)
                (raw/name/split).symlink_to(real/split)
                continue
            for label in "ab":
                (raw/name/split).mkdir(parents=True, exist_ok=True)
                if linked == "class":
                    (raw/name/split/label).symlink_to(real/split/label)
                    continue
                (raw/name/split/label).mkdir()
                for f in (real/split/label).iterdir(): (raw/name/split/label/f.name).symlink_to(f)
    monkeypatch.setattr("lth_nb.cache._read_cached.__defaults__", (0,))  # keep whatever is read
    for _ in range(2):
        first, second = load(raw, "first"), load(raw, "second")
        assert first.content_hash != second.content_hash
        assert content_hash("first", paths=home(raw)) == first.content_hash
    assert load(raw, "first").content_hash == load_from(tmp_path, "one")
    os.utime(one/"train"/"a"/"00.png", (1, 1))
    save(one/"train"/"a"/"00.png")
    changed = load(raw, "first").content_hash
    assert changed != first.content_hash and content_hash("first", paths=home(raw)) == changed


def load_from(folder, name):
    "Return the hash of a set that lies in another folder."
    os.environ["LTH_DATA"] = str(folder)
    try: return load_dataset(name, paths=Paths(folder/"elsewhere")).content_hash
    finally: del os.environ["LTH_DATA"]


@pytest.mark.parametrize("how", ["overwrite", "overwrite, date restored", "delete", "add", "rename", "new class"])
def test_changes_of_images_are_noticed(raw, how, monkeypatch):
    monkeypatch.setattr("lth_nb.cache._read_cached.__defaults__", (0,))
    folders(raw/"shapes")
    before, hashed = load(raw, "shapes"), content_hash("shapes", paths=home(raw))
    file = raw/"shapes"/"train"/"a"/"00.png"
    status = file.stat()
    if how.startswith("overwrite"):
        save(file, compress_level=0)
        if "restored" in how: os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif how == "delete": file.unlink()
    elif how == "add": save(raw/"shapes"/"test"/"b"/"new.png")
    elif how == "rename": file.rename(file.with_name("zz.png"))
    else:
        for split in ("train", "test"):
            save(raw/"shapes"/split/"c"/"0.png")
            save(raw/"shapes"/split/"c"/"1.png")
    after = load(raw, "shapes")
    assert after.content_hash != before.content_hash
    assert content_hash("shapes", paths=home(raw)) == after.content_hash != hashed


def test_npz_replaced_with_its_size_and_date_kept(raw):
    def write(value):
        images = np.arange(40 * 64, dtype=np.uint16).astype(np.uint8).reshape(40, 8, 8) // value
        arrays = {f"{s}_{p}": images if p == "images" else np.arange(40) % 2
                  for s in ("train", "test") for p in ("images", "labels")}
        np.savez(raw/"flat.npz", **arrays)
    write(1)
    status, before = (raw/"flat.npz").stat(), content_hash("flat", paths=home(raw))
    write(2)
    os.utime(raw/"flat.npz", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (raw/"flat.npz").stat().st_size == status.st_size
    assert content_hash("flat", paths=home(raw)) == load(raw, "flat").content_hash != before


def test_a_link_in_a_circle_is_refused(raw):
    folders(raw/"ring")
    (raw/"ring"/"train"/"a"/"again").symlink_to(raw/"ring"/"train")
    refused(raw, "ring", "again", "leads back to a folder that contains it; remove the link")
    with pytest.raises(ValueError, match="leads back"): content_hash("ring", paths=home(raw))
    (raw/"self").mkdir()
    (raw/"self"/"self").symlink_to(raw/"self"/"self")
    assert not is_here("self", home(raw))


def test_both_files_of_svhn_are_in_the_key(raw):
    for split in ("train", "test"): (raw/f"{split}_32x32.mat").write_bytes(b"1")
    from lth_nb.data import _origin
    before = _origin("svhn", home(raw))
    (raw/"test_32x32.mat").write_bytes(b"22")
    assert _origin("svhn", home(raw)) != before


# images dropped or changed

SUFFIXES = [".jfif", ".jpe", ".JPG", ".tga", ".pbm", ".jp2", ".pcx", ".avif", ".ico", ".dds", ".qoi", ""]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_that_pillow_reads(raw, suffix):
    folders(raw/"kinds", suffix=suffix or ".png")
    if not suffix:
        for f in (raw/"kinds").rglob("*.png"): f.rename(f.with_suffix(""))
    data = load(raw, "kinds")
    assert [len(data.split(s)[1]) for s in SPLITS] == [36, 4, 16] and count_images("kinds", paths=home(raw)) == 36
    assert not data.notes


@pytest.mark.parametrize("sub", ["scans", "{0}", "a/b/c", "x {0}/y"])
def test_files_in_folders_below_a_class(raw, sub):
    folders(raw/"deep", sub=sub)
    data = load(raw, "deep")
    assert len(data.train_labels) + len(data.val_labels) == 40 and len(data.test_labels) == 16
    assert count_images("deep", paths=home(raw)) == len(data.train_labels)
    assert (data.groups is not None) == ("{0}" in sub)


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png"])
def test_every_page_is_an_image(raw, suffix):
    where = folders(raw/"pages")
    pages = [Image.fromarray(pixels()) for _ in range(3)]
    for name in "ab": pages[0].save(where/"train"/name/f"x{suffix}", save_all=True, append_images=pages[1:])
    data = load(raw, "pages")
    assert len(data.train_labels) + len(data.val_labels) == 46
    assert count_images("pages", paths=home(raw)) == len(data.train_labels)
    assert any("files contain several images" in n for n in data.notes)
    for s in ("val", "test"): assert not {*data.groups[s].tolist()} & {*data.groups["train"].tolist()}


def test_a_previews_page_is_no_image(raw):
    where = folders(raw/"preview")
    Image.fromarray(pixels()).save(where/"train"/"a"/"x.tif", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    data = load(raw, "preview")
    assert len(data.train_labels) + len(data.val_labels) == 41 and data.image_size == 12
    assert any("differ in size from the first" in n and "x.tif" in n for n in data.notes)


def read_one(raw, image, suffix=".png", **options):
    "Return the pixels that the kit reads of one image."
    where = folders(raw/"one", suffix=".png")
    image.save(where/"test"/"a"/f"!{suffix}", **options)
    return load(raw, "one").test_images[0].numpy()


def test_the_color_under_transparency_is_not_seen(raw):
    color = pixels()
    alpha = np.full((12, 12), 255, np.uint8)
    alpha[:6] = 0
    alpha[6] = 128
    seen = read_one(raw, Image.fromarray(np.dstack([color, alpha])))
    assert (seen[:6] == 255).all() and (seen[7:] == color[7:]).all()
    assert (np.abs(seen[6].astype(int) - (color[6] * 128.0 + 255 * 127) / 255) <= 1).all()


@pytest.mark.parametrize("mode", ["LA", "P", "PA", "L key", "RGB key"])
def test_other_kinds_of_transparency(raw, mode):
    image = Image.new("RGB", (12, 12), (200, 10, 10))
    image.paste((10, 200, 10), (0, 0, 12, 6))
    shape = Image.new("L", (12, 12), 255)
    shape.paste(0, (0, 0, 12, 6))
    options = {}
    if mode in ("LA", "PA"):
        image = image.convert(mode[0])
        image.putalpha(shape)
        suffix = ".png" if mode == "LA" else ".tif"
        if mode == "PA": image, suffix = image.convert("RGBA"), ".png"
    elif mode == "P": image, options, suffix = image.quantize(2), {}, ".png"
    else: image, suffix = image.convert(mode[0] if mode[0] == "L" else "RGB"), ".png"
    if mode == "P": options = dict(transparency=image.getpixel((0, 0)))
    if "key" in mode: options = dict(transparency=image.getpixel((0, 0)))
    seen = read_one(raw, image, suffix, **options)
    assert (seen[:6] == 255).all() and (seen[6:] < 255).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P", "L", "1", "YCbCr"])
def test_what_was_read_well_is_read_as_before(raw, mode):
    suffix = {"CMYK": ".tif", "YCbCr": ".jpg"}.get(mode, ".png")
    image = Image.fromarray(pixels()).convert(mode)
    if mode == "RGBA": image.putalpha(255)
    seen = read_one(raw, image, suffix)
    with Image.open(raw/"one"/"test"/"a"/f"!{suffix}") as file: assert (seen == np.asarray(file.convert("RGB"))).all()


def test_exif_turns_an_image(raw):
    color, exif = pixels(), Image.Exif()
    exif[0x0112] = 6
    seen = read_one(raw, Image.fromarray(color), exif=exif)
    assert (seen == np.rot90(color, -1)).all()


def test_unreadable_exif_turns_nothing(raw):
    color = pixels()
    seen = read_one(raw, Image.fromarray(color), exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert (seen == color).all()


def test_sixteen_bits(raw):
    deep = RNG.integers(0, 2**16, (12, 12), dtype=np.uint16)
    assert (read_one(raw, Image.fromarray(deep))[..., 0] == deep >> 8).all()


def test_twelve_bits_in_sixteen_are_refused(raw):
    where = folders(raw/"scan")
    Image.fromarray(np.full((12, 12), 4000, np.uint16)).save(where/"test"/"a"/"x.png")
    refused(raw, "scan", "1 images have more than 8 bits but only use values up to 4000", "x.png", "scale them")


def test_float_images_count_as_unread(raw):
    where = folders(raw/"heat")
    Image.fromarray(np.zeros((12, 12), np.float32)).save(where/"train"/"a"/"x.tif")
    assert any("x.tif" in n and "16-bit" in n for n in load(raw, "heat").notes)


def test_one_color_file_among_gray_ones_is_named(raw):
    where = folders(raw/"gray", mode="L")
    assert load(raw, "gray").channels == 1
    save(where/"train"/"a"/"odd.png")
    data = load(raw, "gray")
    assert data.channels == 3 and any("1 of 57 files are in color" in n and "odd.png" in n for n in data.notes)


def test_lab_colors_are_converted(raw):
    color = np.full((12, 12, 3), (200, 60, 90), np.uint8)
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    seen = read_one(raw, ImageCms.applyTransform(Image.fromarray(color), lab), ".tif")
    assert (np.abs(seen.astype(int) - color) <= 4).all()


@pytest.mark.parametrize("lost, fault", [
    ("cut", "truncated"), ("text", "not a readable image"), ("link", "does not exist"), ("heic", "image format"),
    ("bomb", "decompression bomb"), ("chunk", "not a readable image"), ("loose", "not in a class's folder")])
def test_one_file_that_cannot_be_read_is_named(raw, lost, fault):
    where = folders(raw/"whole")
    bad, buffer = where/"train"/"a"/"bad.png", io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(buffer, "PNG")
    whole = bytearray(buffer.getvalue())
    if lost == "cut": bad.write_bytes(whole[:len(whole) // 2])
    if lost == "text": bad.write_text("no image")
    if lost == "link": bad.symlink_to(where/"nowhere.png")
    if lost == "heic":
        bad = bad.with_suffix(".heic")
        bad.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    if lost == "bomb":
        whole[16:24] = (50_000).to_bytes(4, "big") * 2  # width and height, and the checksum of both
        whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
        bad.write_bytes(whole)
    if lost == "chunk":
        whole[37:41] = b"ID\0\0"
        bad.write_bytes(whole)
    if lost == "loose":
        bad = where/"train"/"bad.png"
        bad.write_bytes(whole)
    with pytest.warns(UserWarning, match="1 of 41 files of train cannot be read"):
        data = load_dataset("whole", paths=home(raw))
    assert len(data.train_labels) + len(data.val_labels) == 40
    assert len(data.notes) == 1 and bad.name in data.notes[0] and fault in data.notes[0], data.notes
    done = run("lth_nb.cli", "data", "check", "whole", home=raw.parents[1])
    assert bad.name in done.stderr and "1 of 41 files of train cannot be read" in done.stderr
    if bad.suffix == ".png" and lost not in ("loose", "link"):
        for i in range(2): (where/"train"/"a"/f"bad{i}.png").write_bytes(bad.read_bytes())
        words = "3 of 43 files of train cannot be read (7.0%, more than 5%)"
        refused(raw, "whole", words, "bad.png", "replace or remove")


def test_what_systems_and_annotations_leave_behind(raw):
    where = folders(raw/"clean")
    before = load(raw, "clean").content_hash
    for name in (".ipynb_checkpoints/a.png", "__MACOSX/._a.png", ".DS_Store", "Thumbs.db", ".hidden/x/y.png",
                 "desktop.ini", "train/.ipynb_checkpoints/x.png", "train/__MACOSX/a/x.png", "train/a/.DS_Store",
                 "train/a/._00.png", "train/a/Thumbs.db", "test/@eaDir/x.png",
                 "train/b/.ipynb_checkpoints/00-checkpoint.png"):
        (where/name).parent.mkdir(parents=True, exist_ok=True)
        (where/name).write_bytes((where/"train"/"a"/"00.png").read_bytes())
    assert load(raw, "clean").content_hash == before and not load(raw, "clean").notes
    for f in [*(where/"train").rglob("[0-9]*.png")]: f.with_suffix(".json").write_text("{}")
    (where/"train"/"a"/"masks").mkdir()
    (where/"train"/"a"/"masks"/"0.png").write_bytes((where/"train"/"a"/"00.png").read_bytes())
    data = load(raw, "clean")
    assert data.content_hash == before and len(data.notes) == 2, data.notes
    assert "40 files of train are not images" in data.notes[0] and "masks" in data.notes[1]


# faults that are one sentence

def test_faults_of_classes(raw):
    where = folders(raw/"classes")
    (where/"train"/"c").mkdir()
    refused(raw, "classes", "classes/train: class c has no images; add some, or remove the class from every split")
    with pytest.raises(ValueError, match="class c has no images"): check_files("classes", home(raw))
    for i in range(5): save(where/"train"/"c"/f"{i}.png")
    assert any("the test split has no image of c" in n for n in load(raw, "classes").notes)
    save(where/"test"/"d"/"0.png")
    refused(raw, "classes", "classes/test: class d is not in train/")


def test_what_is_no_file_is_not_waited_for(raw):
    "A pipe with the suffix of an image is one lost file; nobody writes into it."
    where = folders(raw/"pipes")
    for name in ("pipe.png", "hose.jpg", "tube"): os.mkfifo(where/"train"/"a"/name)
    for name in ("b.png", "c"): (where/"train"/"a"/name).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="5 of 45 files of train cannot be read"): load(raw, "pipes")
    for name in ("hose.jpg", "tube", "b.png", "c"): (where/"train"/"a"/name).unlink()
    data = load(raw, "pipes")
    assert len(data.notes) == 1 and "pipe.png: the file is a pipe, a device or a folder" in data.notes[0]
    assert count_images("pipes", paths=home(raw)) == len(data.train_labels) == 36
    os.mkfifo(where/"groups.csv")
    refused(raw, "pipes", "groups.csv: the file is a broken link or not a file")


@pytest.mark.parametrize("dead", ["val", "train/c", "test/c", "groups.csv"])
def test_links_to_nothing_that_stand_for_more_than_an_image(raw, dead):
    "Whatever the link led to would be missing without a word."
    where = folders(raw/"moved")
    (where/dead).symlink_to(raw/"unmounted")
    refused(raw, "moved", f"moved/{dead}: the ", "link", "broken", "remove")
    with pytest.raises(ValueError, match="broken"): check_files("moved", home(raw))
    (where/dead).unlink()
    (where/"train"/"a"/"old.png").symlink_to(raw/"unmounted")
    assert "1 of 41 files of train cannot be read" in load(raw, "moved").notes[0]


def test_names_of_classes_as_systems_write_them(raw):
    "macOS writes an accent as a character of its own; the class is the same."
    one, two = (unicodedata.normalize(form, "K\u00e4se") for form in ("NFC", "NFD"))
    where = folders(raw/"cheese")
    (where/"train"/"a").rename(where/"train"/one)
    (where/"test"/"a").rename(where/"test"/two)
    data = load(raw, "cheese")
    assert data.class_names == (one, "b")
    assert (data.test_labels.bincount() == 8).all()
    save(where/"train"/two/"0.png")
    refused(raw, "cheese", "cheese/train: folders have names that look the same", "merge or rename them")


def test_a_class_whose_name_is_no_text(raw):
    folders(raw/"bytes")
    try: os.mkdir(os.fsencode(raw/"bytes"/"train") + b"/\xff")
    except OSError: pytest.skip("this file system takes only text")
    refused(raw, "bytes", "bytes/train: the folder ", "is not UTF-8; rename it")


def test_a_file_whose_name_is_no_text_is_told(raw):
    where = folders(raw/"bytes")
    try: file = open(os.fsencode(where/"train"/"a") + b"/\xff.png", "wb")
    except OSError: pytest.skip("this file system takes only text")
    with file: file.write(b"no image")
    assert "1 of 41 files of train cannot be read" in load(raw, "bytes").notes[0]
    done = run("lth_nb.cli", "data", "check", "bytes", home=raw.parents[1])
    assert "1 of 41 files" in done.stderr and "Traceback" not in done.stderr
    assert "1 of 41 files" in run("lth_nb.cli", "data", "check", "bytes", "--json", home=raw.parents[1]).stdout


def test_arguments_are_blamed_and_not_the_files(raw):
    folders(raw/"shapes")
    for settings, words in (
        (dict(image_size="8"), "image_size is '8'"), (dict(image_size=8.5), "image_size is 8.5"),
        (dict(image_size=True), "image_size is True"), (dict(image_size=0), "image_size is 0"),
        (dict(image_size=10**7), "the images need 24,000,000.00 GB of memory"), (dict(channels="3"), "channels is '3'"),
        (dict(fraction="0.5"), "fraction is '0.5'"), (dict(fraction=0), "fraction is 0"),
        (dict(fraction=float("nan")), "fraction is nan"), (dict(split_seed="a"), "split_seed is 'a'"),
        (dict(split_seed=1.5), "split_seed is 1.5"),
        (dict(device="tpu9"), "device is 'tpu9': this machine has no such"),
        (dict(device="cuda:99"), "device is 'cuda:99': this machine has no such"), (dict(groups="x"), "groups is 'x'"),
    ): refused(raw, "shapes", words, **settings)
    refused(raw, "x" * 300, "data set name 'xxxxxxxxxxxxxxxxxxxx'...: it has more than 200 bytes")
    refused(raw, "ü" * 150, "more than 200 bytes")


def test_too_few_images_name_the_set(raw):
    folders(raw/"few", n=1, test=1)
    refused(raw, "few", "raw/few: 2 images are too few to draw a validation split from")


def test_capital_splits_and_sets_of_sets_are_no_classes(raw):
    folders(raw/"capital")
    for split in ("train", "test"): (raw/"capital"/split).rename(raw/"capital"/split.title())
    refused(raw, "capital", "name its folders train, val and test, in lower case")
    folders(raw/"many"/"one"), folders(raw/"many"/"two")
    refused(raw, "many", "is not a data set")
    assert not own_datasets(home(raw))


@pytest.mark.parametrize("name", ["data/raw/x.npz", "x.npz", "./x", "/tmp/x/", "..\\x"])
def test_a_path_is_no_name(raw, name):
    for call in (load_dataset, content_hash, count_images, is_here, check_files):
        with pytest.raises(ValueError, match="this is a path; put the file or folder into data/raw"):
            call(name, paths=home(raw))
    done = run("lth_nb.cli", "data", "check", name, home=raw.parents[1], check=False)
    assert done.returncode == 1 and "this is a path" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", [None, 5, ["x"], b"x"])
def test_names_are_text(raw, name):
    with pytest.raises(ValueError, match="use a string"): load_dataset(name, paths=home(raw))


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_an_unreadable_folder(raw, monkeypatch):
    folders(raw/"closed")
    (raw/"secret").mkdir()
    (raw/"secret"/"x.npz").touch()
    for folder in raw.parents:
        if folder.stat().st_mode & 0o77 == 0: folder.chmod(0o755)  # pytest's folders are closed to others
    secret, inside = raw/"secret", raw/"closed"/"train"/"a"
    for path, where, call in (
        (secret, secret, lambda: find_dataset("x", [secret])), (secret, secret, lambda: own_datasets(home(raw))),
        (secret, secret, lambda: load_dataset("closed", paths=home(raw))),
        (inside, "", lambda: check_files("closed", home(raw))),
    ):
        monkeypatch.setenv("LTH_DATA", str(where))
        path.chmod(0)
        try:
            os.seteuid(65534)
            with pytest.raises(ValueError, match="Permission denied.*; change its permissions, or leave it"): call()
        finally:
            os.seteuid(0)
            path.chmod(0o755)


def test_folders_of_lth_data_that_are_not_there_are_said_so(raw, monkeypatch):
    monkeypatch.setenv("LTH_DATA", str(raw/"nowhere"))
    refused(raw, "x", "nowhere (no such folder) or ")


# .npz

def arrays(**changes):
    "A small set in MedMNIST's layout."
    pixels = (np.arange(40 * 64) % 251).astype(np.uint8).reshape(40, 8, 8)
    found = {f"{s}_{p}": pixels if p == "images" else np.arange(40) % 2
             for s in ("train", "test") for p in ("images", "labels")}
    return {k: v for k, v in {**found, **changes}.items() if v is not None}


def member(array):
    "The bytes of an .npy file."
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def save_zip(raw, members, **options):
    "Write an .npz of given members."
    with warnings.catch_warnings(), zipfile.ZipFile(raw/"x.npz", "w", **options) as file:
        warnings.simplefilter("ignore")
        for name, content in members: file.writestr(name, content)


def test_a_claim_beyond_memory_is_refused_at_once(raw):
    head = member(np.zeros((40, 8, 8), np.uint8))
    claimed = head.replace(b"(40, 8, 8), }".ljust(30), b"(100000, 750, 750), }".ljust(30))
    assert len(claimed) == len(head) and claimed != head
    content = [(f"{k}.npy", member(v)) for k, v in arrays().items() if k != "train_images"]
    save_zip(raw, [("train_images.npy", claimed), *content])
    words = "its header declares 56,250,000,000 bytes, but it has 2,560"
    refused(raw, "x", "x.npz: train_images cannot be read", words)
    with pytest.raises(ValueError, match="56,250,000,000"): check_files("x", home(raw))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(raw, monkeypatch):
    large = arrays(train_images=np.zeros((40, 1000, 1000), np.uint8))
    save_zip(raw, [(f"{k}.npy", member(v)) for k, v in large.items()], compression=zipfile.ZIP_DEFLATED)
    assert (raw/"x.npz").stat().st_size < 200_000
    monkeypatch.setattr("lth_nb.arrays._free_memory", lambda: 20_000_000)
    refused(raw, "x", "x.npz: the images need 0.04 GB of memory and 0.02 GB are free")


class Evil:
    def __reduce__(self): return os.mkdir, (os.environ["LTH_TEST_EVIL"],)


@pytest.mark.parametrize("key", ["train_images", "test_labels", "class_names", "train_groups"])
def test_objects_are_never_unpickled(raw, tmp_path, key, monkeypatch):
    monkeypatch.setenv("LTH_TEST_EVIL", str(tmp_path/"evil"))
    np.savez(raw/"x.npz", **arrays(**{key: np.array([Evil()], dtype=object)}))
    refused(raw, "x", f"x.npz: {key} cannot be read", "Python objects, which could run code")
    assert not (tmp_path/"evil").exists()


def test_odd_members(raw, tmp_path):
    content = [(f"{k}.npy", member(v)) for k, v in arrays().items()]
    save_zip(raw, [*content, ("../../evil.npy", b"x"), ("/etc/evil.npy", b"x"), ("ü\n.npy", b"x")])
    assert load(raw, "x").num_classes == 2 and not (tmp_path/"evil.npy").exists()
    save_zip(raw, [*content, content[0]])
    refused(raw, "x", "x.npz: keys train_images occur twice; save each array once")
    save_zip(raw, [("train_images.npy", b"not an array"), *content[1:]])
    refused(raw, "x", "x.npz: train_images cannot be read")
    (raw/"x.npz").write_bytes(b"")
    refused(raw, "x", "x.npz: the file is not a readable .npz file (BadZipFile)")


@pytest.mark.parametrize("changes, words", [
    (dict(train_labels=np.array([0] * 39 + [2**62])), "has class 4611686018427387904 but only 40 images"),
    (dict(train_labels=np.array([0] * 39 + [2**64 - 1], np.uint64)), "train_labels has class"),
    (dict(train_labels=np.arange(40) % 2 - 1), "train_labels contains -1; number the classes from 0"),
    (dict(test_labels=np.arange(40) % 2 - 1), "test_labels contains -1"),
    (dict(class_names=np.array(["a", "a"])), "class_names repeats 'a'"),
    (dict(class_names=np.arange(3_000_000)), "class_names names 3000000 classes, but there are 40"),
    (dict(train_images=np.zeros((40, 0, 8), np.uint8)), "train_images has shape (40, 0, 8)"),
    (dict(train_labels=np.zeros((40, 3), [("a", int)])), "train_labels has shape (40, 3)"),
    (dict(train_groups=np.arange(39), test_groups=np.arange(40)), "train_groups has shape (39,)"),
    (dict(train_groups=np.arange(40)), "test_groups is missing; store groups for every split, or for none")])
def test_faults_of_arrays(raw, changes, words):
    np.savez(raw/"x.npz", **arrays(**changes))
    refused(raw, "x", "x.npz: ", words)
    with pytest.raises(ValueError) as e: check_files("x", home(raw))
    assert words in str(e.value)


def test_huge_counts_of_classes_take_no_time(raw):
    labels = np.arange(200) % 100
    images = np.zeros((200, 4, 4), np.uint8)
    np.savez(raw/"x.npz", train_images=images, train_labels=labels * 2, test_images=images, test_labels=labels)
    refused(raw, "x", "x.npz: train_labels has no image of class 1 (1), 3 (3), 5 (5), 7 (7), 9 (9) and 94 more")
