"Masks of torch.nn.utils.prune: every kind of layer, training after pruning, and what is refused."
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lth_nb.interop import from_torch_pruning, to_torch_pruning
from lth_nb.masking import apply_mask, random_mask


class Attention(nn.Module):
    "An attention, a convolution with groups and a linear layer."
    def __init__(self):
        super().__init__()
        self.patches, self.attention = nn.Conv2d(4, 8, 2, 2, groups=2), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


NAMES = ("patches.weight", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight", "head.bias")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Attention()


@pytest.fixture
def mask(network):
    shapes = {n: network.get_parameter(n).shape for n in NAMES}
    return random_mask(dict.fromkeys(NAMES, 0.5), shapes, seed=1)


@pytest.fixture
def images(): return torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(2))


def test_round_trip_is_exact(network, mask, images):
    masked, pruned = apply_mask(deepcopy(network), mask), to_torch_pruning(network, mask)
    for found in (from_torch_pruning(pruned, NAMES), from_torch_pruning(pruned.state_dict(), NAMES)):
        assert found.keys() == mask.keys() and all(torch.equal(found[n], mask[n]) for n in mask)
    assert torch.equal(pruned(images), masked(images))
    for name in NAMES:
        place, _, tensor = name.rpartition(".")
        prune.remove(pruned.get_submodule(place), tensor)
    state, wanted = pruned.state_dict(), masked.state_dict()
    assert state.keys() == wanted.keys() and all(torch.equal(state[n], wanted[n]) for n in state)


def test_training_after_pruning_keeps_the_zeros(network, mask, images):
    "Two steps of SGD, through the projection of the attention too, equal steps with masked gradients."
    masked, pruned = apply_mask(deepcopy(network), mask), to_torch_pruning(network, mask)
    for model in (masked, pruned):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            if model is masked:
                for n, m in mask.items(): model.get_parameter(n).grad.mul_(m)
            optimizer.step()
    assert torch.allclose(pruned(images), masked(images), atol=1e-6)
    weights = {n: pruned.get_parameter(f"{n}_orig") * mask[n] for n in mask}
    assert all(torch.allclose(weights[n], masked.get_parameter(n), atol=1e-6) for n in mask)


def test_errors_leave_the_network_unchanged(network, mask):
    names = {*network.state_dict()}
    for wrong, words in (
        (mask | {"tail.weight": mask["head.weight"]}, "tail.weight: the model has no such parameter"),
        (mask | {"head.weight": mask["head.weight"][:1]}, "head.weight: mask (1, 8), parameter (3, 8)"),
        (mask | {"head.weight": mask["head.weight"].float()}, "a mask must be torch.bool"),
    ):
        with pytest.raises(ValueError, match="the mask does not fit") as error: to_torch_pruning(network, wrong)
        assert words in str(error.value)
        assert {*network.state_dict()} == names
    prune.random_unstructured(network.head, "weight", amount=0.5)
    with pytest.raises(ValueError, match=r"head\.weight is already pruned"): to_torch_pruning(network, mask)
    with pytest.raises(ValueError, match=r"partly pruned: attention\.in_proj_weight is dense"):
        from_torch_pruning(network, ["head.weight", "attention.in_proj_weight"])
    del network.head._buffers["weight_mask"]
    with pytest.raises(ValueError, match="no head.weight_mask"): from_torch_pruning(network)


def test_torchs_own_methods_are_read(network):
    "Global pruning, pruning twice (a container), and channels."
    layers = [(network.patches, "weight"), (network.head, "weight")]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=20)
    prune.ln_structured(network.head, "weight", amount=1, n=2, dim=0)
    mask = from_torch_pruning(network)
    assert {*mask} == {"patches.weight", "head.weight"} and (~mask["head.weight"]).all(1).sum() >= 1
    assert torch.equal(network.head.weight != 0, mask["head.weight"])
    nn.utils.spectral_norm(network.attention.out_proj)  # its weight_orig has no mask
    assert {*from_torch_pruning(network)} == {*mask}
