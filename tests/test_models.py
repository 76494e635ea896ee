"Models of all kinds: built as their constructors make them, the same for the same seed, checked before they train."
import random
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lth_nb.architecture import architecture_hash
from lth_nb.core import digest
from lth_nb.data import load_dataset
from lth_nb.masking import apply_mask, check_mask, random_mask
from lth_nb.models import MODELS, Architecture, build_model, count_flops, prunable
from lth_nb.originals import _torchvision
from lth_nb.slots import forget_slots
from lth_nb.tickets import TicketRecipe, find_tickets, load_tickets, save_tickets
from lth_nb.training import Recipe, state_of, train
from lth_nb.transfer import transfer

WEIGHTS = {  # SHA-256 of all parameters and buffers, as the committed results were computed
    "lenet_300_100": {
        "kaiming 0": "c3c155b3249c6b2d", "kaiming 0 mlp": "75f9db9e5650db1a", "kaiming 1": "88edded747aba89e",
        "kaiming 7": "f33673a6cccf2556", "xavier 0": "8e7d5e274d86188b", "xavier 1": "d440dc4bf99b44eb",
        "xavier 7": "5114b87ff708cfa3", "pytorch 0": "796f6231f9b5ddea", "pytorch 1": "aafbc1cb28f97286",
        "pytorch 7": "bc9387e6a86c5993",
    },
    "cnn_small": {
        "kaiming 0": "65259654aa17dd10", "kaiming 0 mlp": "d9d619e7a76e390c", "kaiming 1": "9d09e03cfbf35404",
        "kaiming 7": "f19c26e58cd1fead", "xavier 0": "a32722546ce288a2", "xavier 1": "de3f8b3c786871e7",
        "xavier 7": "7d2450c5f4f6e0e5", "pytorch 0": "eb41e02e3834464b", "pytorch 1": "e64e416d13dc271b",
        "pytorch 7": "8d8aa888b71112c4",
    },
    "cnn5": {
        "kaiming 0": "d7a88c7f39189492", "kaiming 0 mlp": "510ded56c1b46359", "kaiming 1": "2f48af3a77d78edb",
        "kaiming 7": "13e1eaf08a543e68", "xavier 0": "516765a1f43ac94c", "xavier 1": "fc72e24cabd0f331",
        "xavier 7": "afa0acb31b5d5a6c", "pytorch 0": "b1bd60e5b4046c77", "pytorch 1": "2ba621d55df5d5e6",
        "pytorch 7": "b3ff74fd49f60b80",
    },
    "resnet8": {
        "kaiming 0": "f774a900426a23bf", "kaiming 0 mlp": "fb22e766e8f6d280", "kaiming 1": "d4092bda3ec51afd",
        "kaiming 7": "81608ddeea60ab4a", "xavier 0": "ec066585b7275442", "xavier 1": "3f520715ac3dc9da",
        "xavier 7": "3f3ed7ad5b129a71", "pytorch 0": "24e5afce3d070533", "pytorch 1": "3f142cdc14a16ac9",
        "pytorch 7": "e9d111fc1be837e1",
    },
    "resnet20": {
        "kaiming 0": "4f251a16c4313d6c", "kaiming 0 mlp": "12be3a62c9453095", "kaiming 1": "052d241d607213bd",
        "kaiming 7": "baa009d3e6876514", "xavier 0": "9faaa59b7186f22b", "xavier 1": "6cea88043538d82f",
        "xavier 7": "2bf0a39c3742761f", "pytorch 0": "82ea9bf1ac3c5288", "pytorch 1": "9532fb29ccf79d15",
        "pytorch 7": "edeea819c5b8caec",
    },
    "resnet18": {
        "kaiming 0": "f83a22d1ff46594a", "kaiming 0 mlp": "9c1975f851348030", "kaiming 1": "77dcd09fc2324029",
        "kaiming 7": "bd3566e13e5051dc", "xavier 0": "63a258ad70300c2b", "xavier 1": "b9f1057f91aa5fa0",
        "xavier 7": "3af9c0defdac1157", "pytorch 0": "218cd56566b5882d", "pytorch 1": "5488c55d4553be0e",
        "pytorch 7": "0e93ecaafc0e3fe5",
    },
    "resnet18_cifar": {
        "kaiming 0": "7739dedb7574b7a6", "kaiming 0 mlp": "7023532fb40f07e1", "kaiming 1": "a1f79529c8230140",
        "kaiming 7": "01f93b1965b971db", "xavier 0": "7d8b5b0f80019d49", "xavier 1": "dc18cee1e82548bc",
        "xavier 7": "240a5b560f281bbf", "pytorch 0": "87d20204050601bb", "pytorch 1": "d5c9ccfd12f405e0",
        "pytorch 7": "07438a84c760bfbb",
    },
    "resnet50": {
        "kaiming 0": "b996c34dbb2a77f0", "kaiming 0 mlp": "fa9cbab74cfba1b0", "kaiming 1": "af6a4b195e973131",
        "kaiming 7": "7289ad42d7565d91", "xavier 0": "7fad7379b82eecf8", "xavier 1": "f3252f2dca88ae4c",
        "xavier 7": "55c1094319495f8c", "pytorch 0": "b26498e1554dc8c2", "pytorch 1": "0fd69f506282c715",
        "pytorch 7": "9f64a8f12a910742",
    },
    "vgg19": {
        "kaiming 0": "4142df8846ec72c0", "kaiming 0 mlp": "14ac1875b50197f4", "kaiming 1": "56e6b347bd4122e2",
        "kaiming 7": "5ab5cf5fe1b66ed9", "xavier 0": "30639b67cc2084c5", "xavier 1": "3a5f8a8369e6821f",
        "xavier 7": "be61b3b42851b80c", "pytorch 0": "232f59094ab4bd01", "pytorch 1": "934e03665da48f70",
        "pytorch 7": "f07047ed03205cfe",
    },
}


