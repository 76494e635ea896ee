"Every network of the zoo, made smaller: equal to the masked one, no unit too many, and the same in onnxruntime."
from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn

from lth_nb.channels import find_channels
from lth_nb.compact import compact, export_onnx, load_onnx
from lth_nb.masking import apply_mask, random_mask
from lth_nb.models import MODELS, build_model, prunable, replace_head

LIVELY = [name for name in MODELS if name != "resnet8_w4"]  # the masks below cut every path through four channels
SMALL = ("lenet_300_100", "cnn_small", "resnet8", "resnet20")
#        head,  kept, share of each layer's outputs and inputs that lose all weights, whether the head is pruned too
CASES = [
    ("linear", 0.5, 0.2, False), ("mlp", 0.01, 0.0, False), ("mlp", 0.5, 0.6, True), ("linear", 0.003, 0.1, False),
    ("linear", 0.05, 0.0, True)
]


LARGE = ("resnet18", "resnet18_cifar", "resnet50", "vgg19")


def large_are_slow(names): return [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in names]


def cases(name): return CASES if name in SMALL else CASES[:2]


def size_of(name): return max(16, 2**MODELS[name].halvings)


@cache
def fresh(name): return build_model(name, 5, size_of(name), seed=0).double()


def lively(name, case, seed):
    """A network in float64 with biases and shifts of either sign, a mask, and images; BatchNorm's statistics are the
    masked network's own, so that signals neither die nor explode."""
    head, kept, by_channel, with_head = case
    net, g = replace_head(deepcopy(fresh(name)), 5, head, seed), torch.Generator().manual_seed(seed)
    for p in net.parameters():
        if p.ndim == 1: p.data.add_(torch.randn(p.shape, generator=g), alpha=0.3)
    images = torch.randn(6, 3, size_of(name), size_of(name), generator=g).double()
    weights = prunable(net, head=with_head)
    mask = random_mask(dict.fromkeys(weights, kept), {n: p.shape for n, p in weights.items()}, seed)
    for m in mask.values() if by_channel else ():
        m[torch.rand(len(m), generator=g) < by_channel] = False
        m[:, torch.rand(m.shape[1], generator=g) < by_channel] = False
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.momentum = 1.0
    whole = apply_mask(deepcopy(net), mask).train()
    with torch.no_grad(): whole(images)
    for m in whole.modules():
        if not isinstance(m, nn.BatchNorm2d): continue
        m.running_var[m.running_var < 1e-9] = 1
        m.running_mean += 0.2 * m.running_var.sqrt() * torch.arange(m.num_features).cos()
    net.load_state_dict({**net.state_dict(), **dict(whole.named_buffers())})
    return net, mask, whole.eval(), images


@pytest.mark.parametrize("name", large_are_slow(LIVELY))
def test_compact_equals_masked(name):
    worst, removed, alike = 0.0, [], 0
    for seed, case in enumerate(cases(name)):
        net, mask, whole, images = lively(name, case, seed)
        for constants in (True, False):
            small = compact(net, mask, constants)
            with torch.no_grad(): expected, found = whole(images), small(images)
            spread = float(expected.std(0).mean())
            alike += spread < 1e-9
            worst = max(
                worst,
                float((found - expected).abs().max()) / (spread if spread > 1e-9 else float(expected.abs().max())),
            )
            with torch.no_grad():
                torch.testing.assert_close(
                    compact(net, mask, constants, multiple=16)(images), found, rtol=0,
                    atol=1e-12 * max(1, float(found.abs().max()))
                )
            removed.append(int((small.report.units - small.report.kept).sum()))
            assert {n: m.shape for n, m in small.mask.items()} == {
                n: p.shape for n, p in prunable(small, head=case[-1]).items()
            }
            if name in SMALL:
                assert compact(small, small.mask, constants).report.kept.equals(small.report.kept), (
                    "a second pass found more"
                )
    print(
        f"{name}: largest difference {worst:.1e} of the spread of the scores; removed {removed}; {alike} of "
        f"{len(removed)} networks say the same of every image"
    )
    assert worst < 1e-12 and alike <= len(removed) / 2 and min(removed[:2]) > 0


