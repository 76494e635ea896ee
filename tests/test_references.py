"""Any network by a name: libraries, files, builders and modules give tickets with exact masks, and what does not fit is
refused before training."""
import copy
import importlib.util
import os

import pytest
import torch
from conftest import TINY, run
from torch import nn

from lth_nb.core import Paths
from lth_nb.data import load_dataset
from lth_nb.models import MODELS, build_model, prunable
from lth_nb.references import _GIVEN, read_reference, resolve_model
from lth_nb.study import load_study, run_tickets, run_transfers, ticket_cells, ticket_file
from lth_nb.tickets import OtherArchitecture, TicketError, TicketRecipe, find_tickets, load_tickets
from lth_nb.training import Recipe
from lth_nb.transfer import transfer

TRAINING = Recipe(length="3it", batch_size=8, lr=0.01)
SEARCH = TicketRecipe(training=TRAINING, rounds=2, rate=0.5, rewind="1it")
FEW = [  # small ones of each kind: plain and depthwise convolutions, channel shuffle, squeeze and excite, attention
    ("torchvision:squeezenet1_1", 32), ("torchvision:shufflenet_v2_x0_5", 64), ("torchvision:mnasnet0_5", 32),
    ("timm:mobilenetv3_small_100", 64), ("timm:regnetx_002", 32), ("timm:vit_tiny_patch16_224", 32),
]
TORCHVISION = (
    "alexnet", "densenet121", "efficientnet_b0", "googlenet", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5",
    "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t"
)
TIMM = (
    "resnet18", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224", "mixer_s32_224",
    "regnetx_002", "ghostnet_100", "densenet121", "resnet10t", "deit_tiny_patch16_224", "xcit_nano_12_p16_224",
    "poolformer_s12", "mobilevit_xxs"
)
# it needs 63 pixels
EVERY = [(f"torchvision:{n}", s) for n in TORCHVISION for s in (32, 64) if (n, s) != ("alexnet", 32)]
EVERY += [(f"timm:{n}", s) for n in TIMM for s in (32, 64)]


@pytest.fixture(autouse=True)
def models():
    "MODELS as it was."
    before = dict(MODELS), dict(_GIVEN)
    yield MODELS
    for table, old in zip((MODELS, _GIVEN), before): table.clear(), table.update(old)


def digits(size, channels=3): return load_dataset("digits", image_size=size, channels=channels, fraction=0.05)


def check_network(model, size, folder):
    """Two levels, exact counts, zeros that stay zero, the same bits again, and a file from which the network is built
    again."""
    data, file = digits(size), folder/"tickets.safetensors"
    tickets = find_tickets(model, data, SEARCH, save_to=file)
    alive = sum(p.numel() for p in tickets.pruned_at.values())
    for level in range(3):
        mask = tickets.mask(level)
        assert sum(int(m.sum()) for m in mask.values()) == alive
        assert all((tickets[level].final[n][~m] == 0).all() for n, m in mask.items())
        alive -= round(0.5 * alive)
    again = [find_tickets(model, data, SEARCH), load_tickets(file)]
    assert {t.hash for t in again} == {tickets.hash}
    results = []
    for source in (tickets, again[1]):
        made = transfer("ticket", data, TRAINING, level=2, source=source)
        weights = dict(made.model.named_parameters())
        assert all((weights[n][~m] == 0).all() and weights[n][m].any() for n, m in made.mask.items() if m.any())
        results.append((made.result.test_loss, made.values["params"], made.values["flops"]))
    assert results[0] == results[1]
    return tickets


def needs(name):
    if not importlib.util.find_spec(name.partition(":")[0]): pytest.skip(f"{name}: its library is not installed")


@pytest.mark.parametrize("name, size", FEW, ids=lambda v: str(v))
def test_networks_of_libraries(name, size, tmp_path, models):
    needs(name)
    found = check_network(name, size, tmp_path)
    assert found.header["model"] == name and len(found.header["architecture"]) == 16
    models.pop(name), _GIVEN.pop(name)
    assert load_tickets(tmp_path/"tickets.safetensors").hash == found.hash  # the file says how to build its network


@pytest.mark.slow
@pytest.mark.skipif("LTH_ALL_NETWORKS" not in os.environ, reason="long: set LTH_ALL_NETWORKS=1")
@pytest.mark.parametrize("name, size", EVERY, ids=lambda v: str(v))
def test_every_network_of_libraries(name, size, tmp_path):
    needs(name)
    check_network(name, size, tmp_path)


MY_NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, width, classes):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.mix = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.fc(self.mix(tokens).mean(1))

