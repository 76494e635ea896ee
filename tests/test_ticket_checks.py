"Tickets that do not fit themselves, their header or their network are refused in words that name the part."
from dataclasses import replace
from functools import partial
from importlib.metadata import version

import pytest
import torch
from conftest import said

from lth_nb.architecture import architecture_hash
from lth_nb.masking import dead_layers, density
from lth_nb.models import MODELS, Architecture, build_model, lenet, prunable
from lth_nb.ticket_checks import (
    OtherArchitecture,
    blueprint,
    check_model,
    check_parts,
    check_values,
    kinds_of,
    parts_of,
)
from lth_nb.ticket_files import load_tickets, save_tickets, ticket_header
from lth_nb.ticket_values import NEVER, TicketHeader, TicketRecipe, Tickets, pack, tensors_of
from lth_nb.training import Recipe, settings_of

RECIPE = TicketRecipe(training=Recipe(length="80it", batch_size=32), rounds=2, rate=0.4, rewind="20it")
FIRST = "backbone.linear1.weight"


def drawn_levels(sizes):
    "Levels at which weights die, drawn at random: of all that are alive, 40% go in each of two rounds."
    ranks = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0))
    first = len(ranks) - round(0.4 * len(ranks))
    second = first - round(0.4 * first)
    levels = torch.where(ranks < second, NEVER, torch.where(ranks < first, 2, 1)).to(torch.uint8)
    return levels.split(sizes)


def made(model="lenet_300_100"):
    "Tickets as a search would find them, but with weights and masks drawn at random."
    settings = dict(model=model, num_classes=10, image_size=8, channels=1, init="kaiming")
    net = build_model(model, 10, 8, 1)
    weights = prunable(net)
    parts = drawn_levels([w.numel() for w in weights.values()])
    pruned_at = {n: part.view(w.shape) for (n, w), part in zip(weights.items(), parts)}

    def copy(): return {n: v.clone() for n, v in net.state_dict().items()}
    header = dict(
        format="lth_nb tickets 1", source="digits", data_hash="5f", **settings, seed=0, train_images=1500,
        recipe=settings_of(RECIPE), recipe_hash=RECIPE.hash, keep_final=True, levels=[],
        provenance=dict(commit="", device="cpu", torch=version("torch")),
        architecture=architecture_hash(blueprint(settings))
    )
    found = Tickets(header, pruned_at, copy(), copy())
    for level in range(3):
        mask = {n: p > level for n, p in pruned_at.items()}
        header["levels"].append(dict(
            level=level, density=density(mask), dead_layers=dead_layers(mask), steps=80, val_accuracy=0.9,
            test_accuracy=0.9, val_loss=0.3, test_loss=0.3, best_epoch=2, epochs=2, seconds=0.1
        ))
        found.final[level] = pack(copy(), mask)
    return found


def check(tickets, any_model=False):
    "All checks but that of a file."
    h, parts = TicketHeader.model_validate(tickets.header), parts_of(kinds_of(tensors_of(tickets)))
    check_parts(h, parts)
    check_model(h, parts, any_model)
    check_values(h, tickets)


@pytest.fixture(scope="module")
def tickets(): return made()


@pytest.fixture
def registered(monkeypatch):
    "Put a network called `mine` into MODELS for one test."
    def register(build):
        monkeypatch.setitem(MODELS, "mine", Architecture(build, 0, "an example"))
    return register


def changed(tickets, part, change):
    "Tickets with one tensor changed."
    state = dict(getattr(tickets, part) if part in ("pruned_at", "initial", "rewind") else tickets.final[int(part)])
    state[FIRST] = change(state[FIRST].clone())
    if part in ("pruned_at", "initial", "rewind"): return replace(tickets, **{part: state})
    return replace(tickets, final=tickets.final | {int(part): state})


def poisoned(v):
    v.view(-1)[3] = float("nan")
    return v


def test_sound_tickets_pass(tickets): check(tickets)