@pytest.mark.parametrize("name", large_are_slow(MODELS))
def test_dense_and_all_dead(name):
    net, images = deepcopy(fresh(name)), torch.randn(2, 3, size_of(name), size_of(name)).double()
    same = compact(net, None)
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), same.state_dict().values())
    ) and same.report.kept.equals(same.report.units)
    none = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in prunable(net).items()}
    small = compact(net, none)
    with torch.no_grad():
        torch.testing.assert_close(small(images), apply_mask(net, none).eval()(images), rtol=1e-12, atol=1e-12)
    assert (small.report.kept[small.report.stays == ""] == 1).all()


def units_with(net, mask, bias, what):
    """Layer -> which of its units have `what(value, gradient)` above zero anywhere, in a network whose living weights
    are all 1 and whose shifts are all `bias`."""
    probe, found = apply_mask(deepcopy(net), mask).eval(), {}
    for n, v in probe.state_dict().items():
        v.copy_(
            (v != 0)
            if v.ndim > 1
            else 1
            if n.endswith("running_var") or ".norm" in n and n.endswith("weight")
            else bias
            if n.endswith("bias")
            else 0
        )
    def keep(name, value):
        value.retain_grad()
        found[name] = value
    for n, m in probe.named_modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)): m.register_forward_hook(lambda m, _, value, n=n: keep(n, value))
    # 4 x 4 pixels at the end, so that every sequence of kernel places is used, also where few weights are left
    size = 4 * 2 ** MODELS[net.name].halvings if not net.name.startswith("lenet") else size_of(net.name)
    probe(torch.ones(1, 3, size, size).double()).sum().backward()
    return {n: (what(v.detach(), v.grad) > 0).transpose(0, 1).flatten(1).any(1) for n, v in found.items()}


@cache
def tied(name):
    "Layer -> the layers that write to the same residual stream, itself included."
    groups = find_channels(build_model(name, 5, size_of(name)), size_of(name))
    return {n.removesuffix(".weight"): [m.removesuffix(".weight") for m in g.rows] for g in groups for n in g.rows}


@pytest.mark.parametrize("name", large_are_slow(MODELS))
def test_exactly_the_useless_units_go(name):
    """Where no constant is above zero, what stays is what the image reaches and the scores read, in any layer of a
    residual stream: found here by running a network forward and backward."""
    for seed, case in enumerate(cases(name)):
        net, mask, _, _ = lively(name, case, seed)
        for n, v in net.state_dict().items():
            if n.endswith("bias"): v.abs_().neg_()
            if n.endswith("running_mean"): v.fill_(1.0)
            if ".norm" in n and n.endswith("weight"): v.abs_()
        report = compact(net, mask).report
        reached, read = (
            units_with(net, mask, 0.0, lambda value, gradient: value),
            units_with(net, mask, 1.0, lambda value, gradient: gradient),
        )
        for layer, row in report[report.stays == ""].iterrows():
            alive = torch.stack([reached[n] & read[n] for n in tied(name).get(layer, [layer])]).any(0)
            assert row.kept == max(1, int(alive.sum())), (layer, seed)
        assert report[["folded", "merged"]].to_numpy().sum() == 0


@pytest.mark.parametrize("name", large_are_slow(LIVELY))
def test_onnx_equals_masked(name, tmp_path):
    net, mask, whole, images = lively(name, CASES[0], 0)
    run = load_onnx(export_onnx(compact(net, mask), tmp_path/"small.onnx", size_of(name)))
    unseen = torch.randn(5, *images.shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad(): expected, in_float32 = whole(unseen.double()), deepcopy(whole).float()(unseen)
    found, rounding = ((made - expected).abs().max() / expected.std(0).mean() for made in (run(unseen), in_float32))
    assert found < max(1e-4, 3 * rounding)  # of the masked network itself, in deep networks nearly 1e-4
    assert (run(unseen).argmax(1) == expected.argmax(1)).all()
