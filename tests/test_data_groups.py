"Images of one group never lie in two splits that are drawn."
import itertools

import numpy as np
import pytest
import torch
from conftest import run
from PIL import Image

from lth_nb.core import Paths
from lth_nb.data import SPLITS, count_images, count_shared_groups, load_dataset, near_duplicate_groups

RNG = np.random.default_rng(0)


def disjoint(data):
    "Whether no group lies in two splits."
    groups = [{*data.groups[s].tolist()} for s in SPLITS]
    return all(not a & b for a, b in itertools.combinations(groups, 2))


def arrays(patients, sizes, classes=3):
    "A set of patients with many images, the class of each image that of its patient."
    of = np.repeat(np.arange(patients), sizes)
    return RNG.integers(0, 256, (len(of), 8, 8, 3), dtype=np.uint8), of % classes, of


@pytest.fixture
def project(tmp_path):
    "An empty project."
    (tmp_path/"data"/"raw").mkdir(parents=True)
    return Paths(tmp_path)


@pytest.mark.parametrize("layout", ["folders", "table", "npz", "npz by name"])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_what_is_drawn_is_drawn_by_group(project, layout, seed):
    images, labels, of = arrays(60, RNG.integers(1, 12, 60))
    where, resplit = project.raw/"scans", "npz" in layout
    if resplit:
        cut = len(of) // 2
        names = np.array([f"patient {p}" for p in of]) if "name" in layout else of
        parts = dict(train_images=images[:cut], train_labels=labels[:cut], train_groups=names[:cut])
        parts |= dict(test_images=images[cut:], test_labels=labels[cut:], test_groups=names[cut:])
        np.savez(f"{where}.npz", **parts)
    else:
        rows = ["path,group"]
        for i, (x, y, p) in enumerate(zip(images, labels, of)):
            file = where/f"class {y}"/(f"patient {p}" if layout == "folders" else "")/f"{i:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x).save(file)
            rows.append(f"{file.relative_to(where)},{p}")
        if layout == "table": (where/"groups.csv").write_text("\n".join(rows))
    data = load_dataset("scans", paths=project, split_seed=seed, resplit=resplit)
    assert disjoint(data) and sum(len(data.groups[s].unique()) for s in SPLITS) == 60
    for split, share in zip(SPLITS, (0.6, 0.1, 0.3)):
        held = data.split(split)[1].bincount(minlength=3) / np.bincount(labels)
        assert (abs(held - share) < 0.05).all(), (split, held)
    again = load_dataset("scans", paths=project, split_seed=seed, resplit=resplit)
    assert again.content_hash == data.content_hash
    assert load_dataset("scans", paths=project, split_seed=seed + 1, resplit=resplit).content_hash != data.content_hash
    halves = [load_dataset(f"scans.{h}", paths=project, split_seed=seed, resplit=resplit) for h in "ab"]
    assert not {*halves[0].groups["train"].tolist()} & {*halves[1].groups["train"].tolist()}
    some = [load_dataset("scans", fraction=f, paths=project, split_seed=seed, resplit=resplit) for f in (0.1, 0.4, 0.8)]
    for small, large in itertools.pairwise([*some, data]):
        assert {*small.groups["train"].tolist()} < {*large.groups["train"].tolist()}
        counts = [d.groups["train"].bincount(minlength=60) for d in (small, data)]
        assert ((counts[0] == 0) | (counts[0] == counts[1])).all()  # whole patients
    if seed == 0: assert count_images("scans", 0.4, project, resplit) == len(some[1].train_labels)


def test_a_drawn_validation_split_and_a_given_test_split(project):
    images, labels, of = arrays(40, 6)
    parts = dict(train_images=images, train_labels=labels, train_groups=of)
    parts |= dict(test_images=images[:30], test_labels=labels[:30], test_groups=of[:30])
    np.savez(project.raw/"scans.npz", **parts)
    data = load_dataset("scans", paths=project)
    shared = {*data.groups["test"].tolist()} & {*data.groups["train"].tolist()}
    assert shared and count_shared_groups(data) == {"val": 0, "test": len(shared)}
    done = run("lth_nb.cli", "data", "check", "scans", home=project.root)
    assert "0 validation and " in done.stderr and "test groups also have training images" in done.stderr
    assert "byte for byte" in done.stderr


def test_sets_without_groups_are_drawn_as_before(project):
    images, labels, _ = arrays(90, 1)
    np.savez(project.raw/"plain.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    np.savez(project.raw/"alone.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels,
             train_groups=np.arange(90), test_groups=np.arange(90))
    plain, alone = (load_dataset(n, paths=project, groups=g) for n, g in (("plain", None), ("alone", "none")))
    assert plain.content_hash == alone.content_hash and plain.groups is None


def test_too_few_groups_are_said_so(project):
    images, labels, _ = arrays(30, 2)
    for i, (x, y) in enumerate(zip(images, labels)):
        file = project.raw/"few"/f"{y}"/f"patient {i % 2}"/f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(file)
    told = pytest.warns(UserWarning, match="folders of the same names")
    with told, pytest.raises(ValueError, match="60 images in 2 groups are too few"): load_dataset("few", paths=project)


def picture(rng):
    "A picture with many blobs, as cells under a microscope are."
    y, x = np.mgrid[:96, :96]
    found = np.full((96, 96, 3), 220.0)
    for _ in range(45):
        cx, cy, r, color = *rng.uniform(4, 92, 2), rng.uniform(2, 8), rng.uniform(0, 200, 3)
        found = np.where((((x - cx)**2 + (y - cy)**2) < r**2)[..., None], color, found)
    return Image.fromarray(found.astype(np.uint8))


def augmented(image, rng):
    "A copy turned, sheared, scaled, moved and perhaps mirrored, as data sets are enlarged."
    if rng.random() < 0.5: image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    shear, scale = rng.uniform(-0.1, 0.1, 2), rng.uniform(0.9, 1.1)
    image = image.rotate(rng.uniform(-180, 180), Image.Resampling.BILINEAR)
    move = (scale, shear[0], -4.8 * shear[0] * 10, shear[1], scale, -4.8 * shear[1] * 10)
    return image.transform(image.size, Image.Transform.AFFINE, move, Image.Resampling.BILINEAR)


def test_augmented_copies_are_found(project):
    rng = np.random.default_rng(0)
    originals = [picture(rng) for _ in range(12)]
    copies = [np.asarray(augmented(o, rng)) for o in originals for _ in range(8)]
    images, of = torch.from_numpy(np.stack(copies)), np.arange(96) // 8
    groups = near_duplicate_groups(images).numpy()
    for g in np.unique(groups): assert len(np.unique(of[groups == g])) == 1, "two originals in one group"
    same = sum(np.bincount(groups[of == o]).max() for o in range(12))
    assert same >= 90, f"{same} of 96 copies are with their original"
    mixed = np.random.default_rng(1).permutation(96)
    np.savez(project.raw/"cells.npz", train_images=images.numpy()[mixed[:60]], train_labels=of[mixed[:60]] % 2,
             test_images=images.numpy()[mixed[60:]], test_labels=of[mixed[60:]] % 2)
    data = load_dataset("cells", 32, paths=project, resplit=True, groups="near-duplicates")
    assert disjoint(data)
