"Folders of open_lth: one written as open_lth itself writes them is read, and one of ours has what it asks for."
import json
import math
import os

import pytest
import torch
from conftest import said
from torch import nn

from lth_nb.data import load_dataset
from lth_nb.models import build_model, prunable
from lth_nb.open_lth import read_open_lth, tickets_from_open_lth, write_open_lth
from lth_nb.tickets import TicketRecipe, find_tickets, load_tickets, save_tickets
from lth_nb.training import Recipe
from lth_nb.transfer import transfer

RECIPE = TicketRecipe(Recipe(length="2ep", batch_size=32), rounds=2, rewind="1ep")


@pytest.fixture(scope="module")
def digits(): return load_dataset("digits", image_size=8, channels=1, fraction=0.2)


class Lenet(nn.Module):
    "The network that open_lth calls mnist_lenet_300_100, with its names of parameters."
    def __init__(self):
        super().__init__()
        self.fc_layers = nn.ModuleList([nn.Linear(64, 300), nn.Linear(300, 100)])
        self.fc = nn.Linear(100, 10)


def ours():
    "Their names to ours, in the order of the layers."
    theirs = [n for n, _ in Lenet().named_parameters()]
    mine = [n for n, _ in build_model("lenet_300_100", 10, 8, 1).named_parameters()]
    return dict(zip(theirs, mine, strict=True))


def save_mask(folder, mask):
    "Write mask and report as `Mask.save` of open_lth does."
    os.makedirs(folder, exist_ok=True)
    torch.save({k: v.cpu().int() for k, v in mask.items()}, folder/"mask.pth")
    total, left = sum(v.numel() for v in mask.values()), sum(int(v.sum()) for v in mask.values())
    (folder/"sparsity_report.json").write_text(json.dumps({"total": float(total), "unpruned": float(left)}, indent=4))


def pruned(network, mask, ignored, fraction=0.2):
    "Prune as `sparse_global` of open_lth does: a share of all weights, rounded up; what equals the threshold goes too."
    count = math.ceil(fraction * sum(float(m.sum()) for m in mask.values()))
    weights = {n: network.get_parameter(n).detach().abs() for n in mask if n != ignored}
    threshold = torch.cat([w[mask[n] == 1] for n, w in weights.items()]).sort().values[count]
    return {n: m if n == ignored else m * (weights[n] > threshold) for n, m in mask.items()}


@pytest.fixture
def experiment(tmp_path):
    "A replicate with three levels, rewound to the first epoch; random numbers stand for trained weights."
    torch.manual_seed(0)
    root, states = tmp_path/"lottery_0123"/"replicate_1", {}
    def put(level, step, network):
        place = root/f"level_{level}"/"main"
        place.mkdir(parents=True, exist_ok=True)
        states[level, step] = {k: v.clone() for k, v in network.state_dict().items()}
        torch.save(network.state_dict(), place/f"model_{step}.pth")
    put("pretrain", "ep0_it0", Lenet())
    rewound = Lenet()
    put("pretrain", "ep1_it0", rewound)
    mask = {n: torch.ones_like(p) for n, p in rewound.named_parameters() if p.ndim == 2}
    for level in range(3):
        save_mask(root/f"level_{level}"/"main", mask)
        put(level, "ep1_it0", rewound)
        trained = Lenet()
        for n, p in trained.named_parameters(): p.data *= mask.get(n, 1)
        put(level, "ep10_it3", trained)
        put(level, "ep2_it0", Lenet())  # a state in between, by a user's callback
        mask = pruned(trained, mask, ignored="fc.weight")
    (root/"level_0"/"main"/"hparams.log").write_text("seed: 0\n")
    (root/"level_0"/"lottery_branch_retrain_1").mkdir()
    return root, states


def test_an_experiment_is_read(experiment, digits, tmp_path):
    root, states = experiment
    found = read_open_lth(root, ours())
    for theirs, mine in ours().items():
        assert torch.equal(found.initial[mine], states["pretrain", "ep0_it0"][theirs])
        assert torch.equal(found.rewind[mine], states[0, "ep1_it0"][theirs])
        for level in range(3): assert torch.equal(found.final[level][mine], states[level, "ep10_it3"][theirs])
    tickets = tickets_from_open_lth(found, "lenet_300_100", digits, RECIPE)
    assert tickets.header["provenance"]["origin"] == "open_lth"
    for level in range(3):
        stored = torch.load(root/f"level_{level}"/"main"/"mask.pth", weights_only=True)
        for theirs, mine in ours().items():
            if theirs in stored and theirs != "fc.weight":
                assert torch.equal(tickets.mask(level)[mine], stored[theirs].bool())
            if theirs in stored:
                kept = tickets[level].final[mine]
                assert torch.equal(kept, states[level, "ep10_it3"][theirs])
    loaded = load_tickets(save_tickets(tickets, tmp_path/"t.safetensors"))  # passes every check of a ticket file
    assert loaded.hash == tickets.hash
    moved = transfer("ticket", digits, Recipe(length="3it", batch_size=32), level=2, source=loaded)
    assert 0 <= moved.values["test_accuracy"] <= 1