def weights(model): return digest(dict(model.state_dict()), 16)


@contextmanager
def registered(build, name="mine", **settings):
    "A row of MODELS for the length of a test."
    MODELS[name] = Architecture(build, settings.pop("halvings", 0), "test", **settings)
    try: yield name
    finally: del MODELS[name]


def check_tensors(model):
    "Every floating-point tensor is finite."
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        assert not value.is_floating_point() or torch.isfinite(value).all(), name


def check_repeatable(name, size, channels=3, **settings):
    "One seed gives one network, whatever the global generators hold; these are left as they were."
    built = []
    for state in (1, 2):
        torch.manual_seed(state), random.seed(state), np.random.seed(state)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        dirt = [torch.full((n,), float("nan")) for n in (10, 100, 1000, 10_000)]  # what is left in freed memory
        del dirt
        built.append(build_model(name, 5, size, channels, seed=3, **settings))
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    check_tensors(built[0])
    assert weights(built[0]) == weights(built[1])
    assert weights(build_model(name, 5, size, channels, seed=4, **settings)) != weights(built[0])
    assert built[0].training and {p.device.type for p in built[0].parameters()} == {"cpu"}
    return built[0]


@pytest.mark.parametrize("name", WEIGHTS)
def test_networks_of_the_zoo_keep_their_weights(name):
    channels, size = (1, 16) if name == "lenet_300_100" else (3, 32)
    for case, expected in WEIGHTS[name].items():
        init, seed, *head = case.split()
        built = build_model(name, 10, size, channels, init, int(seed), *head)
        assert weights(built) == expected, case
    check_repeatable(name, size, channels)


def torchvision_builder(name):
    def build(channels, image_size):
        special = dict(aux_logits=False, init_weights=True) if name in ("googlenet", "inception_v3") else {}
        if name.startswith("vit"): special["image_size"] = image_size
        return _torchvision().models.get_model(name, weights=None, num_classes=16, **special), 16
    return build


TORCHVISION = {  # name -> image size
    "alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_b0": 32, "googlenet": 32, "inception_v3":
    96, "mnasnet0_5": 32, "mobilenet_v2": 32, "mobilenet_v3_small": 32, "regnet_y_400mf": 32, "resnet18": 32,
    "resnext50_32x4d": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 32, "swin_t": 32, "swin_v2_t": 32, "vit_b_32":
    32,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_classifiers(name):
    if not find_spec("torchvision"): pytest.skip("torchvision is not installed")
    with registered(torchvision_builder(name), f"tv_{name}") as mine:
        model = check_repeatable(mine, TORCHVISION[name])
        check_operations(model, TORCHVISION[name], exact=not name.startswith("vit"))


def timm_builder(name):
    if find_spec("torchvision"): _torchvision()  # timm imports it
    timm = pytest.importorskip("timm")

    def build(channels, image_size):
        any_size = name.startswith(("convnext", "res", "efficient", "mobile", "pool", "regnet"))
        sized = {} if any_size else dict(img_size=image_size)
        net = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=0, **sized)
        return net, net(torch.zeros(2, channels, image_size, image_size)).shape[1]
    return build


TIMM = {  # name -> image size
    "vit_tiny_patch16_224": 32, "deit_tiny_distilled_patch16_224": 32, "cait_xxs24_224": 32,
    "eva02_tiny_patch14_224": 28, "xcit_nano_12_p16_224": 32, "coat_tiny": 32, "swin_tiny_patch4_window7_224": 56,
    "mixer_s32_224": 64, "convnext_atto": 32, "resnet10t": 32, "efficientnet_b0": 32, "mobilenetv3_small_050": 32,
    "poolformer_s12": 32, "regnetx_002": 32,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm_networks(name):
    with registered(timm_builder(name), f"timm_{name}") as mine:
        model = check_repeatable(mine, TIMM[name])
        assert prunable(model) and count_flops(model, TIMM[name]) > 0
        kinds = ("pos_embed", "cls_token", "gamma", "gamma1", "dist_token")
        untouched = {n for n, _ in model.named_parameters() if n.endswith(kinds)}
        fresh = dict(build_model(mine, 5, TIMM[name], init="pytorch", seed=3).named_parameters())
        for n in untouched:  # a constant of the constructor, or drawn from our seed
            assert fresh[n].abs().max() < 2, n


def check_operations(model, size, channels=3, exact=True):
    "Our count against torch's own counter."
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, channels, size, size))
    found = count_flops(model, size, channels)
    assert found == counter.get_total_flops() if exact else found > counter.get_total_flops()


