"A replayed slot gives the bits of plain steps, and no tensor that a recording reads ever moves."
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from conftest import said
from torch import nn

from lth_nb.core import generator_for
from lth_nb.slots import ReplayedSlot, Slot

RECIPE = dict(batch_size=32, optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=1e-3, precision="fp32")
HALF = {"0.weight": torch.arange(48).view(8, 6) % 2 == 0}
ORDER = torch.randperm(70, generator=generator_for(0, "order"))
LABELS = torch.randint(3, (70,), generator=torch.Generator().manual_seed(0))


class Points:
    "A table of numbers that may be shifted."
    table = torch.randn(70, 6, generator=torch.Generator().manual_seed(0))

    def __init__(self, ranges=()): self.ranges = ranges
    def __call__(self, index, moves):
        return self.table[index] + sum(moves)[:, None] if self.ranges else self.table[index]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def slot_of(kind, net, ranges, recipe):
    return kind(net, net, dict(net.named_parameters()), Points(ranges), LABELS, recipe)


def addresses(slot, net):
    tensors = (slot.weights, slot.mask, slot.lr, *slot.moments, *net.parameters(), *net.buffers())
    return [t.data_ptr() for t in tensors]


def both(part=slice(None), ranges=(), mask=HALF, used=False, **changes):
    "The same steps through a plain and a replayed slot: both networks, and the sums of their losses."
    recipe = SimpleNamespace(**{**RECIPE, **changes})
    nets, own = [network(), network()], network()
    if mask:
        for net in nets: net[0].weight.data.mul_(mask["0.weight"])
    plain, replayed = slot_of(Slot, nets[0], ranges, recipe), slot_of(ReplayedSlot, own, ranges, recipe)
    plain.set_mask(mask)
    if used:  # by a training before
        replayed.load(deepcopy(own), None)
        replayed.steps(ORDER, [0.3, 0.2, 0.1], generator_for(1, "moves"))
    replayed.load(nets[1], mask)
    before = addresses(replayed, own)
    rates = [0.1, 0.05, 0.2][:len(ORDER[part].split(recipe.batch_size))]
    sums = [s.steps(ORDER[part], rates, generator_for(0, "moves")) for s in (plain, replayed)]
    assert addresses(replayed, own) == before
    assert float(replayed.steps(ORDER, [], None)) == 0
    replayed.store(nets[1])
    plain.release()
    return nets, sums


CASES = dict(
    usual=dict(), used=dict(used=True), adam=dict(optimizer="adam"), bare=dict(momentum=0.0, mask=None),
    moves=dict(ranges=(2, 5)), one_batch=dict(batch_size=100), no_tail=dict(part=slice(0, 32)),
    short_tail=dict(part=slice(0, 34)),
)


@pytest.mark.parametrize("case", CASES)
def test_a_replayed_slot_gives_the_same_bits(case):
    nets, sums = both(**CASES[case])
    for a, b in zip(*(n.state_dict().values() for n in nets)): assert torch.equal(a, b)
    assert float(sums[0]) == float(sums[1]) > 0
    for net in nets:
        if CASES[case].get("mask", HALF): assert (net[0].weight[~HALF["0.weight"]] == 0).all()
        assert not torch.equal(net[3].weight, network()[3].weight), "nothing was trained"


def test_another_network_does_not_fit():
    net = network()
    replayed = slot_of(ReplayedSlot, net, (), SimpleNamespace(**RECIPE))
    assert said(lambda: replayed.load(nn.Linear(6, 3), None), (ValueError, RuntimeError))
