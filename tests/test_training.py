"The training loop against a slow plain one, in float64; replayed steps, frozen backbones and parts of a training."
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import said

from lth_nb import slots
from lth_nb.batches import Batches
from lth_nb.core import generator_for
from lth_nb.data import load_dataset
from lth_nb.masking import apply_mask, random_mask
from lth_nb.models import build_model, prunable
from lth_nb.slots import forget_slots, side_by_side
from lth_nb.training import Recipe, count_steps, learning_rates, state_of, steps_per_epoch, train

BASE = Recipe(length="15it", lr=0.1, batch_size=50)
RECIPES = dict(
    sgd=BASE,
    plain=replace(BASE, nesterov=False, schedule="constant"),
    adam=replace(BASE, optimizer="adam", lr=1e-3),
    bare=replace(BASE, momentum=0.0, nesterov=False),
)


def plain_loop(net, data, recipe, seed, mask=None):
    "Train as a textbook would: torch's own optimizer, and a mask on every gradient and every weight."
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (data.mean, data.std))
    x = (data.train_images.permute(0, 3, 1, 2).double() / 255 - mean) / std
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            net.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay
        )
    order_from, done = generator_for(seed, "order", data.name), 0
    per_epoch = steps_per_epoch(len(x), recipe.batch_size)
    rates = learning_rates(recipe, count_steps(recipe.length, per_epoch), per_epoch)
    if mask: apply_mask(net, mask)
    net.train()
    while done < len(rates):
        for index in list(torch.randperm(len(x), generator=order_from).split(recipe.batch_size))[:per_epoch]:
            if done == len(rates): break
            for group in optimizer.param_groups: group["lr"] = rates[done]
            optimizer.zero_grad()
            F.cross_entropy(net(x[index]), data.train_labels[index]).backward()
            for name, p in net.named_parameters():
                if mask and name in mask: p.grad *= mask[name]
            optimizer.step()
            if mask: apply_mask(net, mask)
            done += 1


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model, size", [("lenet_300_100", 8), ("cnn_small", 16), ("resnet8", 16)])
def test_it_trains_like_a_plain_loop(model, size, recipe):
    """A bias in front of BatchNorm has gradient zero but for rounding, which Adam blows up: `cnn_small` gets a wider
    margin."""
    recipe, eps = RECIPES[recipe], 1e-8 if (model, recipe) == ("cnn_small", "adam") else 1e-10
    data = load_dataset("digits", image_size=size, channels=1)
    nets = [build_model(model, 10, image_size=size, channels=1, seed=3).double() for _ in range(3)]
    shapes = {n: p.shape for n, p in prunable(nets[0]).items()}
    for mask in (None, random_mask(dict.fromkeys(shapes, 0.3), shapes, 0)):
        train(nets[0], data, recipe, seed=3, mask=mask)
        plain_loop(nets[1], data, recipe, 3, mask)
        train(nets[2], data, recipe, seed=3, mask=mask, stepping="graph")
        for ours, plain, graph in zip(*(n.state_dict().values() for n in nets)):
            torch.testing.assert_close(ours.double(), plain.double(), rtol=0, atol=eps)
            assert torch.equal(ours, graph)


LONGER = Recipe(length="120it", lr=0.1, batch_size=32)
SHORT = replace(LONGER, length="1ep9it", batch_size=50)  # ends within an epoch, whose last batch is smaller


@pytest.fixture
def no_slots():
    "No slot of another test."
    forget_slots()
    yield
    forget_slots()


def trained(seed=0, model="lenet_300_100", size=8, recipe=LONGER, mask=None, **settings):
    "A fresh network, trained; with its result."
    net = build_model(model, 10, image_size=size, channels=1, seed=seed)
    data = load_dataset("digits", image_size=size, channels=1)
    return net, train(net, data, recipe, seed=seed, mask=mask, **settings)


def same_bits(a, b): return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def check_same(**case):
    "Replayed steps give the same bits as plain ones."
    (a, one), (b, other) = (trained(stepping=how, **case) for how in ("eager", "graph"))
    assert same_bits(a, b) and replace(one, seconds=0, kept=None) == replace(other, seconds=0, kept=None)
    assert (one.kept is None) == (other.kept is None)
    if one.kept: assert all(torch.equal(one.kept[n], other.kept[n]) for n in one.kept)


REPLAYED = dict(
    sgd=SHORT,
    adam=replace(SHORT, optimizer="adam", lr=1e-3),
    augmented=replace(SHORT, flip=True, crop=2, patience=1, length="4ep", lr=0.5, crop_to=14),
)


