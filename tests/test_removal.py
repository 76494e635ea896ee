"Channels removed from networks of libraries: the same scores, and exactly the weights of the mask are left."
import importlib.util
from copy import deepcopy

import pytest
import torch
from torch import nn

from lth_nb.channels import find_channels
from lth_nb.compact import compact, export_onnx, load_onnx
from lth_nb.masking import apply_mask, random_mask
from lth_nb.models import build_model, prunable
from lth_nb.references import resolve_model
from lth_nb.removal import remove_channels
from lth_nb.structures import prune_channels

FEW = [("torchvision:squeezenet1_1", 32), ("torchvision:mobilenet_v3_small", 32), ("timm:vit_tiny_patch16_224", 32)]
MANY = [
    ("torchvision:resnet18", 32), ("torchvision:mobilenet_v2", 32), ("torchvision:densenet121", 32),
    ("torchvision:googlenet", 32), ("torchvision:regnet_y_400mf", 32),
    ("timm:resnet10t", 32), ("timm:mobilenetv3_small_100", 64), ("timm:efficientnet_b0", 32), ("timm:ghostnet_100", 32),
    ("timm:convnext_atto", 32), ("timm:mixer_s32_224", 32), ("timm:mobilevit_xxs", 32),
]


def lively(name, size):
    "A network in float64 whose biases, shifts and statistics are of either sign."
    if not importlib.util.find_spec(name.partition(":")[0]): pytest.skip(f"{name}: its library is not installed")
    net, g = build_model(resolve_model(name), 5, size).double().eval(), torch.Generator().manual_seed(0)
    for n, t in net.state_dict().items():
        if t.dim() != 1 or not t.is_floating_point(): continue
        noise = torch.randn(t.shape, generator=g).double()
        t.add_(noise.abs() if "var" in n else noise, alpha=0.2)
    return net


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * max(1, float(expected.abs().max())))


def scores(net, size):
    with torch.no_grad():
        return net(torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(1)).double())


@pytest.mark.parametrize("name, size", FEW, ids=str)
def test_channel_masks_leave_exactly_their_weights(name, size): check(name, size)


@pytest.mark.slow
@pytest.mark.parametrize("name, size", MANY, ids=str)
def test_channel_masks_of_larger_networks(name, size): check(name, size)


def check(name, size):
    net = lively(name, size)
    groups = find_channels(deepcopy(net).float(), size)
    mask = None
    for _ in range(2):
        mask = prune_channels({n: w.detach().abs() for n, w in prunable(net).items()}, 0.4, mask, "global", groups)
        small, whole = compact(net, mask), apply_mask(deepcopy(net), mask)
        expected = scores(whole, size)
        same(scores(small, size), expected)
        left = {n: p.shape for n, p in prunable(small).items()}
        assert sum(s.numel() for s in left.values()) == sum(int(m.sum()) for m in mask.values())
        assert {n: m.shape for n, m in small.mask.items()} == left and all(m.all() for m in small.mask.values())
        assert small.report.kept.sum() < small.report.units.sum()
        assert (small.report.units == small.report.kept + small.report.unread + small.report.folded).all()
    again = compact(small, small.mask)
    assert again.report.kept.tolist() == small.report.kept.tolist()
    same(scores(compact(net, mask, constants=False), size), expected)


@pytest.mark.parametrize("name, size", [FEW[1], FEW[2]], ids=str)
def test_masks_of_weights(name, size):
    "Random masks, some of which leave channels without readers or without inputs."
    net = lively(name, size)
    weights = prunable(net, head=True)
    for seed, kept in enumerate((0.5, 0.02)):
        mask = random_mask(dict.fromkeys(weights, kept), {n: p.shape for n, p in weights.items()}, seed)
        g = torch.Generator().manual_seed(seed)
        for m in mask.values():
            m[torch.rand(len(m), generator=g) < 0.3] = False
            m[:, torch.rand(m.shape[1], generator=g) < 0.3] = False
        expected = scores(apply_mask(deepcopy(net), mask), size)
        for multiple in (1, 8):
            small = remove_channels(net, mask, (3, size), multiple=multiple)
            same(scores(small, size), expected)
            left = {n: p.shape for n, p in prunable(small, head=True).items()}
            assert {n: m.shape for n, m in small.mask.items()} == left
            free = small.report[(small.report.stays == "") & (small.report.kept < small.report.units)]
            assert len(free) and (multiple == 1 or (free.kept % 8 == 0).mean() > 0.5)
        remove_channels(net.train(), mask, (3, size))
        net.eval()


def test_a_small_network_of_a_library_in_onnx(tmp_path):
    net = lively("torchvision:mobilenet_v3_small", 32).float()
    groups = find_channels(net, 32)
    mask = prune_channels({n: w.detach().abs() for n, w in prunable(net).items()}, 0.5, None, "global", groups)
    small = compact(net, mask)
    run = load_onnx(export_onnx(small, tmp_path/"small.onnx", 32))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad(): torch.testing.assert_close(run(images), small(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name, size", [
    ("torchvision:shufflenet_v2_x0_5", 64),
    pytest.param("timm:xcit_nano_12_p16_224", 32, marks=pytest.mark.slow),
], ids=str)
def test_a_network_whose_code_depends_on_its_channels_keeps_its_size(name, size):
    "ShuffleNet cuts its channels into halves. XCiT cuts them into heads."
    net = lively(name, size)
    groups = find_channels(deepcopy(net).float(), size)
    mask = prune_channels({n: w.detach().abs() for n, w in prunable(net).items()}, 0.4, None, "global", groups)
    with pytest.warns(UserWarning, match="depends on the number of channels"): small = compact(net, mask)
    assert (small.report.kept == small.report.units).all() and (small.report.folded + small.report.unread == 0).all()
    assert {n: m.sum() for n, m in small.mask.items()} == {n: m.sum() for n, m in mask.items()}
    same(scores(small, size), scores(apply_mask(deepcopy(net), mask), size))


def test_what_cannot_be_followed_stays_whole():
    "Rows of images that are mixed: nothing is removed, and the class scores are the masked network's."
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
            self.shape = (1, 2)

        def forward(self, x): return self.second(self.first(x.flatten(1).repeat(1, 1)).relu().reshape(-1, 6))

    net, mask = Mixed(), {"first.weight": torch.ones(6, 4, dtype=torch.bool)}
    mask["first.weight"][:3] = False
    small = compact(net, mask)
    images = torch.randn(4, 1, 2, 2)
    torch.testing.assert_close(small(images), apply_mask(deepcopy(net), mask)(images))

    class Odd(Mixed):
        def forward(self, x):
            x = torch.cat([x.flatten(1), x.flatten(1)[:1]])
            return self.second(self.first(x).relu())[:-1]

    small = compact(Odd(), mask)
    assert small.report.kept.tolist() == [6, 3]


def test_a_layer_that_is_computed_once_for_the_whole_batch_becomes_smaller():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
            self.shape = (1, 2)

        def forward(self, x): return self.second(self.first(x.flatten(1)[:1]).relu()).expand(len(x), 3)

    net, mask = First(), {"first.weight": torch.ones(6, 4, dtype=torch.bool)}
    nn.init.zeros_(net.first.bias)
    mask["first.weight"][:3] = False
    small, images = compact(net, mask), torch.randn(4, 1, 2, 2)
    assert small.report.kept.tolist() == [3, 3]
    torch.testing.assert_close(small(images), apply_mask(deepcopy(net), mask)(images))