class Buffers(nn.Module):
    "Everything that is neither the weight of a layer nor its bias."
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 0.5))
        self.token = nn.Parameter(torch.randn(4, 1, 1))
        self.steps = nn.Parameter(torch.arange(4), requires_grad=False)
        self.register_buffer("grid", torch.linspace(0, 1, 4).view(4, 1, 1))
        self.register_buffer("noise", torch.rand(4, 1, 1))
        self.register_buffer("hidden", torch.tensor(np.random.rand(4, 1, 1), dtype=torch.float32), persistent=False)
        self.register_buffer("chance", torch.tensor(random.random()))
        self.norm = nn.BatchNorm2d(4)
        nn.init.zeros_(self.norm.weight)  # as the last norm of a residual block

    def forward(self, x):
        x = self.norm(self.conv(x)) * self.scale + self.token + self.grid * self.noise + self.hidden + self.chance
        return x.mean((2, 3)) + self.steps


def test_buffers_and_bare_parameters_are_the_constructor_s_own():
    with registered(lambda channels, size: (Buffers(channels), 4)) as mine:
        built = check_repeatable(mine, 8).backbone
        assert built.scale.eq(0.5).all() and built.steps.tolist() == [0, 1, 2, 3] and built.norm.weight.eq(0).all()
        assert torch.equal(built.grid.flatten(), torch.linspace(0, 1, 4))
        assert built.conv.bias.eq(0).all() and built.token.std() > 0
        assert built.noise.min() >= 0 and built.noise.max() < 1
        data = load_dataset("digits", image_size=8, channels=1)
        trained = []
        for stepping in ("eager", "eager", "graph"):
            net = build_model(mine, 10, 8, 1, seed=2)
            train(net, data, Recipe(length="20it", batch_size=32, weight_decay=0.1), stepping=stepping)
            assert net.backbone.steps.tolist() == [0, 1, 2, 3] and not net.backbone.steps.requires_grad
            trained.append(digest(dict([*net.named_parameters(), *net.named_buffers()])))
        assert len(set(trained)) == 1


WRAPS = {
    "spectral": nn.utils.parametrizations.spectral_norm, "weight": nn.utils.parametrizations.weight_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal, "old_spectral": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_reparametrized_layers_are_built_and_refused_by_pruning(wrap):
    def build(channels, size):
        layers = nn.Conv2d(channels, 4, 3), nn.ReLU(), wrap(nn.Conv2d(4, 4, 3)), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*layers), 4

    with registered(build) as mine:
        model = check_repeatable(mine, 8)
        data = load_dataset("digits", image_size=8, channels=1)
        ends = []
        for _ in range(2):
            net = build_model(mine, 10, 8, 1)
            train(net, data, Recipe(length="5it"))
            ends.append(weights(net))
        assert ends[0] == ends[1]
        with pytest.raises(ValueError, match="'backbone.2' computes its weight from other parameters"): prunable(model)


class Centered(nn.Conv2d):
    "The mean of each filter is taken away: weight standardization without its scale."
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class CenteredInside(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class CenteredLinear(nn.Linear):
    def forward(self, x): return nn.functional.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class LowRank(nn.Linear):
    "A trained matrix of rank one is added, as adapters do."
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.down = nn.Parameter(torch.randn(1, sizes[0]))
        self.up = nn.Parameter(torch.zeros(sizes[1], 1))

    def forward(self, x): return super().forward(x) + x @ self.down.T @ self.up.T


class Scaled(nn.Conv2d):
    "Every filter has length one; a zero stays zero."
    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None], self.bias)


class SamePadding(nn.Conv2d):
    "Notes the padding for the size that it sees first."
    def forward(self, x):
        self.pad = getattr(self, "pad", None) or nn.ZeroPad2d(int(x.shape[-1] % 2))
        return super().forward(self.pad(x))


def patched(layer):
    layer.forward = lambda x: nn.functional.linear(x, layer.weight - layer.weight.mean(), layer.bias)
    return layer


def hooked(layer, wrong):
    if wrong: layer.register_forward_hook(lambda layer, args, out: out + args[0].sum())
    else: layer.register_forward_pre_hook(lambda layer, args: None)
    return layer