def test_what_open_lth_asks_of_a_folder(digits, tmp_path):
    "Every convolution and linear layer in each mask, integers, a report in floats, and states that load strictly."
    recipe = TicketRecipe(Recipe(length="3it", batch_size=32), rounds=1, rewind="0it")
    small = load_dataset("digits", image_size=16, channels=1, fraction=0.1)
    tickets = find_tickets("resnet8", small, recipe)
    root = write_open_lth(tickets, tmp_path/"replicate_1", lambda n: f"model.{n}")
    assert not (root/"level_pretrain").exists()  # open_lth has none without rewinding
    network = build_model("resnet8", 10, 16, 1)
    weights = {f"model.{n}": p.shape for n, p in prunable(network, head=True).items()}
    for level in (0, 1):
        place = root/f"level_{level}"/"main"
        mask = torch.load(place/"mask.pth", weights_only=True)
        assert {n: m.shape for n, m in mask.items()} == weights
        assert all(m.dtype == torch.int32 and set(m.unique().tolist()) <= {0, 1} for m in mask.values())
        total, left = sum(m.numel() for m in mask.values()), sum(int(m.sum()) for m in mask.values())
        assert json.loads((place/"sparsity_report.json").read_text()) == {"total": total, "unpruned": left}
        files = sorted(place.glob("model_*"))
        assert [f.name for f in files] == ["model_ep0_it0.pth", "model_ep0_it3.pth"]
        for file in files:
            state = torch.load(file, weights_only=True)
            network.load_state_dict({n.removeprefix("model."): v for n, v in state.items()})
            assert all((state[n][m == 0] == 0).all() for n, m in mask.items())
        names = [line.split(",")[0] for line in (place/"logger").read_text().splitlines()]
        assert names == ["test_loss", "test_accuracy"]
    back = read_open_lth(root, lambda n: n.removeprefix("model."))
    assert all(torch.equal(back.initial[n], v) and torch.equal(back.rewind[n], v) for n, v in tickets.initial.items())
    assert tickets_from_open_lth(back, "resnet8", small, recipe).hash == tickets.hash


def test_code_in_a_file_is_not_run(experiment, tmp_path):
    root, _ = experiment
    marker = tmp_path/"ran"

    class Evil:
        def __reduce__(self): return (open, (str(marker), "w"))
    torch.save({"fc.weight": Evil()}, root/"level_1"/"main"/"mask.pth")
    message = said(lambda: read_open_lth(root))
    assert "mask.pth: not a file of tensors" in message and len(message.splitlines()) == 1
    assert not marker.exists()


def test_errors_name_the_file_and_what_to_do(experiment, digits):
    root, _ = experiment
    def tickets(**names): return tickets_from_open_lth(read_open_lth(root, ours()), "lenet_300_100", digits, RECIPE)
    main = root/"level_2"/"main"
    assert "may contain only 0 and 1" in broken(main/"mask.pth", lambda m: {n: v * 2 for n, v in m.items()}, root)
    assert "take both files from the same run" in broken(main/"mask.pth",
        lambda m: {n: torch.ones_like(v) for n, v in m.items()}, root)
    (main/"sparsity_report.json").unlink()
    stored = torch.load(main/"mask.pth", weights_only=True)
    torch.save({n: torch.ones_like(v) for n, v in stored.items()}, main/"mask.pth")
    assert "set rate to the experiment's" in said(tickets)
    torch.save(stored | {"fc_layers.0.weight": stored["fc_layers.0.weight"].flip(0)}, main/"mask.pth")
    assert "weights pruned at level 1 are alive at 2" in said(tickets)
    head = stored["fc.weight"].clone()
    head[0, 0] = 0
    torch.save(stored | {"fc.weight": head}, main/"mask.pth")
    assert "set prune_head" in said(tickets)
    torch.save(stored, main/"mask.pth")
    assert "set rounds to 2" in said(lambda: tickets_from_open_lth(read_open_lth(root, ours()), "lenet_300_100", digits,
        TicketRecipe(RECIPE.training, rounds=4, rewind="1ep")))
    assert "no tensor is called 'fc9.weight'" in said(lambda: read_open_lth(root, {"fc9.weight": "head.weight"}))
    (main/"model_ep10_it3.pth").unlink()
    (main/"model_ep2_it0.pth").unlink()
    assert "level 2 was not trained to the end" in said(tickets)
    (main/"mask.pth").write_bytes(b"PK")
    assert "mask.pth: not a file of tensors" in said(lambda: read_open_lth(root))
    os.rename(root/"level_1", root/"level_7")
    assert "level_1 is missing" in said(lambda: read_open_lth(root))
    assert "no level_* folder" in said(lambda: read_open_lth(root/"level_0"), FileNotFoundError)


def broken(path, change, root):
    "The error of reading when a mask is changed; the file is as before afterwards."
    content = path.read_bytes()
    torch.save(change(torch.load(path, weights_only=True)), path)
    try: return said(lambda: read_open_lth(root))
    finally: path.write_bytes(content)
