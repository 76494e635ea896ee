"Channel tickets, 2:4 tickets, SNIP and SynFlow: against slow references, from a study file to a smaller network."
import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from conftest import ROOT, run
from torch import nn

from lth_nb.channels import find_channels
from lth_nb.compact import compact, footprint, trained_network
from lth_nb.core import Paths
from lth_nb.data import load_dataset
from lth_nb.grid import cell_file, ticket_cells, ticket_file
from lth_nb.masking import apply_mask
from lth_nb.models import MODELS, build_model, prunable
from lth_nb.pruning import magnitude
from lth_nb.references import resolve_model
from lth_nb.structures import channels_alive, prune_channels
from lth_nb.study import load_study, run_tickets, run_transfers
from lth_nb.ticket_values import tensors_of
from lth_nb.tickets import TicketRecipe, find_tickets, load_tickets
from lth_nb.training import Recipe
from lth_nb.transfer import transfer

BRIEF = Recipe(length="6it", batch_size=32)
SEARCHES = dict(
    channel=TicketRecipe(BRIEF, rounds=3, rate=0.3, rewind="2it", granularity="channel"),
    layerwise=TicketRecipe(BRIEF, rounds=3, rate=0.3, rewind="2it", granularity="channel", scope="layerwise"),
    half=TicketRecipe(BRIEF, rounds=1, rate=0.5, rewind="2it", granularity="2:4"),
    snip=TicketRecipe(BRIEF, rounds=3, rate=0.5, rewind="0it", score="snip"),
    synflow=TicketRecipe(BRIEF, rounds=3, rate=0.5, rewind="0it", score="synflow"),
)


@pytest.fixture(scope="module")
def digits(): return load_dataset("digits", image_size=8, channels=1)


def test_hashes_of_older_recipes_are_what_they_were():
    "Of the studies in the checkout, as they were before there was any granularity or score."
    older = dict(
        gpu=dict(base="3f2a81a9b3ca", adam="65f390854a07"), small={"base": "3f2a81a9b3ca", "one-shot": "d997989c4c56"},
        quick={"base": "58c6343a4418", "one-shot": "464857f9eb6c", "adam": "c12088092995"})
    older |= {"paper-mehta": dict(base="ab970786a1a5"), "paper-morcos": dict(resnet50="7a45a228492f"),
        "paper-sabatelli": dict(base="deb839d7c5a5", mnist="eb23cc23dde5")}
    for name, hashes in older.items():
        study = load_study(str(ROOT/"nbs"/"studies"/f"{name}.yaml"), Paths(ROOT))
        assert {n: study.ticket_recipes[n].hash for n in hashes} == hashes, name


# ---- channels against plain loops

# stream -> the layers that write to it, and those that read it, by their names in a ResNet-8
STREAMS = [
    (["stem.conv1", "stage1.0.path.conv2"], ["stage1.0.path.conv1", "stage2.0.path.conv1", "stage2.0.shortcut.conv1"]),
    (["stage1.0.path.conv1"], ["stage1.0.path.conv2"]),
    (["stage2.0.path.conv1"], ["stage2.0.path.conv2"]),
    (["stage2.0.path.conv2", "stage2.0.shortcut.conv1"], ["stage3.0.path.conv1", "stage3.0.shortcut.conv1"]),
    (["stage3.0.path.conv1"], ["stage3.0.path.conv2"]),
    (["stage3.0.path.conv2", "stage3.0.shortcut.conv1"], []),
]


def by_loops(net, rate, rounds, scope):
    "Which (stream, channel) of a ResNet-8 are alive, by loops over single filters; weights never change."
    weights = {n: net.get_submodule(f"backbone.{n}").weight.detach().double() for s in STREAMS for n in s[0]}
    inputs = {reader: i for i, (_, readers) in enumerate(STREAMS) for reader in readers}
    alive = {(i, c) for i, (writers, _) in enumerate(STREAMS) for c in range(len(weights[writers[0]]))}

    def squared_norm(name, c):
        filters, total, count = weights[name][c], 0.0, 0
        for j in range(len(filters)):
            if name in inputs and (inputs[name], j) not in alive: continue
            total, count = total + float(filters[j].square().sum()), count + 1
        return total * len(filters) / count

    def norm(i, c): return (sum(squared_norm(n, c) for n in STREAMS[i][0]) / len(STREAMS[i][0])) ** 0.5

    for _ in range(rounds):
        ranked = sorted((norm(i, c), i, c) for i, c in alive)
        for part in [range(len(STREAMS))] if scope == "global" else [[i] for i in range(len(STREAMS))]:
            due = round(rate * sum(i in part for i, _ in alive))
            for _, i, c in ranked:
                if i not in part or not due or sum(j == i for j, _ in alive) == 1: continue
                alive, due = alive - {(i, c)}, due - 1
    return alive