@pytest.mark.parametrize("case", [dict(keep_at=3), dict(freeze="backbone")], ids=["whole", "frozen"])
@pytest.mark.parametrize("recipe", REPLAYED)
def test_replayed_steps_give_the_same_bits(no_slots, recipe, case):
    check_same(model="cnn_small", size=16, recipe=REPLAYED[recipe], **case)
    assert len(slots._IDLE) == 1


def test_levels_and_seeds_share_a_slot_and_few_are_kept(no_slots):
    net = build_model("cnn_small", 10, image_size=16, channels=1)
    shapes = {n: p.shape for n, p in prunable(net).items()}
    constant = replace(SHORT, lr=0.03, schedule="constant")
    for seed, kept, recipe in ((0, 0.5, SHORT), (1, 0.2, constant), (2, 1.0, SHORT)):
        mask = random_mask(dict.fromkeys(shapes, kept), shapes, seed)
        check_same(seed=seed, model="cnn_small", size=16, recipe=recipe, mask=mask)
        assert len(slots._IDLE) == 1, "one slot for all of them"
    for size in (20, 25, 30, 35, 40):
        trained(recipe=replace(SHORT, length="1it", batch_size=size), stepping="graph")
    assert len(slots._IDLE) == slots._KEPT


def test_wrong_ways_of_stepping_and_divergence_are_said():
    assert "in epoch" in said(lambda: trained(stepping="graph", recipe=replace(LONGER, lr=1e9)), FloatingPointError)
    assert "use 'auto', 'graph' or 'eager'" in said(lambda: trained(stepping="fast"))


def test_a_network_that_diverges_is_left_as_training_made_it(no_slots):
    digits, made = load_dataset("digits", image_size=8, channels=1), {}
    for how in ("eager", "graph"):
        net = build_model("lenet_300_100", 10, image_size=8, channels=1, seed=0)
        before = state_of(net)
        with pytest.raises(FloatingPointError): train(net, digits, replace(LONGER, lr=1e9), stepping=how)
        made[how] = state_of(net)
        assert not any(torch.equal(value, before[name]) for name, value in made[how].items())
    for name, value in made["eager"].items(): torch.testing.assert_close(made["graph"][name], value, equal_nan=True)


@pytest.mark.parametrize("flip", [False, True], ids=["features", "images"])
@pytest.mark.parametrize("how", ["eager", "graph"])
def test_a_pruned_head_stays_pruned_on_a_frozen_backbone(no_slots, how, flip):
    data = load_dataset("digits", image_size=16, channels=1)
    net = build_model("cnn_small", 10, image_size=16, channels=1, seed=0)
    shapes = {n: p.shape for n, p in net.named_parameters() if p.dim() > 1}
    mask = random_mask(dict.fromkeys(shapes, 0.5), shapes, 0)
    apply_mask(net, mask)
    before = state_of(net)
    train(net, data, replace(SHORT, flip=flip), mask=mask, freeze="backbone", stepping=how)
    heads = [name for name in shapes if name.startswith("head.")]
    for name in heads:
        after = net.get_parameter(name)
        assert not after[~mask[name]].any() and not torch.equal(after, before[name])
    assert heads


def test_trainings_side_by_side_are_those_alone(no_slots):
    digits = load_dataset("digits", image_size=8, channels=1)
    alone = [trained(seed=s, recipe=SHORT)[0] for s in (0, 1)]
    nets = [build_model("lenet_300_100", 10, image_size=8, channels=1, seed=s) for s in (0, 1)]
    side_by_side([lambda s=s: train(nets[s], digits, SHORT, seed=s, stepping="graph") for s in (0, 1)])
    assert same_bits(nets[0], alone[0]) and same_bits(nets[1], alone[1])


def test_a_frozen_backbone_is_a_fixed_function():
    "Its head is trained as one would train it on the features."
    data = load_dataset("digits", image_size=16, channels=1)
    net, slow = (build_model("cnn_small", 10, image_size=16, channels=1, seed=0) for _ in range(2))
    before = state_of(net)
    train(net, data, LONGER, freeze="backbone")
    for name, value in state_of(net).items(): assert torch.equal(value, before[name]) != name.startswith("head."), name
    for p in slow.backbone.parameters(): p.requires_grad_(False)
    slow.backbone.eval()
    optimizer = torch.optim.SGD(slow.head.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    rates, order_from, done = learning_rates(LONGER, 120, 34), generator_for(0, "order", "digits"), 0
    while done < 120:
        for index in torch.randperm(len(data.train_images), generator=order_from).split(32)[:120 - done]:
            optimizer.param_groups[0]["lr"] = rates[done]
            optimizer.zero_grad()
            features = slow.backbone(Batches(data.train_images[index], data, LONGER)(torch.arange(len(index))))
            F.cross_entropy(slow.head(features), data.train_labels[index]).backward()
            optimizer.step()
            done += 1
    for a, b in zip(net.head.parameters(), slow.head.parameters()):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=1e-4)