DAMAGES = dict(
    nan=("initial", poisoned, f"its initial of '{FIRST}' has values that are NaN"),
    nan_trained=("1", poisoned, f"its final/1 of '{FIRST}' has values that are NaN"),
    level=("pruned_at", lambda p: p.where(p != 2, 7), "contains 7, not 1 to 2 or 255"),
    density=("pruned_at", lambda p: p.where(p != 2, 1), "level 1 keeps"),
    dtype=("pruned_at", lambda p: p.int(), "its pruned_at of"),
    shape=("pruned_at", lambda p: p[:5], "its pruned_at of"),
    turned=("rewind", lambda v: v.T, "its parts do not match"),
    short=("2", lambda v: v[1:], "more or fewer trained weights"),
    double=("2", lambda v: v.double(), "not a vector of unpruned weights"),
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_tensor_is_named(tickets, damage):
    part, change, words = DAMAGES[damage]
    assert words in said(lambda: check(changed(tickets, part, change)))


def test_a_variance_below_zero_is_named():
    "BatchNorm would return NaN."
    found = made("resnet8")
    check(found)
    name = next(n for n in found.rewind if n.endswith("running_var"))
    found.rewind[name] = -found.rewind[name]
    assert f"its rewind of '{name}' has a negative variance" in said(lambda: check(found))


def test_missing_parts_are_named(tickets):
    without = replace(tickets, final={0: tickets.final[0]})
    assert "it has no final/1; it has no final/2" in said(lambda: check(without))
    half = replace(tickets, pruned_at={FIRST: tickets.pruned_at[FIRST]})
    assert "its parts do not match" in said(lambda: check(half))


def test_a_density_that_the_masks_do_not_have():
    wrong = made()
    wrong.header["levels"][1]["density"] = 0.61
    assert "level 1 has density 0.6, but its header says 0.61" in said(lambda: check(wrong))


def test_other_shapes_are_another_network(registered):
    registered(partial(lenet, widths=(20, 10)))
    mine = made("mine")
    check(mine)
    registered(partial(lenet, widths=(20, 12)))
    words = "'backbone.linear2.weight' (file float32 (10, 20), model float32 (12, 20))"
    assert words in said(lambda: check(mine), OtherArchitecture)


def gelu(channels, image_size):
    "The shapes of a small LeNet with other units."
    backbone, features = lenet(channels, image_size, widths=(20, 10))
    backbone.relu1 = torch.nn.GELU()
    return backbone, features


def test_other_layers_of_the_same_shapes_are_another_network(registered):
    registered(partial(lenet, widths=(20, 10)))
    mine = made("mine")
    registered(gelu)
    assert "same shapes, other layers or settings. Restore" in said(lambda: check(mine), OtherArchitecture)
    mine.header["architecture"] = None  # as in older files
    check(mine)


def test_an_unknown_network_is_told_how_to_be_registered(tickets):
    mine = replace(tickets, header=tickets.header | dict(model="mine"))
    assert "found on the model 'mine', which is not registered. Register it first" in said(lambda: check(mine))
    check(mine, any_model=True)


def test_what_is_saved_is_loaded(tickets, tmp_path):
    file = save_tickets(tickets, tmp_path/"seed0.safetensors")
    again, tensors = load_tickets(file), tensors_of(tickets)
    assert again.header == ticket_header(file) and again.hash == tickets.hash
    assert len(tensors_of(again)) == len(tensors)
    for name, value in tensors_of(again).items(): assert torch.equal(value, tensors[name]), name


def test_half_a_search_is_saved_only_as_such(tmp_path):
    file, half = save_tickets(made(), tmp_path/"seed0.safetensors"), made()
    whole = file.read_bytes()
    half.header["levels"].pop()
    half.final.pop(2)
    refused = said(lambda: save_tickets(half, file))
    assert "it has 2 levels, but its recipe has 3. Nothing was written" in refused and file.read_bytes() == whole
    assert len(load_tickets(save_tickets(half, tmp_path/"seed1.safetensors.partial"))) == 2