def build(channels, num_classes): return Net(channels, 8, num_classes)
def features(channels, image_size): return nn.Sequential(nn.Conv2d(channels, 4, image_size), nn.Flatten()), 4
def wrong_features(channels, image_size): return nn.Sequential(nn.Conv2d(channels, 4, image_size), nn.Flatten()), 5
def rgb(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(10))
def headless(): return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def softmax(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10), nn.LogSoftmax(1))
def deep(depth): return nn.Linear(1, depth)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A working folder with a file of networks."
    (tmp_path/"my_nets.py").write_text(MY_NETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_of_ones_own(folder):
    found = check_network("my_nets.py:build", 8, folder)
    assert found.header["model"] == "my_nets.py:build"
    assert {n.removeprefix("backbone.") for n in found.pruned_at} == {"stem.weight", "mix.self_attn.in_proj_weight",
        "mix.self_attn.out_proj.weight", "mix.linear1.weight", "mix.linear2.weight"}
    only = find_tickets("my_nets.py:build", digits(8), SEARCH, prune="attention")
    assert only.header["model"] == "my_nets.py:build?prune=attention"
    assert {*only.pruned_at} == {n for n in found.pruned_at if "self_attn" in n}
    head = find_tickets("my_nets.py:build", digits(8), TicketRecipe(TRAINING, 1, 0.5, "1it", prune_head=True))
    assert {*head.pruned_at} - {*found.pruned_at} == {"head.weight"}
    assert find_tickets("my_nets.py:features", digits(8), SEARCH).rewind["head.weight"].shape == (10, 4)


def test_tickets_refuse_another_network(folder):
    found, file = (
        find_tickets("my_nets.py:build", digits(8), SEARCH, save_to=folder / "t.safetensors"),
        folder / "my_nets.py",
    )
    file.write_text(MY_NETS.replace("Net(channels, 8,", "Net(channels, 16,"))
    resolve_model("my_nets.py:build")  # the file is run again when its text has changed
    with pytest.raises(OtherArchitecture, match="do not fit the model 'my_nets.py:build' as it is built now"):
        load_tickets(folder/"t.safetensors")
    with pytest.raises(ValueError, match="do not fit the model"):
        transfer("ticket", digits(8), TRAINING, level=1, source=found)
    file.write_text(MY_NETS.replace("width, 2, 16,", "width, 4, 16,"))  # the same shapes
    resolve_model("my_nets.py:build")
    with pytest.raises(OtherArchitecture, match="same shapes, other layers or settings"):
        load_tickets(folder/"t.safetensors")


def test_a_ticket_file_runs_no_code_from_elsewhere(folder, models):
    inside = folder/"inside"
    inside.mkdir()
    name = resolve_model("../my_nets.py:build", folders=[inside])
    find_tickets(name, digits(8), SEARCH, save_to=folder/"t.safetensors")
    assert load_tickets(folder/"t.safetensors").header["model"] == name  # known in this session
    models.pop(name), _GIVEN.pop(name)
    with pytest.raises(TicketError, match="t.safetensors: .*outside the working folder. If you trust it, call"):
        load_tickets(folder/"t.safetensors")


def test_builders_and_modules(folder, models):
    spec = importlib.util.spec_from_file_location("my_nets", folder/"my_nets.py")
    mine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mine)
    assert resolve_model(mine.build) == "my_nets.py:build"  # a builder from a file has a text that builds it again

    def here(in_chans): return nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    found = check_network(here, 8, folder)
    assert found.header["model"].startswith("builder:") and {*found.pruned_at} == {"backbone.0.weight"}

    torch.manual_seed(3)
    module = here(3)
    before = copy.deepcopy(module.state_dict())
    with pytest.warns(UserWarning, match="are not used: init='kaiming'"):
        drawn = find_tickets(module, digits(8), SEARCH)
    assert not torch.equal(drawn.initial["backbone.0.weight"], module[0].weight)
    keep = TicketRecipe(Recipe(length="3it", batch_size=8, init="keep"), 2, 0.5, "1it")
    kept = find_tickets(module, digits(8), keep, save_to=folder/"kept.safetensors")
    assert (
        torch.equal(kept.initial["backbone.0.weight"], module[0].weight)
        and kept.header["model"] != drawn.header["model"]
    )
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())  # it was copied, and not trained
    with pytest.raises(ValueError, match="loads the same ones for every seed"):
        transfer("reinit", digits(8), keep.training, level=1, source=kept)
    models.pop(kept.header["model"])
    with pytest.raises(TicketError, match="kept.safetensors: .*a module of an earlier session"):
        load_tickets(folder/"kept.safetensors")


def test_one_name_is_one_network(folder):
    "Two builders of one name, and two files of one name, never stand for each other."
    def make(width):
        return lambda channels: nn.Sequential(nn.Conv2d(channels, width, 8), nn.Flatten(), nn.Linear(width, 10))
    first = find_tickets(make(4), digits(8), SEARCH)
    assert find_tickets(make(6), digits(8), SEARCH).header["model"] == first.header["model"]
    with pytest.raises(ValueError, match="do not fit the model"):
        transfer("ticket", digits(8), TRAINING, level=1, source=first)
    (folder/"other").mkdir()
    (folder/"other"/"my_nets.py").write_text(MY_NETS)
    resolve_model("my_nets.py:build")
    with pytest.raises(ValueError, match="have the same name in one process. Rename one."):
        resolve_model("my_nets.py:build", folders=[folder/"other"])


