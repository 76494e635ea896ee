"One .npz file as a data set: every fault names the key, and shapes are refused before an image is read."
import zipfile

import numpy as np
import pytest
import torch
from conftest import said

from lth_nb.arrays import _arrays_of, _check, _read_npz

ABC = np.array(list("abc"))


def arrays(n=60, classes=3, size=8, **changes):
    "A tiny set in MedMNIST's layout; `None` leaves a key out."
    random, made = np.random.default_rng(0), {}
    for split, m in (("train", n), ("test", n // 2)):
        made[f"{split}_images"] = random.integers(0, 256, (m, size, size, 3), dtype=np.uint8)
        made[f"{split}_labels"] = np.sort(np.arange(m) % classes)[:, None]
    return {k: v for k, v in {**made, **changes}.items() if v is not None}


@pytest.fixture
def bad(tmp_path): return tmp_path/"bad.npz"


def byte(*shape): return np.zeros(shape, np.uint8)


NONE, ONE_CLASS = np.zeros(0, int), dict(train_labels=np.zeros(60, int), test_labels=np.zeros(30, int))
FAULTS = [  # what is said, and what is wrong
    ("keys test_labels are missing; the file has train_images", dict(test_labels=None)),
    ("keys val_labels are missing", dict(val_images=byte(4, 8, 8))),
    ("train_images has dtype float64; store pixel values 0 to 255 as uint8", dict(train_images=np.zeros((60, 8, 8)))),
    ("train_images has shape (60, 8, 8, 4)", dict(train_images=byte(60, 8, 8, 4))),
    ("train_images has shape (60, 0, 8)", dict(train_images=byte(60, 0, 8))),
    ("train_labels has shape (59,) for 60 images", dict(train_labels=np.zeros(59, int))),
    ("train_labels has shape (60, 14) for 60 images; store one label", dict(train_labels=np.zeros((60, 14), int))),
    ("train_labels has dtype float64", dict(train_labels=np.zeros(60))),
    (
        "test_labels has class 3, but train_labels only has 0 to 2; add training images of this class, or remove it",
        dict(test_labels=np.arange(30) % 4)
    ),
    (
        "test_labels ranges from 0 to 3; use 0 to 2 for the 3 classes",
        dict(test_labels=np.arange(30) % 4, class_names=ABC)
    ),
    ("train_labels contains -1; number the classes from 0", dict(train_labels=np.arange(60) % 4 - 1)),
    ("class_names repeats 'a'", dict(class_names=np.array(["a", "b", "a"]))),
    ("train_labels has no image of class 1 (1)", dict(train_labels=np.arange(60) % 2 * 2)),
    ("train_labels has no image of class 3 (d)", dict(class_names=np.array(list("abcd")))),
    (
        "train_labels has class 1000000000000 but only 60 images",
        dict(train_labels=np.arange(60) // 59 * 10**12)
    ),
    ("class_names names 61 classes, but there are 60 training images", dict(class_names=np.arange(61))),
    ("train_labels ranges from 0 to 2; use 0 to 1 for the 2 classes", dict(class_names=np.array(["a", "b"]))),
    ("in class_names, or add the missing names there", dict(class_names=np.array(["a", "b"]))),
    ("class_names has shape () and dtype <U3; store one name per class", dict(class_names=np.array("abc"))),
    ("class_names has shape (3, 1)", dict(class_names=ABC[:, None])),
    ("class_names has shape (3,) and dtype float64", dict(class_names=np.array([1.5, 2, 3]))),
    ("class_names has length 1; name at least 2 classes", dict(class_names=np.array(["a"]), **ONE_CLASS)),
    ("train_labels contains only class 0; add images", ONE_CLASS),
    ("test_images is empty; each split needs images", dict(test_images=byte(0, 8, 8), test_labels=NONE)),
    ("leave val out", dict(val_images=byte(0, 8, 8, 3), val_labels=NONE)),
    ("images differ in shape", dict(test_images=byte(30, 9, 9, 3))),
    (
        "class_names cannot be read (ValueError: it contains Python objects",
        dict(class_names=np.array(["a", "b"], dtype=object))
    ),
    *(
        ("class_names contains invalid Unicode", dict(class_names=np.array([97, 98, code], np.uint32).view("U1")))
        for code in (0x110000, 0xD800, 2**32 - 1)
    ),
]


@pytest.mark.parametrize("words, changes", FAULTS, ids=range(len(FAULTS)))
def test_faults_are_found_with_and_without_reading_images(bad, words, changes):
    np.savez(bad, **arrays(**changes))
    def only_headers(): return _check(bad, *_arrays_of(bad, read_images=False)[:2])
    for read in (lambda: _read_npz(bad), only_headers):
        message = said(read)
        assert words in message and "bad.npz" in message


def test_a_set_without_faults_is_read(bad):
    np.savez(bad, **arrays(class_names=ABC))
    read = _read_npz(bad)
    assert {s: tuple(x.shape) for s, (x, _) in read.splits.items()} == {"train": (60, 8, 8, 3), "test": (30, 8, 8, 3)}
    assert tuple(read.class_names) == ("a", "b", "c") and not read.notes


def test_a_class_without_test_images_is_noted(bad):
    np.savez(bad, **arrays(test_labels=np.arange(30) % 2, class_names=ABC))
    (note,) = _read_npz(bad).notes
    assert "bad.npz: the test split has no image of c; add some, or" in note


def test_what_is_no_archive(bad):
    bad.write_bytes(b"half a file")
    assert "bad.npz: the file is not a readable .npz file" in said(lambda: _read_npz(bad))
    with open(bad, "wb") as f: np.save(f, byte(3))
    assert "(BadZipFile); download it again, or save it with numpy.savez" in said(lambda: _read_npz(bad))


def test_a_header_that_tells_of_more_than_there_is(bad):
    np.savez(bad, **arrays(train_images=byte(60, 8, 8)))
    with zipfile.ZipFile(bad) as file: members = {n: file.read(n) for n in file.namelist()}
    claim = b"(60, 30000, 30000), }"
    true = b"(60, 8, 8), }".ljust(len(claim))
    assert true in members["train_images.npy"]
    members["train_images.npy"] = members["train_images.npy"].replace(true, claim)
    with zipfile.ZipFile(bad, "w") as file:
        for name, content in members.items(): file.writestr(name, content)
    assert "its header declares 54,000,000,000 bytes, but it has 3,8" in said(lambda: _read_npz(bad))


def test_groups_may_be_names(bad):
    "A patient of both splits is one patient."
    names = {f"{s}_groups": np.array([f"patient {i // 2}" for i in range(n)]) for s, n in (("train", 60), ("test", 30))}
    np.savez(bad, **arrays(**names))
    groups = _read_npz(bad).groups
    assert (len(groups["train"].unique()), len(groups["test"].unique())) == (30, 15)
    assert len(torch.cat([*groups.values()]).unique()) == 30


@pytest.mark.parametrize("words, groups", [
    ("test_groups is missing; store groups for every split, or for none", dict(train_groups=np.arange(60))),
    ("train_groups has shape (59,)", dict(train_groups=np.arange(59), test_groups=np.arange(30))),
    ("dtype float64 for 60 images", dict(train_groups=np.zeros(60), test_groups=np.arange(30))),
], ids=["missing", "short", "float"])
def test_faults_of_groups(bad, words, groups):
    np.savez(bad, **arrays(**groups))
    assert words in said(lambda: _read_npz(bad))
