"Ticket files: whatever is wrong with one is one sentence; tickets belong to an architecture; nothing is half-written."
import importlib.util
import json
import os
import resource
import stat
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run
from torch import nn

from lth_nb.core import Paths, digest
from lth_nb.data import load_dataset
from lth_nb.models import MODELS, Architecture, lenet
from lth_nb.study import load_study, run_tickets, run_transfers
from lth_nb.ticket_values import tensors_of
from lth_nb.tickets import OtherArchitecture, TicketRecipe, find_tickets, load_tickets, save_tickets, ticket_header
from lth_nb.training import Recipe
from lth_nb.transfer import transfer

RECIPE = TicketRecipe(training=Recipe(length="6it", batch_size=32), rounds=2, rate=0.5, rewind="2it")


def bench(name):
    "A program in bench/ as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT/"bench"/f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits(): return load_dataset("digits", image_size=8, channels=1)


@pytest.fixture
def registered():
    "Models registered within a test are gone after it."
    before = dict(MODELS)
    yield MODELS
    MODELS.clear()
    MODELS.update(before)


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    "A ticket file."
    file = tmp_path_factory.mktemp("tickets")/"seed0.safetensors"
    find_tickets("cnn_small", digits, RECIPE, save_to=file)
    return file


@contextmanager
def as_nobody():
    "Without the rights of root, which may read and write everything."
    was = os.geteuid()
    if not was: os.seteuid(65534)
    try: yield
    finally: os.seteuid(was)


def edited(file, **changes):
    "Write a ticket file again with other header fields, a valid checksum and no check."
    fuzz, tickets = bench("fuzz_tickets"), load_tickets(file, any_model=True)
    header = {k: v for k, v in (tickets.header | changes).items() if v is not ...}
    file.write_bytes(fuzz.sealed(header, tensors_of(tickets)))
    return file


