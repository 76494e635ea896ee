"Networks that would look sparse and are not, and builders that are random in something else than tensors."
import random

import pytest
import torch
from torch import nn

from lth_nb.data import load_dataset
from lth_nb.models import build_model
from lth_nb.recipes import Recipe
from lth_nb.references import resolve_model
from lth_nb.tickets import TicketRecipe, find_tickets
from lth_nb.transfer import transfer


class Plain(nn.Module):
    "Two layers and a head on digits of eight pixels."
    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, 10)

    def forward(self, x): return self.last(self.inside(torch.relu(self.first(x.flatten(1)))))

    def inside(self, x): return self.middle(x)


class Centered(Plain):
    def inside(self, x):
        weight = self.middle.weight
        return nn.functional.linear(x, weight - weight.mean(1, keepdim=True))


class AsItIs(Plain):
    def inside(self, x): return nn.functional.linear(x, self.middle.weight, self.middle.bias)


class Idle(Plain):
    def inside(self, x): return x


class Frozen(Plain):
    def __init__(self):
        super().__init__()
        self.middle.weight.requires_grad_(False)


def search(builder, rounds=1):
    recipe = TicketRecipe(training=Recipe(length="5it", batch_size=16, lr=0.05), rounds=rounds, rate=0.5, rewind="1it")
    return find_tickets(builder, load_dataset("digits", 8, 1, fraction=0.05), recipe)


@pytest.mark.parametrize("builder, words", [
    (Centered, "'backbone.middle.weight' goes through (mean|sub) before use"),
    (Idle, "'backbone.middle.weight' gets no gradient"),
    (Frozen, "'backbone.middle.weight' gets no gradient"),
])
def test_weights_that_no_mask_describes_are_refused(builder, words):
    with pytest.raises(ValueError, match=words): search(builder)


@pytest.mark.parametrize("builder", [Plain, AsItIs])
def test_weights_used_as_they_are_pass(builder): assert search(builder)[1].density == pytest.approx(0.5, abs=0.01)


def test_what_is_left_out_may_be_idle():
    made = resolve_model(Idle, prune="first.weight")
    assert [*search(made)[1].mask] == ["backbone.first.weight"]


def test_a_builder_that_is_random_in_a_number_is_refused():
    dice = random.Random()

    class Scaled(Plain):
        def __init__(self):
            super().__init__()
            self.scale = dice.random()

        def inside(self, x): return self.middle(x) * self.scale
    with pytest.raises(ValueError, match="have the same tensors but return different features"): search(Scaled)


def test_one_network_for_every_call_is_refused():
    net = Plain()
    with pytest.raises(ValueError, match="its builder returns the same network each time"): search(lambda: net)


def test_networks_in_float64_are_refused():
    with pytest.raises(ValueError, match="it has parameters of float64. Build it in float32"):
        build_model(resolve_model(lambda: Plain().double()), 10, 8, 1)


def test_a_level_that_the_tickets_lack():
    tickets = search(Plain)
    with pytest.raises(ValueError, match="level is 9: the tickets found on digits have levels 0 to 1"):
        transfer("ticket", load_dataset("digits", 8, 1, fraction=0.05), Recipe(length="2it"), level=9, source=tickets)