REFUSED = {  # reference -> what is said
    "timm:resnet999": "timm has no classifier 'resnet999'; it has resnet",
    "torchvision:maskrcnn_resnet50_fpn": "torchvision has no classifier 'maskrcnn_resnet50_fpn'; it has",
    "torchvision:inception_v3": "model 'torchvision:inception_v3': .*the forward pass fails",
    "keras:vgg": "model 'keras:vgg': write 'timm:NAME', 'torchvision:NAME' or 'FILE.py:FUNCTION'",
    "timm:resnet10t?depth=3": "write 'timm:NAME'",
    "timm:resnet10t?prune=stages*": "prune = 'stages\\*': 'stages\\*' matches no weight",
    "timm:resnet10t?head=classifier": "it has no layer 'classifier' to use as its head; its last linear layers are fc",
    "your_nets.py:build": "your_nets.py: no such file in",
    "my_nets.py:make": "my_nets.py: has no function 'make'; it has Net, build, features",
    "broken.py:build": "broken.py: running it failed \\(ZeroDivisionError",
    "my_nets.py:wrong_features": "returns \\(2, 4\\) for two images of 1 x 8 x 8, not float \\(2, 5\\)",
    "my_nets.py:rgb": "its first convolution takes 3 channels, and the images have 1. Load them with channels=3",
    "my_nets.py:headless": "its head cannot be found: it returns a tensor \\(2, 4\\)",
    "my_nets.py:softmax": "its head cannot be found: it returns a tensor \\(2, 10\\), which is not the "
                          "output of one linear layer. Name the",
    "my_nets.py:deep": "its builder needs 'depth'. A builder may take channels"
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_error_before_training(name, folder):
    (folder/"broken.py").write_text("1 / 0")
    if name.startswith(("timm", "torchvision")): needs(name)
    with pytest.raises(ValueError, match=REFUSED[name]) as told:
        find_tickets(name, digits(8, 1), SEARCH, save_to=folder/"t.safetensors")
    assert "\n" not in str(told.value) and not list(folder.glob("t.*"))


def test_a_missing_library_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "timm" else found(name, *more))
    with pytest.raises(ImportError, match="timm is not installed.*pip install timm"): resolve_model("timm:resnet18")


def test_a_named_head_and_a_headless_network(folder):
    found = build_model(resolve_model("my_nets.py:softmax", head="3"), 10, 8, 1)
    assert found.num_features == 16 and [*prunable(found)] == ["backbone.1.weight"]
    assert build_model(resolve_model("my_nets.py:headless", head="none"), 10, 8, 1).num_features == 4


def test_references_are_read_as_they_are_written():
    for text in (
        "timm:resnet18",
        "nets/mine.py:build?head=fc&prune=conv+-stem.*",
        "torchvision:vit_b_16?prune=attention",
    ):
        assert str(read_reference(text)) == text


STUDY = TINY.replace("models: lenet_300_100", "models: [my_nets.py:build, lenet_300_100]")


def test_studies_take_references(home, monkeypatch):
    "Beside the study file, wherever the command is typed; names of files are plain, and the column says the reference."
    (home/"my_nets.py").write_text(MY_NETS)
    (home/"tiny.yaml").write_text(STUDY)
    (home/"elsewhere").mkdir()
    monkeypatch.chdir(home/"elsewhere")
    paths = Paths(home)
    study = load_study(home/"tiny.yaml", paths)
    files = [ticket_file(study, cell, 0, paths) for cell in ticket_cells(study)]
    assert len({*files}) == 4 and all(set(":/?*&\\").isdisjoint(f.parent.name) for f in files)
    rows = run_transfers(
        study, "mnist_5k", "digits", ["ticket"], [1], [0], [0.1], models=["my_nets.py:build"], paths=paths
    )
    assert {*rows.model} == {"my_nets.py:build"} and len(rows) == 1
    found = run_tickets(study, "digits", 0.1, model="my_nets.py:build?prune=attention", seeds=[0], paths=paths)
    assert {*found.model} == {"my_nets.py:build?prune=attention"} and found.params.is_monotonic_decreasing


def test_a_study_names_a_reference_that_fails(home):
    (home/"tiny.yaml").write_text(STUDY)
    with pytest.raises(ValueError, match="tiny.yaml: models = 'my_nets.py:build': my_nets.py: no such file"):
        load_study(home/"tiny.yaml", Paths(home))
    (home/"my_nets.py").write_text(MY_NETS)
    (home/"tiny.yaml").write_text(STUDY.replace("my_nets.py:build,", "'my_nets.py:build?prune=conv&head=fc',"))
    with pytest.raises(ValueError, match=r"write it as my_nets.py:build\?head=fc&prune=conv"):
        load_study(home/"tiny.yaml", Paths(home))


def test_lth_run_refuses_a_network_before_anything_trains(home):
    (home/"my_nets.py").write_text(MY_NETS)
    (home/"tiny.yaml").write_text(STUDY.replace("my_nets.py:build", "my_nets.py:rgb"))
    done = run("lth_nb.cli", "run", "tiny.yaml", home=home, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert (
        "tiny.yaml: model 'my_nets.py:rgb': its first convolution takes 3 channels, and the images have 1"
        in done.stderr
    )
    assert not list((home/"data").rglob("*.safetensors*"))