@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_channel_masks_of_a_residual_network(scope):
    net = build_model("resnet8", 10, 16)
    groups, mask = find_channels(net, 16), None
    for rounds in range(1, 6):
        mask = prune_channels(magnitude({**prunable(net)}), 0.4, mask, scope, groups)
        alive = by_loops(net, 0.4, rounds, scope)
        for i, (writers, readers) in enumerate(STREAMS):
            for name in writers:
                rows = mask[f"backbone.{name}.weight"].flatten(1).any(1)
                assert rows.tolist() == [(i, c) in alive for c in range(len(rows))], (rounds, name)
            for name in readers:
                columns = mask[f"backbone.{name}.weight"].transpose(0, 1).flatten(1).any(1)
                assert columns.tolist() == [(i, c) in alive for c in range(len(columns))], (rounds, name)
        assert len(channels_alive(groups, mask)) == len(alive)


REFERENCES = ("timm:resnet18", "timm:mobilenetv3_small_050", "timm:convnext_atto", "timm:vit_tiny_patch16_224",
    "timm:mixer_s32_224", "torchvision:squeezenet1_1", "torchvision:densenet121", "torchvision:efficientnet_b0")


def scores_without(net, groups, images, seed):
    "Class scores after a fifth of the groups went, and after their rows were drawn anew where nothing may read them."
    g, found = torch.Generator().manual_seed(seed), []
    gone = [group for group in groups if torch.rand((), generator=g) < 0.2]
    for draw in (0.0, 3.0):
        state = {n: v.clone() for n, v in net.state_dict().items()}
        for group in gone:
            for n, rows in group.rows.items():
                state[n][rows] = draw * torch.randn(state[n][rows].shape, generator=g)
        for group in gone:
            for n, columns in group.columns.items(): state[n][:, columns] = 0
        with torch.no_grad(): found.append(torch.func.functional_call(net, state, (images,)))
    return gone, found


