"Sets of one's own: a file and a folder with one content are one set; groups stay whole; what is missing is told."
import hashlib
import importlib.util
import shutil

import numpy as np
import pytest
import torch
from conftest import said
from PIL import Image
from scipy.io import savemat

from lth_nb.core import Paths
from lth_nb.data import (
    SPLITS,
    check_files,
    content_hash,
    count_images,
    count_shared_groups,
    is_here,
    known_names,
    load_dataset,
    own_datasets,
)
from lth_nb.originals import _torchvision

RNG = np.random.default_rng(0)
NAMES = np.array(list("abc"))
has_torchvision = pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="torchvision is missing")


def random_arrays(n=60, classes=3, size=12, **changes):
    "A tiny set in MedMNIST's layout."
    made = {}
    for split, m in (("train", n), ("test", n // 2)):
        made[f"{split}_images"] = RNG.integers(0, 256, (m, size, size, 3), dtype=np.uint8)
        made[f"{split}_labels"] = np.sort(np.arange(m) % classes)[:, None]
    return {**made, **changes}


@pytest.fixture(scope="module")
def arrays(): return random_arrays()


def save_images(where, arrays, splits=("train", "test"), sub=""):
    "The arrays of an .npz file as split/class/image files."
    for split in splits:
        for i, (x, y) in enumerate(zip(arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel())):
            file = where/split/"abc"[y]/sub.format(i // 2)/f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x).save(file)


@pytest.fixture
def home(tmp_path, arrays):
    "A project with one content as a file, as a folder, and as two sets in one piece."
    made = Paths(tmp_path)
    made.raw.mkdir(parents=True)
    np.savez(made.raw/"as_file.npz", **arrays, class_names=NAMES)
    save_images(made.raw/"as_folder", arrays)
    save_images(made.raw/"as_classes", arrays)
    for split in ("train", "test"): (made.raw/"as_classes"/split).rename(made.raw/f"as_classes_{split}")
    return made


OWN = ["as_classes_test", "as_classes_train", "as_file", "as_folder"]


def sizes(data): return [len(data.split(s)[1]) for s in SPLITS]


def test_a_file_and_a_folder_with_one_content_are_one_set(home):
    as_file, as_folder = (load_dataset(name, paths=home) for name in ("as_file", "as_folder"))
    assert as_file.content_hash == as_folder.content_hash and len(as_file.val_labels) == 6
    assert list(own_datasets(home)) == OWN
    names = ("as_file", "as_folder.a", "digits", "van_gogh", "svhn")
    assert [is_here(n, home) for n in names] == [True, True, True, False, False]
    for name in ("as_file", "as_folder", "as_classes_train", "digits", "van_gogh"): check_files(name, home)


def test_folders_of_classes_are_a_set_in_one_piece(home):
    assert sizes(load_dataset("as_classes_train", paths=home)) == [36, 6, 18]
    none = "as_classes/ is not a data set: it contains neither train/ and test/ nor one folder of images per class"
    assert none in said(lambda: load_dataset("as_classes", paths=home), FileNotFoundError)


@pytest.mark.parametrize("name", ["as_file", "as_folder", "as_folder.b", "as_classes_train"])
def test_images_are_counted_without_reading_them(home, name):
    assert count_images(name, 0.5, home) == len(load_dataset(name, fraction=0.5, paths=home).train_labels)


def test_counts_of_sets_that_are_cut_anew_or_missing(home):
    assert count_images("as_file", paths=home, resplit=True) == 54
    names = ("cifar10", "cifar10.a", "blood_cells", "unheard_of")
    assert [count_images(n, paths=home) for n in names] == [45_000, 22_500, None, None]


def test_files_are_checked_before_a_run(home, arrays):
    np.savez(home.raw/"floats.npz", **random_arrays(train_images=np.zeros((60, 8, 8))))
    assert "floats.npz: train_images has dtype float64" in said(lambda: check_files("floats", home))
    save_images(home.raw/"as_file", arrays)
    assert "'as_file' exists twice, as " in said(lambda: load_dataset("as_file", paths=home))


@pytest.fixture
def patients(home, arrays):
    "A set in one piece with two images of each patient."
    save_images(home.raw/"patients", arrays, ("train",), sub="patient {}")
    (home.raw/"patients"/"train").rename(home.raw/"patients_")
    return load_dataset("patients_", paths=home)


def test_no_group_lies_in_two_splits(home, patients):
    assert [len(patients.groups[s].unique()) for s in SPLITS] == [18, 3, 9]
    assert count_shared_groups(patients) == {"val": 0, "test": 0}
    for share in (1.0, 0.5):
        drawn = load_dataset("patients_", fraction=share, paths=home)
        assert count_images("patients_", share, home) == len(drawn.train_labels)
    a, b = ({*load_dataset(f"patients_.{part}", paths=home).groups["train"].tolist()} for part in "ab")
    assert a and b and not a & b


def test_groups_can_be_left_out(home, patients):
    ungrouped = load_dataset("patients_", paths=home, groups="none")
    pieces = load_dataset("as_classes_train", paths=home)
    assert (ungrouped.groups, ungrouped.content_hash) == (None, pieces.content_hash)
    odd = "groups is 'patient': use 'near-duplicates'"
    assert odd in said(lambda: load_dataset("patients_", paths=home, groups="patient"))


def test_copies_of_a_picture_are_one_group(home, arrays):
    "Every image is there twice, once mirrored; a test split that comes with the files is left as it is."
    large = [Image.fromarray(x).resize((64, 64), Image.Resampling.NEAREST) for x in arrays["train_images"][::2]]
    once = np.stack([np.asarray(image) for image in large])
    labels = np.tile(arrays["train_labels"][::2], (2, 1))
    both = dict(train_images=np.concatenate([once, once[:, :, ::-1]]), train_labels=labels)
    np.savez(home.raw/"twice.npz", **both, test_images=once[:3], test_labels=np.arange(3))
    near = dict(paths=home, groups="near-duplicates")
    found = load_dataset("twice", **near)
    assert len(torch.cat([*found.groups.values()]).unique()) == 30
    assert count_shared_groups(found) == {"val": 0, "test": 3}
    anew = load_dataset("twice", image_size=16, **near, resplit=True)
    assert count_shared_groups(anew) == {"val": 0, "test": 0}
    assert content_hash("twice", 16, **near, resplit=True) == anew.content_hash
    assert content_hash("twice", 16, paths=home, resplit=True) != anew.content_hash
    assert count_images("twice", **near, resplit=True) == len(anew.train_labels)


def test_the_hash_of_the_content_is_kept_until_a_file_changes(home, arrays, monkeypatch):
    def hashed(): return content_hash("as_file", 6, 1, 0.5, home)
    for _ in range(2): assert hashed() == load_dataset("as_file", 6, 1, 0.5, paths=home).content_hash
    assert content_hash("van_gogh", paths=home) is None
    assert content_hash("digits.a") == load_dataset("digits.a").content_hash
    before, whole = hashed(), load_dataset("as_file", paths=home).content_hash
    np.savez(home.raw/"as_file.npz", **random_arrays())
    assert hashed() != before
    np.savez(home.raw/"as_file.npz", **arrays, class_names=NAMES)
    assert hashed() == before
    monkeypatch.setenv("LTH_DATA", str(home.raw))
    assert load_dataset("as_file", paths=Paths(home.root/"elsewhere")).content_hash == whole


def save_idx(where, **arrays):
    "MNIST's own format, as torchvision unpacks it."
    where.mkdir(parents=True)
    for name, a in arrays.items():
        header = bytes([0, 0, 8, a.ndim]) + b"".join(n.to_bytes(4, "big") for n in a.shape)
        (where/name.replace("_", "-")).write_bytes(header + a.tobytes())


@has_torchvision
def test_torchvisions_files_are_read_where_they_are_unless_raw_has_the_set(home, arrays):
    gray, classes = RNG.integers(0, 256, (50, 28, 28), dtype=np.uint8), (np.arange(50) % 10).astype(np.uint8)
    save_idx(
        home.raw/"MNIST"/"raw", train_images_idx3_ubyte=gray, train_labels_idx1_ubyte=classes,
        t10k_images_idx3_ubyte=gray[:20], t10k_labels_idx1_ubyte=classes[:20]
    )
    mnist = load_dataset("mnist", paths=home)
    assert np.array_equal(mnist.test_images[..., 0], gray[:20]) and np.array_equal(mnist.test_labels, classes[:20])
    np.savez(home.raw/"mnist.npz", **arrays)
    assert load_dataset("mnist", paths=home).image_size == 12


@has_torchvision
def test_svhns_own_files(home, monkeypatch):
    "Ten stands for the digit 0; torchvision knows the true files' checksums."
    cure = "`lth data get svhn` fetches torchvision's SVHN files, or save it as svhn.npz"
    assert cure in said(lambda: load_dataset("svhn", paths=home), FileNotFoundError)
    streets, numbers = RNG.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8), np.arange(50) % 10
    labels = np.where(numbers == 0, 10, numbers)[:, None].astype(np.uint8)
    svhn = _torchvision().datasets.SVHN
    monkeypatch.setattr(svhn, "split_list", {split: list(entry) for split, entry in svhn.split_list.items()})
    for split in ("train", "test"):
        file = home.raw/f"{split}_32x32.mat"
        savemat(file, dict(X=streets.transpose(1, 2, 3, 0), y=labels))
        svhn.split_list[split][2] = hashlib.md5(file.read_bytes()).hexdigest()
    read = load_dataset("svhn", paths=home)
    assert np.array_equal(read.test_images, streets) and np.array_equal(read.test_labels, numbers)
    assert is_here("svhn", home)


@has_torchvision
def test_a_failed_download_and_a_set_that_is_not_here(home, monkeypatch):
    def offline(root, train, download): raise RuntimeError("no connection" if download else "Dataset not found")
    monkeypatch.setattr(_torchvision().datasets, "KMNIST", offline)
    failed = said(lambda: load_dataset("kmnist", paths=home, download=True), ConnectionError)
    assert "KMNIST could not be downloaded" in failed
    cure = "`lth data get kmnist` fetches torchvision's KMNIST files"
    assert cure in said(lambda: load_dataset("kmnist", paths=home), FileNotFoundError)


def test_what_is_nowhere_says_where_to_get_it(home):
    cure = "save it as blood_cells.npz (MedMNIST's layout) or blood_cells/split/class/image; the images are from "
    assert f"{cure}Acevedo" in said(lambda: load_dataset("blood_cells", paths=home), FileNotFoundError)
    own = f"sets of your own: {', '.join(OWN)}; sets known"
    assert own in said(lambda: load_dataset("unheard_of", paths=home), FileNotFoundError)
    assert all(name in known_names(home) for name in (*OWN, "digits", "blood_cells"))
    shutil.rmtree(home.raw)
    assert own not in said(lambda: load_dataset("unheard_of", paths=home), FileNotFoundError)