FILLED = {
    "centered": lambda: Centered(3, 4, 3), "depthwise": lambda: Centered(4, 4, 3, groups=4),
    "within": lambda: CenteredInside(3, 4, 3, stride=2, padding=1), "linear": lambda: CenteredLinear(6, 4),
    "adapter": lambda: LowRank(6, 4), "hook": lambda: hooked(nn.Linear(6, 4), True),
    "patched": lambda: patched(nn.Linear(6, 4)),
}
ZEROS_STAY = {
    "scaled": lambda: Scaled(3, 4, 3), "padding": lambda: SamePadding(3, 4, 3),
    "hook": lambda: hooked(nn.Linear(6, 4), False),
    "grouped": lambda: Scaled(4, 8, (3, 1), groups=2, dilation=2, padding_mode="reflect", padding=1),
    "one pixel": lambda: Scaled(3, 4, 1)
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", FILLED)
def test_layers_that_fill_pruned_places_are_refused(kind, device):
    if kind == "patched" and device == "meta": pytest.skip("its function holds the layer itself")
    with torch.device(device): net = nn.Sequential(FILLED[kind]())
    with pytest.raises(ValueError, match=r"layer '0' \(\w+\) (transforms its weight|has a custom forward).*plain"):
        prunable(net)


@pytest.mark.parametrize("kind", ZEROS_STAY)
def test_layers_in_which_zeros_stay_are_pruned_and_left_as_they_are(kind):
    net = nn.Sequential(ZEROS_STAY[kind]())
    before, attributes, state = digest(dict(net.state_dict())), {*vars(net[0])}, torch.get_rng_state()
    assert list(prunable(net)) == ["0.weight"]
    assert digest(dict(net.state_dict())) == before and {*vars(net[0])} == attributes and "pad" not in net[0]._modules
    assert torch.equal(torch.get_rng_state(), state)


def test_timm_s_standardized_layers_are_refused_and_its_padded_ones_pruned():
    if find_spec("torchvision"): _torchvision()  # timm imports it
    layers = pytest.importorskip("timm.layers")
    for name in ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"):
        with pytest.raises(ValueError, match=f"{name}. transforms its weight"):
            prunable(nn.Sequential(getattr(layers, name)(3, 4, 3)))
    assert len(prunable(nn.Sequential(layers.Conv2dSame(3, 4, 3, 2), layers.Linear(4, 4)))) == 2


def test_no_search_begins_on_standardized_layers(monkeypatch):
    def build(channels, size):
        return nn.Sequential(Centered(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4

    data = load_dataset("digits", image_size=8, channels=1)
    monkeypatch.setattr("lth_nb.tickets.train", lambda *given, **more: pytest.fail("a network was trained"))
    with (
        registered(build) as mine,
        pytest.raises(ValueError, match="layer 'backbone.0' .Centered. transforms its weight"),
    ):
        find_tickets(mine, data, TicketRecipe(Recipe(length="5it"), rounds=2, rewind="2it"))


def test_surroundings_do_not_matter():
    expected = weights(build_model("resnet8", 10, 32))
    torch.set_default_dtype(torch.float64)
    try: assert weights(build_model("resnet8", 10, 32)) == expected
    finally: torch.set_default_dtype(torch.float32)
    with torch.device("meta"): assert weights(build_model("resnet8", 10, 32)) == expected
    with torch.no_grad(), torch.inference_mode(): built = build_model("resnet8", 10, 32)
    assert weights(built) == expected and all(p.requires_grad and not p.is_inference() for p in built.parameters())


def flat(*layers): return nn.Sequential(nn.Flatten(), *layers)


class LazyInForward(nn.Module):
    def forward(self, x):
        if not hasattr(self, "layer"): self.layer = nn.Linear(x[0].numel(), 4)
        return self.layer(x.flatten(1))


class Drawn(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.layer, self.values = nn.Linear(64, 4), nn.Parameter(values)

    def forward(self, x): return self.layer(x.flatten(1)) + self.values


class TwoInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, x):
        out = self.layer(x.flatten(1))
        return (out, out) if self.training else out


class Untied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.b.weight = nn.Parameter(self.a.weight.data)

    def forward(self, x): return self.b(self.a(x.flatten(1)))


ONE = nn.Linear(64, 4)
REFUSED = {
    "a module alone": (lambda c, s: flat(nn.Linear(64, 4)), TypeError, "its builder returns a Sequential alone"),
    "no module": (lambda c, s: ("net", 4), TypeError, r"its builder returns \(str, int\)"),
    "three parts": (lambda c, s: (flat(), 64, 1), TypeError, r"its builder returns \(Sequential, int, int\)"),
    "nothing": (lambda c, s: None, TypeError, "its builder returns a NoneType alone"),
    "one parameter": (lambda channels: (flat(), 64), TypeError, r"must take \(channels, image_size\), but too many"),
    "three parameters": (lambda c, s, width: (flat(), 64), TypeError, "missing a required argument: 'width'"),
    "an error": (lambda c, s: nn.Linear(4, "x"), ValueError, "its builder fails for 1 channels and 8 pixels"),
    "features that are no number": (lambda c, s: (flat(), "64"), TypeError, "number of features is '64'"),
    "other features": (lambda c, s: (flat(nn.Linear(64, 4)), 5), ValueError, r"returns \(2, 4\) for two images"),
    "a map of features": (lambda c, s: (nn.Conv2d(c, 4, 3), 4), ValueError, r"returns \(2, 4, 6, 6\)"),
    "a tuple in training": (lambda c, s: (TwoInTraining(), 4), ValueError,
        "in training mode: the backbone returns a tuple"),
    "too small an image": (lambda c, s: (flat(nn.Linear(9999, 4)), 4), ValueError, "the forward pass fails"),
    "a kernel larger than the image": (lambda c, s: (nn.Conv2d(c, 4, 11), 4), ValueError, "Use a larger image_size"),
    "features that are NaN": (lambda c, s: (flat(nn.Linear(64, 4), nn.Threshold(1e9, float("nan"))), 4), ValueError,
        "features of random images are NaN"),
    "weights that are NaN": (lambda c, s: (Drawn(torch.full((4,), float("nan"))), 4), ValueError,
        "'values' has values that"),
    "memory as it was": (lambda c, s: (Drawn(torch.empty(4)), 4), ValueError, "or none at all"),
    "a generator of its own": (lambda c, s: (Drawn(torch.tensor(np.random.default_rng().random(4)).float()), 4),
        ValueError, "two networks with the same seed differ in values"),
    "the same network": (lambda c, s: (flat(ONE), 4), ValueError, "returns the same network each time"),
    "a lazy layer": (lambda c, s: (flat(nn.LazyLinear(4)), 4), ValueError, "has no shape before the first batch"),
    "a layer made on the way": (lambda c, s: (LazyInForward(), 4), ValueError, "its first batch changes layer.bias"),
    "no device": (lambda c, s: (flat(nn.Linear(64, 4, device="meta")), 4), ValueError, "is on the device 'meta'"),
    "float64": (lambda c, s: (flat(nn.Linear(64, 4).double()), 4), ValueError, "is float64. Build it in float32"),
    "complex": (lambda c, s: (flat(nn.Linear(64, 4, dtype=torch.complex64)), 4), ValueError, "is complex64"),
    "shared memory": (lambda c, s: (Untied(), 64), ValueError, "'a.weight' and 'b.weight' are two tensors that"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_train_is_refused_in_one_sentence(case):
    build, kind, words = REFUSED[case]
    with registered(build) as mine, pytest.raises(kind, match=words) as found:
        build_model(mine, 10, 8, channels=1)
    assert str(found.value).startswith("model 'mine'") and "\n" not in str(found.value)


def test_other_arguments_are_refused_in_one_sentence():
    for wrong, words in ((nn.Linear(2, 2), "model is a Linear, not a name"), (None, "model is a NoneType, not a name"),
            (lambda c, s: 3, "model is a function, not a name")):
        with pytest.raises(TypeError, match=words): build_model(wrong, 10, 8)
    digits = load_dataset("digits")
    with (
        pytest.warns(UserWarning, match="are not used"),
        pytest.raises(ValueError, match="model 'module:Linear-.*the forward pass fails"),
    ):
        transfer("scratch", digits, Recipe(length="1it"), model=ONE)
    with (
        pytest.warns(UserWarning, match="are not used"),
        pytest.raises(ValueError, match="model 'module:Linear-.*the forward pass fails"),
    ):
        find_tickets(ONE, digits, TicketRecipe(Recipe(length="1it"), rewind="0it"))
    with pytest.raises(TypeError, match="model is a int: use 'timm:NAME'"):
        find_tickets(3, digits, TicketRecipe(Recipe(length="1it"), rewind="0it"))
    for size in ((32, 32), "32", 32.0, True):
        with pytest.raises(TypeError, match="image_size is .*: use a whole number"): build_model("resnet8", 10, size)
    with pytest.raises(ValueError, match="image_size is 0"): build_model("lenet_300_100", 10, 0)
    with pytest.raises(ValueError, match="needs 8 pixels or more, not 4"): build_model("resnet8", 10, 4)
    with pytest.raises(TypeError, match="num_classes is '10'"): build_model("resnet8", "10", 32)
    with pytest.raises(ValueError, match="channels is 0"): build_model("resnet8", 10, 32, 0)
    with pytest.raises(TypeError, match="build is a Linear"): Architecture(ONE, 0, "test")


TRAINED = dict(zip(("weight", "bias"), (torch.linspace(-1, 1, 256).view(4, 64), torch.ones(4))))


def loading(channels, size):
    layer = nn.Linear(64, 4)
    layer.load_state_dict(TRAINED)
    return flat(layer), 4


def own_seed(channels, size):
    torch.manual_seed(0)
    return flat(nn.Linear(64, 4)), 4


@pytest.mark.parametrize("build", [loading, own_seed])
@pytest.mark.parametrize("init", ["kaiming", "xavier", "pytorch"])
def test_loaded_weights_are_never_discarded_in_silence(build, init):
    with registered(build) as mine, pytest.raises(ValueError, match="such as backbone.1.weight.*init='keep'"):
        build_model(mine, 10, 8, 1, init=init)


def test_loaded_weights_are_kept_when_told():
    with registered(loading, "row", init="keep") as row, registered(loading, "call") as call:
        for built in (build_model(row, 10, 8, 1, seed=1), build_model(call, 10, 8, 1, init="keep", seed=1)):
            assert torch.equal(built.backbone[1].weight, TRAINED["weight"]) and built.backbone[1].bias.eq(1).all()
            assert built.loaded == ("backbone.1.weight",) and not built.fresh
        data, recipe = load_dataset("digits", image_size=8, channels=1), Recipe(length="2it")
        transfer("scratch", data, recipe, model=row)  # the dense network from where its builder starts
        tickets = find_tickets(row, data, TicketRecipe(recipe, rounds=1, rewind="1it"))
        with pytest.raises(ValueError, match="arm 'reinit' needs fresh weights"):
            transfer("reinit", data, recipe, level=1, source=tickets)
    assert build_model("resnet8", 10, 8, init="keep").fresh


def test_a_builder_may_start_norms_and_layers_at_constants():
    def build(channels, size):
        net = flat(nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        nn.init.zeros_(net[2].weight)
        nn.init.zeros_(net[3].weight)
        return net, 4

    with registered(build) as mine:
        built = build_model(mine, 10, 8, 1)
        assert built.loaded == () and built.backbone[2].weight.eq(0).all() and built.backbone[3].weight.std() > 0


class Twice(nn.Module):
    "A module that is used twice, or two modules with one weight."
    def __init__(self, how, repeats=2):
        super().__init__()
        self.repeats, self.first = repeats, nn.Linear(64, 64)
        if how == "module": self.second = self.first
        else:
            self.second = nn.Linear(64, 64)
            self.second.weight = self.first.weight

    def forward(self, x):
        x = x.flatten(1)
        for _ in range(self.repeats - 1): x = F.relu(self.first(x))
        return self.second(x)


@pytest.mark.parametrize("stepping", ["eager", "graph"])
@pytest.mark.parametrize("how", ["module", "weight"])
def test_tied_weights_stay_tied(how, stepping):
    with registered(lambda c, s: (Twice(how), 64)) as mine:
        net = build_model(mine, 10, 8, 1)
        assert list(prunable(net)) == ["backbone.first.weight"]
        assert count_flops(net, 8, 1) == 2 * (2 * 64 * 64 + 64 * 10)
        check_operations(net, 8, 1)
        mask = random_mask({"backbone.first.weight": 0.3}, {"backbone.first.weight": (64, 64)}, 0)
        alive, data = mask["backbone.first.weight"], load_dataset("digits", image_size=8, channels=1)
        assert count_flops(net, 8, 1, mask) == pytest.approx(2 * (2 * int(alive.sum()) + 640))
        train(net, data, Recipe(length="30it", batch_size=32), mask=mask, stepping=stepping)
        assert net.backbone.first.weight is net.backbone.second.weight
        assert net.backbone.first.weight[~alive].eq(0).all()
        state = state_of(net)
        assert torch.equal(state["backbone.first.weight"], state["backbone.second.weight"])
        other = build_model(mine, 10, 8, 1, seed=1)
        other.load_state_dict(state)
        assert other.backbone.first.weight is other.backbone.second.weight and weights(other) == weights(net)
        if how == "weight":
            with pytest.raises(ValueError, match="second.weight: is the same parameter as backbone.first.weight"):
                check_mask(net, {"backbone.second.weight": mask["backbone.first.weight"]})


@pytest.mark.parametrize("how", ["module", "weight"])
def test_tickets_of_tied_weights(how, tmp_path):
    "Search, file and transfer keep one weight one weight."
    recipe = Recipe(length="20it", batch_size=32)
    data = load_dataset("digits", image_size=8, channels=1)
    with registered(lambda c, s: (Twice(how), 64)) as mine:
        found = find_tickets(mine, data, TicketRecipe(recipe, rounds=2, rate=0.5, rewind="5it"))
        assert list(found.pruned_at) == ["backbone.first.weight"] and found[2].density == pytest.approx(0.25, abs=1e-3)
        loaded = load_tickets(save_tickets(found, tmp_path/"tied.safetensors"))
        assert loaded.hash == found.hash
        names = [f"backbone.{layer}.weight" for layer in ("first", "second")]
        for state in (loaded.initial, loaded.rewind, loaded[2].final):
            assert torch.equal(*(state[n] for n in names))
        for arm in ("ticket", "finetuned", "reinit", "shuffled", "random"):
            done = transfer(arm, data, recipe, level=2, source=loaded)
            assert done.model.backbone.first.weight is done.model.backbone.second.weight
            assert done.model.backbone.first.weight[~done.mask[names[0]]].eq(0).all()
            kept = int(done.mask[names[0]].sum())
            assert done.values["params"] == kept + 64 * (1 if how == "module" else 2) + 650
            assert done.values["flops"] == pytest.approx(2 * (2 * kept + 640))


class Everything(Buffers):
    "Buffers and bare parameters, dropout, and a layer that is used twice."
    def forward(self, x):
        return F.dropout(super().forward(self.norm(self.conv(x))[:, :1]), 0.2, self.training)


def test_one_seed_finds_one_ticket():
    data = load_dataset("digits", image_size=8, channels=1)
    recipe = TicketRecipe(Recipe(length="10it"), rounds=2, rewind="2it")
    with registered(lambda c, s: (Everything(c), 4)) as mine:
        hashes = []
        for state in (1, 2, 3):
            torch.manual_seed(state)
            hashes.append(find_tickets(mine, data, recipe, seed=7).hash)
        assert len(set(hashes)) == 1
        assert find_tickets(mine, data, recipe, seed=8).hash != hashes[0]


def test_an_edited_builder_gives_its_own_numbers():
    for width in (8, 16):  # the same name, as when a cell is run again
        with registered(lambda c, s, width=width: (flat(nn.Linear(64, width)), width)) as mine:
            net = build_model(mine, 10, 8, 1)
            assert count_flops(net, 8, 1) == 2 * (64 * width + width * 10)
    for repeats in (2, 3):  # the same names and shapes, too
        with registered(lambda c, s, repeats=repeats: (Twice("module", repeats), 64)) as mine:
            assert count_flops(build_model(mine, 10, 8, 1), 8, 1) == 2 * (repeats * 64 * 64 + 640)


def test_a_redefined_class_gets_a_slot_of_its_own():
    forget_slots()
    data, recipe, ends = load_dataset("digits", image_size=8, channels=1), Recipe(length="5it", batch_size=32), []
    for slope in (0.0, 1.0, 0.0):
        class Redefined(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(64, 32)

            def forward(self, x, slope=slope): return F.leaky_relu(self.layer(x.flatten(1)), slope)

        with registered(lambda c, s: (Redefined(), 32)) as mine: pair = [build_model(mine, 10, 8, 1) for _ in range(2)]
        for net, stepping in zip(pair, ("eager", "graph")): train(net, data, recipe, stepping=stepping)
        assert weights(pair[0]) == weights(pair[1])
        ends.append(weights(pair[0]))
    assert ends[0] == ends[2] != ends[1]
    for shift in (0.0, 1.0):  # a buffer that is in no state_dict
        for stepping in ("eager", "graph"):
            net = build_model("lenet_300_100", 10, 8, 1)
            net.backbone.register_buffer("shift", torch.full((1,), shift), persistent=False)
            net.backbone.register_forward_hook(lambda m, _, out: out + m.shift)
            train(net, data, recipe, stepping=stepping)
            ends.append(weights(net))
    assert ends[-4] == ends[-3] != ends[-2] == ends[-1]
    forget_slots()


class Attention(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.embed = how, nn.Linear(8, 16)
        self.mix = nn.MultiheadAttention(16, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) if how == "encoder" else nn.Identity()

    def forward(self, x):
        x = self.embed(x.flatten(1, 2))  # 8 rows of 8 pixels
        if self.how == "function": return F.scaled_dot_product_attention(x, x, x).mean(1)
        return self.layer(self.mix(x, x, x, need_weights=False)[0]).mean(1)


def test_operations_by_hand():
    "Two per multiply-accumulate, counted by paper and pencil."
    cases = {
        "convolution": (nn.Conv2d(3, 6, 3, padding=1), 6 * 3 * 9 * 64),
        "grouped": (nn.Conv2d(3, 6, 3, padding=1, groups=3), 6 * 1 * 9 * 64),
        "depthwise, strided, dilated": (nn.Conv2d(3, 3, 3, stride=2, dilation=2, groups=3), 3 * 9 * 2 * 2),
        "transposed": (nn.ConvTranspose2d(3, 6, 2, stride=2), 3 * 6 * 4 * 64),
        "transposed, grouped": (nn.ConvTranspose2d(3, 6, 2, stride=2, groups=3), 3 * 2 * 4 * 64),
        "linear on every row": (nn.Linear(8, 5), 8 * 5 * 24),
        "functions": (Function(), 64 * 4 * 3),
        "none": (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), 0),
    }
    for name, (net, macs) in cases.items():
        assert count_flops(net, 8) == 2 * macs, name
        check_operations(net, 8)
    projections, mixing = 8 * 16 * (3 * 16 + 16), 2 * 8 * 8 * 16
    mixed = projections + mixing
    for how, macs in (("function", mixing), ("module", mixed), ("encoder", 2 * mixed + 2 * 8 * 16 * 32)):
        assert count_flops(Attention(how), 8, 1) == 2 * (8 * 8 * 16 + macs), how
    lenet = build_model("lenet_300_100", 10, 16, 1)
    assert count_flops(lenet, 16, 1) == 215_600 == 2 * (256 * 300 + 300 * 100 + 100 * 10)


class Function(nn.Module):
    "A weight that no layer holds."
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, 4))

    def forward(self, x): return (x.flatten(2) @ self.weight).sum(1)


def test_counting_leaves_the_network_as_it_is():
    net = build_model("resnet8", 10, 16, 1)
    net.backbone.eval()
    before, modes = weights(net), [m.training for m in net.modules()]
    state = torch.get_rng_state()
    mask = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in prunable(net, head=True).items()}
    assert count_flops(net, 16, 1) > 0 and count_flops(net, 16, 1, mask) == 0
    assert weights(net) == before and [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="mask of unknown parameters: conv9.weight"):
        count_flops(net, 16, 1, {"conv9.weight": mask["head.weight"]})


def images(n):
    "The first images of the digits."
    data = load_dataset("digits", image_size=8, channels=1)
    return replace(data, train_images=data.train_images[:n], train_labels=data.train_labels[:n])


def test_batches_of_one_image():
    single, whole = Recipe(length="3it", batch_size=1), Recipe(length="3it", batch_size=8)
    with registered(lambda c, s: (flat(nn.Linear(64, 8), nn.BatchNorm1d(8)), 8)) as mine:
        for data, recipe in ((images(9), single), (images(1), whole)):
            net = build_model(mine, 10, 8, 1)
            before = weights(net)
            for stepping in ("eager", "graph"):
                with pytest.raises(ValueError, match="BatchNorm.*one image.*'backbone.2'.*batch_size"):
                    train(net, data, recipe, stepping=stepping)
            assert weights(net) == before and net.training
            assert train(net, data, recipe, freeze="backbone").steps == 3  # a frozen norm measures nothing
        result = train(build_model(mine, 10, 8, 1), images(9), Recipe(length="2ep", batch_size=4))
        assert result.steps == 4  # the ninth image alone is left out
    for name in ("lenet_300_100", "cnn_small"):  # no norm; a norm over 4 pixels or more a channel
        assert train(build_model(name, 10, 8, 1), images(9), single).steps == 3


@pytest.mark.parametrize("stepping", ["eager", "graph"])
def test_dropout_follows_the_seed(stepping):
    data, recipe = load_dataset("digits", image_size=8, channels=1), Recipe(length="2ep", batch_size=32)
    with registered(lambda c, s: (flat(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5)), 32)) as mine:
        ends = {}
        for state, seed in ((1, 0), (2, 0), (1, 1)):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            net = build_model(mine, 10, 8, 1, seed=0)
            train(net, data, recipe, seed=seed, stepping=stepping)
            assert torch.equal(torch.get_rng_state(), before)
            ends[state, seed] = weights(net)
        assert ends[1, 0] == ends[2, 0] != ends[1, 1]


@pytest.mark.parametrize("stepping", ["eager", "graph"])
def test_frozen_parameters_stay(stepping):
    "A parameter that its builder froze takes no part, weight decay included."
    def build(channels, size):
        net = flat(nn.Linear(64, 16), nn.Linear(16, 16))
        net[1].requires_grad_(False)
        return net, 16

    data = load_dataset("digits", image_size=8, channels=1)
    with registered(build) as mine:
        net = build_model(mine, 10, 8, 1)
        before = state_of(net)
        train(net, data, Recipe(length="20it", weight_decay=0.1), stepping=stepping)
        after = state_of(net)
        same = {n for n in before if torch.equal(before[n], after[n])}
        assert same == {"backbone.1.weight", "backbone.1.bias"}
        assert same == {n for n, p in net.named_parameters() if not p.requires_grad}


def test_hash_of_the_architecture():
    first = architecture_hash(build_model("resnet8", 10, 16))
    assert first == architecture_hash(build_model("resnet8", 10, 16, init="xavier", seed=5).eval())
    cases = [("resnet8", 10, 16), ("resnet8", 9, 16), ("resnet8", 10, 16, 1), ("resnet20", 10, 16),
        ("resnet18", 10, 32), ("resnet18_cifar", 10, 32), ("cnn_small", 10, 16)]
    assert len({architecture_hash(build_model(*case)) for case in cases}) == len(cases)
    assert architecture_hash(Twice("module")) != architecture_hash(Twice("weight"))
    assert architecture_hash(Twice("module")) != architecture_hash(Twice("module", 3))
    with torch.device("meta"): assert architecture_hash(Twice("weight")) == architecture_hash(Twice("weight"))
    mask = random_mask({"first.weight": 0.5}, {"first.weight": (64, 64)}, 0)
    assert architecture_hash(apply_mask(net := Twice("weight"), mask)) == architecture_hash(partial(Twice, "weight")())
    assert net.first.weight is net.second.weight