@pytest.mark.parametrize("name", [*MODELS, *REFERENCES])
def test_nothing_depends_on_a_channel_that_is_gone(name):
    "Whatever the removed filters hold, the class scores are the same, so all that reads them was found."
    if name.startswith(("timm:", "torchvision:")):
        if not find_spec(name.partition(":")[0]): pytest.skip(f"{name} is not installed")
        name = resolve_model(name)
    size = max(32, 2**MODELS[name].halvings)
    net = build_model(name, 5, size).eval()
    groups = find_channels(net, size, head=True)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    gone, (without, drawn) = scores_without(net, groups, images, seed=1)
    assert gone and torch.isfinite(without).all()
    torch.testing.assert_close(without, drawn, rtol=1e-3, atol=1e-4 * float(without.abs().max()))
    with torch.no_grad(): assert (net(images) - without).abs().max() > 0
    counted = sum(len(rows) for g in groups for rows in g.rows.values())
    assert counted <= sum(len(m.weight) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


# ---- searches, files, transfers

@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_that_was_killed_ends_with_the_same_bits(name, digits, tmp_path):
    class Killed(Exception): pass

    def kill(line):
        if line["level"] == SEARCHES[name].rounds - 1: raise Killed

    whole, file = find_tickets("cnn_small", digits, SEARCHES[name], seed=1), tmp_path/"seed1.safetensors"
    with pytest.raises(Killed): find_tickets("cnn_small", digits, SEARCHES[name], 1, save_to=file, on_level=kill)
    resumed = find_tickets("cnn_small", digits, SEARCHES[name], seed=1, save_to=file)
    for n, v in tensors_of(whole).items(): assert torch.equal(v, tensors_of(resumed)[n]), n
    again = load_tickets(file)
    assert again.hash == whole.hash and again.header["recipe_hash"] == SEARCHES[name].hash
    for level in range(1, len(whole)):
        one, two = whole.mask(level - 1), whole.mask(level)
        assert all((two[n] <= one[n]).all() for n in one) and whole[level].density < whole[level - 1].density


def test_what_cannot_be_searched_is_said_before_training(digits, monkeypatch):
    monkeypatch.setattr("lth_nb.tickets.train", lambda *a, **k: pytest.fail("trained"))

    class Odd(nn.Module):
        "Its layers have three inputs, and LayerNorm mixes all channels."
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv2d(1, 3, 8), nn.LayerNorm(3), nn.Linear(3, 3)
            self.last = nn.LayerNorm(3)

        def forward(self, x): return self.last(self.out(self.norm(self.conv(x).flatten(1))))

    found = lambda recipe: find_tickets(Odd(), digits, recipe, head="none")  # noqa: E731
    with pytest.raises(ValueError, match="no output channel of this network can be removed. Use granularity 'weight'"):
        found(SEARCHES["channel"])
    with pytest.raises(ValueError, match="no layer has a multiple of four inputs"): found(SEARCHES["half"])


def test_arms_of_tickets_that_were_not_trained(digits):
    tickets = find_tickets("cnn_small", digits, SEARCHES["snip"])
    for arm in ("ticket", "original", "reinit", "random"):
        assert transfer(arm, digits, BRIEF, level=2, source=tickets).values["density"] == tickets[2].density
    for arm, level in dict(finetuned=1, dense_finetuned=0).items():
        with pytest.raises(ValueError, match="score 'snip' needs no training; use another arm"):
            transfer(arm, digits, BRIEF, level=level, source=tickets)
    with pytest.raises(ValueError, match="their score needs no training"): trained_network(tickets, 1)


def test_a_channel_ticket_is_smaller_after_a_transfer(digits):
    "The transferred network, compact, says the same, and has the parameters of its mask."
    tickets = find_tickets("resnet8", digits, SEARCHES["channel"])
    net = transfer("ticket", digits, replace(BRIEF, length="20it"), level=3, source=tickets)
    small = compact(net.model, net.mask)
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = apply_mask(net.model, net.mask).eval()
    with torch.no_grad(): torch.testing.assert_close(small(images), whole(images), rtol=1e-4, atol=1e-4)
    before, after = footprint(whole, 8, 1), footprint(small, 8, 1)
    weights = sum(p.numel() for n, p in prunable(small).items())
    assert weights == sum(int(m.sum()) for m in net.mask.values())
    assert after["params"] < 0.5 * before["params"] and after["flops"] < 0.6 * before["flops"]
    assert after["params"] <= before["alive"]


STUDY = """
study: tiny
scale: one seed of a very short study, for tests
image_size: 8
channels: 1
models: cnn_small
seeds: [0]
metrics: [macro_auc]
recipes:
  base: {length: 6it, batch_size: 32}
ticket_recipes:
  base: {training: base, rounds: 2, rate: 0.4, rewind: 2it}
  channel: {like: base, granularity: channel}
  half: {like: base, granularity: '2:4', rounds: 1, rate: 0.5}
  synflow: {like: base, score: synflow, rewind: 0it}
  snip: {like: synflow, score: snip}
transfers:
  - {sources: mnist_5k, targets: digits, fractions: 0.1, source_fractions: 0.1, arms: [ticket, reinit, finetuned],
     ticket_recipes: [channel, half], levels: 1}
  - {sources: [mnist_5k, own], targets: digits, fractions: 0.1, source_fractions: 0.1, arms: [ticket, reinit],
     ticket_recipes: [synflow, snip], levels: [1, 2]}
"""


def test_a_study_from_its_file_to_a_smaller_network(home):
    (home/"tiny.yaml").write_text(STUDY)
    paths = Paths(home)
    study = load_study(str(home/"tiny.yaml"), paths)
    for cell in ticket_cells(study):
        rows = run_tickets(study, cell.source, cell.source_fraction, cell.ticket_recipe, paths=paths)
        assert len(rows) == study.ticket_recipes[cell.ticket_recipe].rounds + 1 and rows.val_accuracy.notna().all()
        assert cell_file(study, cell, paths).is_file()
        if cell.ticket_recipe in ("synflow", "snip"): assert (rows[["steps", "epochs"]] == 0).all().all()
        tickets = load_tickets(ticket_file(study, cell, 0, paths))
        if cell.ticket_recipe != "channel": continue
        net, ticket, file = trained_network(tickets, 2), tickets[2], ticket_file(study, cell, 0, paths)
        small = compact(net, ticket)
        assert footprint(small, 8, 1)["params"] < 0.6 * footprint(net, 8, 1)["params"]
        shown = run("lth_nb.cli", "ticket", "show", file, home=home).stdout
        assert f"{ticket.density:.3f}"[:4] in shown
        assert "valid, Tickets(cnn_small" in run("lth_nb.cli", "ticket", "verify", file, home=home).stdout
        told = json.loads(run("lth_nb.cli", "ticket", "show", "--json", file, home=home).stdout)
        assert told["recipe"]["granularity"] == "channel"
    for source, arms, recipes in (("mnist_5k", ("ticket", "reinit", "finetuned"), ("channel", "half")),
                                  ("own", ("ticket", "reinit"), ("synflow", "snip"))):
        rows = run_transfers(study, source, "digits", arms, (1,), (0,), (0.1,), (0.1,), ticket_recipes=recipes,
            paths=paths)
        assert len(rows) == len(arms) * len(recipes) and rows.test_accuracy.between(0, 1).all()
        assert set(rows.ticket_recipe) == {*recipes}


@pytest.mark.parametrize("change, words", [
    ("{like: base, granularity: '2:4'}", "granularity '2:4' keeps half of the weights at once: set rounds to 1"),
    ("{like: base, score: snip}", "score 'snip' ranks the initial weights: set rewind to '0it', not '2it'"),
    ("{like: base, granularity: filter}", "granularity = 'filter'"), ("{like: base, score: grasp}", "score = 'grasp'"),
])
def test_what_a_study_may_not_ask(home, change, words):
    (home/"tiny.yaml").write_text(STUDY.replace("{like: base, granularity: channel}", change))
    with pytest.raises(ValueError) as e: load_study(str(home/"tiny.yaml"), Paths(home))
    assert words in str(e.value) and "ticket_recipes.channel" in str(e.value) and "\n" not in str(e.value), e.value


def test_trained_weights_of_an_untrained_search_are_refused(home):
    (home/"tiny.yaml").write_text(STUDY.replace("[ticket, reinit],", "[ticket, finetuned],"))
    with pytest.raises(ValueError, match="transfers.1..arms: finetuned need trained weights, and ticket recipe 'synfl"):
        load_study(str(home/"tiny.yaml"), Paths(home))
