"Data sets in their authors' formats: both orders of bytes, gzipped or plain, and damage in words."
import gzip

import numpy as np
import pytest
import torch
from conftest import said

from lth_nb.originals import _read_norb_matrix, _read_smallnorb


def norb_bytes(a, order="little"):
    "A matrix as the authors of SmallNORB describe the format."
    def word(n): return int(n).to_bytes(4, order)
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[a.dtype.name]
    header = word(magic) + word(a.ndim) + b"".join(map(word, [*a.shape, *[1] * (3 - a.ndim)]))
    return header + a.astype(a.dtype.newbyteorder("<" if order == "little" else ">")).tobytes()


def save_norb(where, order, zipped, toys):
    where.mkdir()
    for split, count in (("training", "5x46789"), ("testing", "5x01235")):
        for part, a in zip(("dat", "cat"), toys[split]):
            raw = norb_bytes(a, order)
            file = where/f"smallnorb-{count}x9x18x6x2x96x96-{split}-{part}.mat{'.gz' * zipped}"
            file.write_bytes(gzip.compress(raw) if zipped else raw)
    return where


@pytest.fixture(scope="module")
def toys():
    "Pictures of two cameras with five classes."
    random, found = np.random.default_rng(0), {}
    for split, n in (("training", 20), ("testing", 10)):
        found[split] = random.integers(0, 256, (n, 2, 96, 96), dtype=np.uint8), (np.arange(n) % 5).astype(np.int32)
    return found


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("order", ["little", "big"])
def test_smallnorb_is_read_in_both_orders_of_bytes(toys, tmp_path, order, zipped):
    read = _read_smallnorb(save_norb(tmp_path/"smallnorb", order, zipped, toys))
    for split, theirs in (("train", "training"), ("test", "testing")):
        images, labels = read.splits[split]
        assert torch.equal(images[..., 0], torch.as_tensor(toys[theirs][0][:, 0])), "the left camera's pictures"
        assert torch.equal(labels, torch.as_tensor(toys[theirs][1]).long())


DAMAGES = {
    "cut": (lambda whole: whole[:-1], "declares 368640"),
    "longer": (lambda whole: whole + b"0", "has more bytes of values"),
    "cut gzip": (lambda whole: gzip.compress(whole)[:-9], "broken.mat: the file is damaged (EOFError)"),
    "dimensions": (lambda whole: whole[:4] + b"\xff" * 4, "the file has 4294967295 dimensions"),
    "sizes": (lambda whole: whole[:8] + b"\xff\xff\xff\x7f" * 4, "GB of memory and"),
    "matlab": (
        lambda whole: b"MATLAB 5.0 MAT-file",
        "does not begin with a magic number of NORB's matrix format but with 4d41544c"
    ),
    "empty": (lambda whole: b"", "magic number"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_matrix_is_named(toys, tmp_path, damage):
    change, words = DAMAGES[damage]
    (tmp_path/"broken.mat").write_bytes(change(norb_bytes(toys["training"][0])))
    assert words in said(lambda: _read_norb_matrix(tmp_path/"broken.mat"))