def test_changed_files_are_refused_in_one_sentence_or_load_as_before():
    fuzz = bench("fuzz_tickets")
    found = fuzz.fuzz(9 * len(fuzz.KINDS), seed=int(time.time()) // 86400)  # other changes every day
    assert found["failures"] == 0, found["first_failures"]
    assert found["files"] >= 300 and found["refused"] > 200 and found["as_before"] > 9 and not found["crashed"]


@pytest.mark.slow
def test_kills_leave_no_half_written_file_that_is_taken_for_whole():
    found = bench("kills").kill_many(4, seed=int(time.time()) // 86400)
    assert found["kills"] == found["survived"] == 4 and not found["first_failures"], found
    assert found["runs_bit_identical"] == found["runs_finished"] > 0


# ---- what is not a ticket file

def wrong_files(folder, whole):
    "What people give instead of a ticket file -> a word of the answer."
    content = whole.read_bytes()
    made = {"cut.safetensors": content[:-7], "empty.safetensors": b"", "text.safetensors": b"hello, world, this is it"}
    for name, what in made.items(): (folder/name).write_bytes(what)
    torch.save({"w": torch.ones(2)}, folder/"weights.pt")
    torch.save({"w": torch.ones(2)}, folder/"old.pt", _use_new_zipfile_serialization=False)
    os.mkfifo(folder/"pipe.safetensors")
    (folder/"folder.safetensors").mkdir()
    with open(folder/"sparse.safetensors", "wb") as f:
        f.write(content)
        f.truncate(60 * 2**30)  # takes no place on the disk
    return {"cut.safetensors": "damaged", "empty.safetensors": "damaged", "text.safetensors": "another kind of file",
        "weights.pt": "torch.save", "old.pt": "torch.save", "pipe.safetensors": "a pipe or a device",
        "folder.safetensors": "a folder", "sparse.safetensors": "do not end where the file ends"}


def test_what_is_no_ticket_file_is_said(whole, tmp_path):
    wrong = wrong_files(tmp_path, whole)
    readers = (load_tickets, ticket_header)
    for name, word, reading in [(*case, reading) for case in wrong.items() for reading in readers]:
        began = time.process_time()
        with pytest.raises(ValueError) as e: reading(tmp_path/name)
        said = str(e.value)
        assert said.startswith(str(tmp_path/name)) and word in said and "\n" not in said and said.endswith("."), said
        assert time.process_time() - began < 1
    for missing in (tmp_path/"none.safetensors", tmp_path/"no"/"such"/"folder.safetensors"):
        with pytest.raises(FileNotFoundError, match="find tickets first"): load_tickets(missing)
    with pytest.raises(ValueError, match="cannot be read"): load_tickets(tmp_path/("x" * 300))
    with pytest.raises(ValueError, match="cannot be read"): load_tickets(tmp_path/"weights.pt"/"below.safetensors")


def test_a_file_without_the_right_to_read_it(whole, tmp_path):
    for folder in (tmp_path, *tmp_path.parents):  # made by pytest for one user alone
        if not folder.stat().st_mode & stat.S_IXOTH: folder.chmod(0o755)
    (tmp_path/"seed0.safetensors").write_bytes(whole.read_bytes())
    (tmp_path/"seed0.safetensors").chmod(0)
    with as_nobody(), pytest.raises(ValueError, match=r"seed0.safetensors: cannot be read \(Permission denied\)"):
        load_tickets(tmp_path/"seed0.safetensors")


@pytest.mark.parametrize("changes, words", [
    (dict(image_size=10**9), "image_size = 1000000000"), (dict(num_classes=11), "its head is for"),
    (dict(channels=3), "they do not fit the model 'cnn_small'"), (dict(model="resnet99"), "which is not registered"),
    (dict(model="resnet8"), "they do not fit the model 'resnet8'"), (dict(recipe={}), "recipe_hash is not the hash"),
    (dict(levels=[]), "levels = []"), (dict(seed="0"), "seed = '0'"), (dict(source=...), "source is missing"),
    (dict(keep_final=False), "an unexpected part 'final/0'"), (dict(architecture="0" * 16), "found on another network"),
])
def test_a_header_that_does_not_fit(whole, tmp_path, changes, words):
    file = tmp_path/"seed0.safetensors"
    file.write_bytes(whole.read_bytes())
    with pytest.raises(ValueError) as e: load_tickets(edited(file, **changes))
    assert str(e.value).startswith(f"{file}: ") and words in str(e.value), e.value


def test_json_as_deep_as_a_file_allows(whole, tmp_path):
    "Where the standard library would end in a RecursionError."
    fuzz, tickets, file = bench("fuzz_tickets"), load_tickets(whole), tmp_path/"seed0.safetensors"
    for text in ("[" * 100_000, json.dumps(tickets.header)[:-1] + ', "x": ' + "{\"a\":" * 5000 + "1" + "}" * 5001):
        file.write_bytes(fuzz.sealed(None, tensors_of(tickets), text))
        with pytest.raises(ValueError, match="is not readable as JSON"): load_tickets(file)


# ---- lth ticket

def test_verify_says_one_line_per_file(whole, tmp_path, home):
    wrong_files(tmp_path, whole)
    (tmp_path/"pipe.safetensors").unlink()
    (tmp_path/"folder.safetensors").rmdir()
    good, unknown = tmp_path/"good.safetensors", tmp_path/"unknown.safetensors"
    for file in (good, unknown): file.write_bytes(whole.read_bytes())
    edited(unknown, model="mine")
    done = run("lth_nb.cli", "ticket", "verify", tmp_path, tmp_path/"weights.pt", home=home, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stdout.splitlines() == [f"{good}: valid, {load_tickets(good)}"]
    told = {Path(line.split(": ")[0]).name: line for line in done.stderr.splitlines()}
    assert sorted(told) == ["cut.safetensors", "empty.safetensors", "sparse.safetensors", "text.safetensors",
        "unknown.safetensors", "weights.pt"] and len(done.stderr.splitlines()) == 6, done.stderr
    assert "MODELS['mine'] = Architecture(builder, halvings, origin)" in told["unknown.safetensors"]
    accepted = run("lth_nb.cli", "ticket", "verify", "--any-model", unknown, home=home)
    assert "valid, Tickets(mine on digits" in accepted.stdout
    assert "density" in run("lth_nb.cli", "ticket", "show", unknown, home=home).stdout
    assert json.loads(run("lth_nb.cli", "ticket", "show", "--json", unknown, home=home).stdout)["model"] == "mine"
    for word, options in {"show": [], "export": ["--level", 1, "-o", tmp_path/"x.onnx"], "latency": []}.items():
        done = run("lth_nb.cli", "ticket", word, tmp_path/"cut.safetensors", *options, home=home, check=False)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "cut.safetensors: damaged" in done.stderr


def test_a_place_where_nothing_can_be_written(whole, digits, tmp_path, home):
    tmp_path.chmod(0o555)
    levels = []
    with as_nobody(), pytest.raises(OSError) as e:
        find_tickets("cnn_small", digits, RECIPE, save_to=tmp_path/"seed0.safetensors", on_level=levels.append)
    assert f"{tmp_path}/seed0.safetensors: cannot be written (Permission denied)" in str(e.value) and not levels
    with as_nobody(), pytest.raises(OSError, match="seed0.safetensors: cannot be written"):
        save_tickets(load_tickets_as_root(whole), tmp_path/"seed0.safetensors")
    tmp_path.chmod(0o755)
    assert [p.name for p in tmp_path.iterdir() if p != home/"data" and "seed" in p.name] == []
    done = run("lth_nb.cli", "ticket", "latency", whole, "-o", "/proc/none/latency.csv", home=home, check=False)
    assert done.returncode == 1 and "/proc/none/latency.csv: cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_is_given_in_place_of_something_else(whole, digits, tmp_path, monkeypatch):
    "One sentence that names the argument, before anything trains."
    for place in ("tickets", "transfer"):
        monkeypatch.setattr(f"lth_nb.{place}.train", lambda *a, **k: pytest.fail("trained"))
    recipe = TicketRecipe(Recipe(length="5it"), rounds=2, rewind="2it")
    found = dict(model="lenet_300_100", data=digits, recipe=recipe)
    (tmp_path/"t.safetensors.partial").mkdir()
    for changes, words in (
        (dict(model=torch.nn.Linear(3, 3)), "the forward pass fails for two 1 x 8 x 8 images"),
        (dict(model=None), "model is a NoneType"),
        (dict(data="digits"), "data is a str, not a Dataset: load a data set first"),
        (dict(recipe=Recipe()), "recipe is a Recipe, not a TicketRecipe: give TicketRecipe"),
        (dict(seed=0.5), "seed is 0.5: use a whole number"), (dict(seed="a"), "seed is 'a'"),
        (dict(save_to=tmp_path/"t.safetensors"), "t.safetensors.partial: cannot be written"),
    ):
        with pytest.raises((TypeError, ValueError, OSError), match=words): find_tickets(**found | changes)
    given = dict(arm="ticket", data=digits, recipe=Recipe(length="5it"), level=1, source=load_tickets(whole))
    for changes, words in (
        (dict(source=str(whole)), "source is a str, not a Tickets: load a ticket file first"),
        (dict(data="digits"), "data is a str, not a Dataset"), (dict(recipe="base"), "recipe is a str, not a Recipe"),
        (dict(level="1"), "level is '1': use a whole number"), (dict(level=True), "level is True"),
        (dict(level=1.0), "level is 1.0"), (dict(seed=1.5), "seed is 1.5"), (dict(seed=None), "seed is None"),
    ):
        with pytest.raises((TypeError, ValueError), match=words): transfer(**given | changes)


def test_a_disk_that_is_full(whole, tmp_path):
    "Here: no file may be longer than 10,000 bytes. What was there before stays."
    tickets, file = load_tickets(whole), tmp_path/"seed0.safetensors"
    file.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"seed0.safetensors: cannot be written \(File too large\)"):
            save_tickets(tickets, file)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"seed0.safetensors": b"old"}


def test_what_a_file_cannot_hold_is_said_before_training(digits, registered):
    def builder(channels, image_size):
        backbone, features = lenet(channels, image_size, widths=(20, 10))
        backbone.register_buffer("brief", torch.ones(2, dtype=torch.bfloat16))
        return backbone, features

    registered["mine"] = Architecture(builder, 0, "a test")
    endless = TicketRecipe(training=Recipe(length="100000000it"), rounds=1, rewind="0it")
    with pytest.raises(ValueError, match="'backbone.brief' is bfloat16, but ticket files support"):
        find_tickets("mine", digits, endless)


def load_tickets_as_root(file):
    "Load tickets with the rights of before `as_nobody`."
    was = os.geteuid()
    os.seteuid(os.getuid())
    try: return load_tickets(file)
    finally: os.seteuid(was)


# ---- tickets belong to an architecture

def smooth(channels, image_size):
    "A LeNet with the shapes of (20, 10) and another nonlinearity."
    backbone, features = lenet(channels, image_size, widths=(20, 10))
    backbone.relu2 = nn.Tanh()
    return backbone, features


MINE, OTHER = (Architecture(partial(lenet, widths=(20, width)), 0, "a test") for width in (10, 11))
CHANGES = {"shapes": OTHER, "layers": Architecture(smooth, 0, "a test")}


@pytest.mark.parametrize("change", CHANGES)
def test_after_the_builder_has_changed(digits, tmp_path, registered, change):
    registered["mine"] = MINE
    file, endless = tmp_path/"seed0.safetensors", Recipe(length="100000000it")
    tickets = find_tickets("mine", digits, RECIPE, save_to=file)
    registered["mine"] = CHANGES[change]
    with pytest.raises(OtherArchitecture, match="seed0.safetensors: they .* Restore the builder"): load_tickets(file)
    for arm in ("ticket", "reinit", "dense_rewound"):
        with pytest.raises(ValueError, match="the mine tickets found on digits at 8 px"):
            transfer(arm, digits, endless, source=tickets, level=0 if arm.startswith("dense") else 1)
    registered["mine"] = Architecture(partial(lenet, widths=(20, 10)), 0, "the same, registered again")
    assert load_tickets(file).hash == tickets.hash
    assert transfer("ticket", digits, Recipe(length="1it"), source=tickets, level=1).values["density"] == 0.5


@pytest.mark.parametrize("change", CHANGES)
def test_a_half_finished_search_does_not_go_on_with_another_network(digits, tmp_path, registered, change):
    class Stopped(Exception): pass

    def stop(line):
        if line["level"] == 1: raise Stopped

    registered["mine"] = MINE
    file, partial_file = tmp_path/"seed0.safetensors", tmp_path/"seed0.safetensors.partial"
    undisturbed = find_tickets("mine", digits, RECIPE)
    with pytest.raises(Stopped): find_tickets("mine", digits, RECIPE, save_to=file, on_level=stop)
    half, levels = partial_file.read_bytes(), []
    registered["mine"] = CHANGES[change]
    with pytest.raises(OtherArchitecture, match="seed0.safetensors.partial: they"):
        find_tickets("mine", digits, RECIPE, save_to=file, on_level=levels.append)
    assert partial_file.read_bytes() == half and not levels and not file.exists()
    registered["mine"] = MINE
    if change == "layers": edited(partial_file, architecture=...)  # as an older version wrote it
    found = find_tickets("mine", digits, RECIPE, save_to=file, on_level=levels.append)
    assert [line["level"] for line in levels] == [2] and found.hash == undisturbed.hash and not partial_file.exists()

    partial_file.write_bytes(half[:-100])  # damaged: it begins again
    levels.clear()
    assert find_tickets("mine", digits, RECIPE, save_to=file, on_level=levels.append).hash == undisturbed.hash
    assert len(levels) == 3


def test_older_files_are_checked_by_shapes(digits, tmp_path, registered):
    registered["mine"] = MINE
    file = tmp_path/"seed0.safetensors"
    tickets = find_tickets("mine", digits, RECIPE, save_to=file)
    edited(file, architecture=...)
    assert "architecture" not in ticket_header(file) and load_tickets(file).hash == tickets.hash
    registered["mine"] = CHANGES["layers"]
    assert load_tickets(file).hash == tickets.hash  # the same shapes, and nothing else is known
    registered["mine"] = CHANGES["shapes"]
    with pytest.raises(OtherArchitecture, match=r"'backbone.linear2.weight' \(file float32 \(10, 20\), model"):
        load_tickets(file)


def test_a_study_stops_before_it_trains(tmp_path, home, registered):
    registered["mine"] = MINE
    text = (home/"tiny.yaml").read_text().replace("models: lenet_300_100", "models: mine")
    (home/"tiny.yaml").write_text(text)
    paths = Paths(home)
    study = load_study(str(home/"tiny.yaml"), paths)
    run_tickets(study, "digits", 0.1, seeds=(0,), paths=paths)
    registered["mine"] = CHANGES["layers"]
    with pytest.raises(OtherArchitecture, match="seed0.safetensors: they were found on another network than 'mine' is"):
        run_transfers(study, "own", "digits", ("ticket",), (1,), (0,), (0.1,), paths=paths)
    assert not list((paths.runs/"tiny"/"transfer").glob("*.csv"))


def test_a_builder_that_needs_values(digits, tmp_path, registered):
    "It cannot be built without memory, so it is built with."
    def builder(channels, image_size):
        widths = [int(w) for w in torch.linspace(20, 10, 2).tolist()]
        return lenet(channels, image_size, widths=widths)

    registered["mine"] = Architecture(builder, 0, "a test")
    found = find_tickets("mine", digits, RECIPE, save_to=tmp_path/"seed0.safetensors")
    assert load_tickets(tmp_path/"seed0.safetensors").hash == found.hash
    fails = tmp_path/"fails.safetensors"
    fails.write_bytes((tmp_path/"seed0.safetensors").read_bytes())

    def broken(channels, image_size): raise OSError("weights.bin\nis missing")

    registered["mine"] = Architecture(broken, 0, "a test")
    with pytest.raises(ValueError, match=r"fails.safetensors: the model 'mine' cannot be built .*weights.bin is miss"):
        load_tickets(fails)


def test_looking_at_tickets_draws_no_random_numbers(whole):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_tickets(whole)
    assert torch.equal(torch.get_rng_state(), before)


def test_names_and_hashes_do_not_depend_on_the_new_key(whole):
    tickets = load_tickets(whole)
    older = type(tickets)({k: v for k, v in tickets.header.items() if k != "architecture"}, tickets.pruned_at,
        tickets.initial, tickets.rewind, tickets.final)
    assert older.hash == tickets.hash == digest(tensors_of(tickets), 12)
