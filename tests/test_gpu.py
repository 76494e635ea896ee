"""What needs a GPU: the replayed step against the plain one, tails, early stopping, runs side by side, one
synchronization an epoch."""
import warnings
from dataclasses import replace

import pytest
import torch

from lth_nb import slots
from lth_nb.core import device
from lth_nb.data import load_dataset
from lth_nb.masking import random_mask
from lth_nb.models import build_model, prunable
from lth_nb.training import Recipe, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")]
# 1,078 images: ten full batches and a tail of 78
BASE = Recipe(length="1ep9it", batch_size=100, lr=0.05, crop=2, flip=True)
CASES = [
    ("lenet_300_100", 8, BASE), ("cnn_small", 16, replace(BASE, optimizer="adam", lr=1e-3)), ("resnet8", 16, BASE),
    ("resnet20", 32, replace(BASE, momentum=0.0, nesterov=False))
]


@pytest.fixture(scope="module", autouse=True)
def gpu():
    yield device("cuda")
    slots.forget_slots()


def trained(model="resnet8", size=16, recipe=BASE, seed=0, share=0.3, dtype=torch.float32, where="cuda", **settings):
    "A fresh network, trained under a random mask; its state on the CPU, and the result."
    net = build_model(model, 10, image_size=size, channels=1, seed=seed).to(dtype)
    shapes = {n: p.shape for n, p in prunable(net).items()}
    mask = random_mask(dict.fromkeys(shapes, share), shapes, seed)
    result = train(
        net.to(where), load_dataset("digits", image_size=size, channels=1, device=where), recipe, seed,
        {n: m.to(where) for n, m in mask.items()}, **settings
    )
    return {n: v.cpu() for n, v in net.state_dict().items()}, result, mask


def same(a, b): return all(torch.equal(a[n], b[n]) for n in a)


def untimed(result): return replace(result, seconds=0, kept=None)


@pytest.mark.parametrize("model, size, recipe", CASES, ids=[c[0] for c in CASES])
def test_graph_equals_eager_bit_for_bit(model, size, recipe):
    (a, one, mask), (b, other, _) = (
        trained(model, size, recipe, stepping=how, validate=True) for how in ("eager", "graph")
    )
    assert same(a, b) and untimed(one) == untimed(other)
    assert all((b[n][~m] == 0).all() and (b[n][m] != 0).any() for n, m in mask.items())


def test_bf16_graph_is_near_eager():
    recipe = replace(BASE, precision="bf16", length="12it")
    (a, one, _), (b, other, _) = (trained(recipe=recipe, stepping=how) for how in ("eager", "graph"))
    for n in a: torch.testing.assert_close(a[n].double(), b[n].double(), rtol=1e-2, atol=1e-2)
    assert abs(one.val_loss - other.val_loss) < 0.05


def test_float64_equals_the_processor():
    # a rate that float32, as CUDA's kernels take it, holds exactly
    recipe = replace(BASE, schedule="constant", lr=2.0**-5)
    (a, _, _), (b, _, _) = (
        trained(recipe=recipe, dtype=torch.float64, where=where, stepping="graph") for where in ("cpu", "cuda")
    )
    for n in a: torch.testing.assert_close(a[n].double(), b[n].double(), rtol=1e-9, atol=1e-10)


def test_early_stopping_and_kept_state():
    recipe = replace(BASE, length="12ep", patience=1, lr=0.4)
    (a, one, _), (b, other, _) = (trained(recipe=recipe, stepping=how, keep_at=4) for how in ("eager", "graph"))
    assert same(a, b) and same(one.kept, other.kept) and untimed(one) == untimed(other) and one.best_epoch < 12
    assert one.val_loss == min(line["val_loss"] for line in one.history)


@pytest.mark.parametrize("recipe", [BASE, replace(BASE, crop=0, flip=False)], ids=["moving", "fixed features"])
def test_frozen_backbone(recipe):
    (a, _, _), (b, _, _) = (trained(recipe=recipe, freeze="backbone", stepping=how) for how in ("eager", "graph"))
    assert same(a, b)


def test_a_new_level_or_seed_is_a_copy(monkeypatch):
    slots.forget_slots()
    recorded, record = [], slots.ReplayedSlot._recorded
    monkeypatch.setattr(slots.ReplayedSlot, "_recorded", lambda self, size: recorded.append(size) or record(self, size))
    for seed, share, lr in ((0, 0.5, 0.05), (1, 0.2, 0.02), (2, 0.9, 0.1)):
        (a, *_), (b, *_) = (
            trained(seed=seed, share=share, recipe=replace(BASE, lr=lr), stepping=how) for how in ("eager", "graph")
        )
        assert same(a, b)
    assert recorded == [100, 78]


def test_two_packed_equal_the_same_alone():
    alone = [trained(seed=s, stepping="graph")[0] for s in (0, 1)]
    nets = [build_model("resnet8", 10, image_size=16, channels=1, seed=s) for s in (0, 1)]
    shapes = {n: p.shape for n, p in prunable(nets[0]).items()}
    masks = [{n: m.cuda() for n, m in random_mask(dict.fromkeys(shapes, 0.3), shapes, s).items()} for s in (0, 1)]
    data = load_dataset("digits", image_size=16, channels=1, device="cuda")
    for net in nets: net.cuda()
    slots.side_by_side([lambda s=s: train(nets[s], data, BASE, s, masks[s]) for s in (0, 1)], "cuda")
    for net, state in zip(nets, alone): assert same({n: v.cpu() for n, v in net.state_dict().items()}, state)


def test_one_synchronization_an_epoch():
    net, data = (
        build_model("resnet8", 10, image_size=16, channels=1).cuda(),
        load_dataset("digits", image_size=16, channels=1, device="cuda"),
    )
    counts = []
    for epochs in (2, 7):
        train(net, data, replace(BASE, length="2ep"), validate=True)  # records
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                train(net, data, replace(BASE, length=f"{epochs}ep"), validate=True)
        finally: torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(w.message) for w in caught))
    assert counts[1] - counts[0] == 5


def test_the_processor_and_the_gpu_learn_alike():
    (_, here, _), (_, there, _) = (
        trained(recipe=replace(BASE, length="10ep"), where=where) for where in ("cpu", "cuda")
    )
    assert abs(here.test_accuracy - there.test_accuracy) < 0.05


def test_memory_is_let_go():
    trained("resnet20", 32)
    slots.forget_slots()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() < 100e6
