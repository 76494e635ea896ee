"Tickets up to a hub and down again, with the hub's own client and a stand-in server on loopback."
import builtins
import importlib.util
import re
import socket
import subprocess
import sys

import huggingface_hub
import pytest
import torch
import yaml
from conftest import ENVIRONMENT, ROOT, said
from hub_server import TOKEN, running

from lth_nb.data import load_dataset
from lth_nb.hub import from_hub, model_card, push_to_hub
from lth_nb.ticket_values import tensors_of
from lth_nb.tickets import TicketRecipe, Tickets, find_tickets, load_tickets
from lth_nb.training import Recipe


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tickets")/"seed0.safetensors"
    digits = load_dataset("digits", image_size=8, channels=1, fraction=0.1)
    find_tickets("lenet_300_100", digits, TicketRecipe(Recipe(length="5it"), rounds=2, rewind="1it"), save_to=path)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache and no login, whatever this machine has."
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path/"token"))
    return tmp_path/"cache"


@pytest.mark.parametrize("mode", ["regular", "lfs"])
def test_round_trip_is_bit_for_bit(file, cache, monkeypatch, mode):
    "A path is uploaded unchanged, once inside the commit and once as a large file."
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    with running(mode) as hub:
        url = push_to_hub(file, "lab/digits", license="cc-by-4.0", token=TOKEN, endpoint=hub.address)
        assert url.startswith(f"{hub.address}/lab/digits/commit/")
        assert hub.repos["lab/digits"]["seed0.safetensors"] == file.read_bytes()
        assert ("POST", "lab/digits.git/info/lfs/objects/batch") in hub.asked or mode == "regular"
        found = from_hub("lab/digits", "seed0.safetensors", endpoint=hub.address, cache_dir=cache)
        (local,) = cache.rglob("seed0.safetensors")
        assert local.read_bytes() == file.read_bytes()
        asked = len(hub.asked)
        revision = url.rpartition("/")[2]
        again = from_hub("lab/digits", "seed0.safetensors", revision, endpoint=hub.address, cache_dir=cache)
        assert len(hub.asked) == asked  # a commit does not change, so the cache has it
    for tickets in (found, again):
        wanted = load_tickets(file)
        assert tickets.header == wanted.header and tickets.hash == wanted.hash
        pairs = zip(tensors_of(tickets).items(), tensors_of(wanted).items(), strict=True)
        assert all(a == b and torch.equal(v, w) for (a, v), (b, w) in pairs)


def test_methods_of_tickets(file, cache, tmp_path):
    "Methods of tickets do the same with a file that they write; another order of its table is all that may differ."
    with running() as hub:
        tickets = load_tickets(file)
        tickets.push_to_hub("lab/digits", token=TOKEN, private=True, endpoint=hub.address)
        assert hub.private == {"lab/digits"}
        (tmp_path/"t.safetensors").write_bytes(hub.repos["lab/digits"]["tickets.safetensors"])
        assert load_tickets(tmp_path/"t.safetensors").header == tickets.header
        assert Tickets.from_hub("lab/digits", endpoint=hub.address, cache_dir=cache).hash == tickets.hash
        tickets.push_to_hub("lab/digits", token=TOKEN, endpoint=hub.address)  # into the same repository


def test_the_address_of_a_hub_from_the_environment(file, tmp_path):
    "Without `endpoint`, HF_ENDPOINT and HF_TOKEN decide, as in every program of the hub."
    code = ("import sys; from lth_nb.tickets import Tickets, load_tickets; t = load_tickets(sys.argv[1]); "
            "t.push_to_hub('lab/digits'); print(Tickets.from_hub('lab/digits').hash == t.hash)")
    with running() as hub:
        settings = {**ENVIRONMENT, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, env=settings, capture_output=True,
            text=True)
        assert done.stdout.strip() == "True", done.stderr
        assert {*hub.repos["lab/digits"]} == {"tickets.safetensors", "README.md"}


def test_the_card_is_computed_from_the_header(file, cache):
    with running() as hub:
        push_to_hub(file, "lab/digits", "one.safetensors", license="mit", token=TOKEN, endpoint=hub.address)
        card = hub.repos["lab/digits"]["README.md"].decode()
    header = load_tickets(file).header
    assert card == model_card(load_tickets(file), "lab/digits", "one.safetensors", "mit")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "lth_nb" and front["license"] == "mit" and "lottery-ticket" in front["tags"]
    data = huggingface_hub.ModelCard(card).data
    assert data.library_name == "lth_nb" and data.license == "mit"
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    table = {row[0]: row[1:] for row in rows}
    for level in header["levels"]:
        wanted = [f"{level['density']:.4f}", f"{level['val_accuracy']:.2%}", f"{level['test_accuracy']:.2%}"]
        assert table[str(level["level"])] == wanted
    assert table["source"] == ["digits"] and table["model"] == [r"lenet\_300\_100"]
    assert table["recipe hash"] == [header["recipe_hash"]] and table["rounds"] == ["2"]


def test_what_can_go_wrong_is_said_in_one_sentence(file, cache):
    with running() as hub:
        push_to_hub(file, "lab/digits", token=TOKEN, endpoint=hub.address)
        files = hub.repos["lab/digits"]
        files["card.safetensors"] = b"# A text\n" * 10
        files["damaged.safetensors"] = file.read_bytes()[:-7]
        flipped = bytearray(file.read_bytes())
        flipped[-5] ^= 1
        files["flipped.safetensors"] = bytes(flipped)

        def get(repo, name, kind, **more):
            return said(lambda: from_hub(repo, name, endpoint=hub.address, cache_dir=cache, **more), kind)

        for words, message in (
            ("lab/none/seed0.safetensors: no such repository", get("lab/none", "seed0.safetensors", FileNotFoundError)),
            ("lab/digits/no.safetensors: the repository has no such file", get("lab/digits", "no.safetensors",
                FileNotFoundError)),
            ("no such revision", get("lab/digits", "seed0.safetensors", FileNotFoundError, revision="v9")),
            ("lab/digits/card.safetensors: a text file or another kind of file, not tickets",
                get("lab/digits", "card.safetensors", ValueError)),
            ("lab/digits/damaged.safetensors: damaged", get("lab/digits", "damaged.safetensors", ValueError)),
            ("lab/digits/flipped.safetensors: damaged, its content does not match its checksum",
                get("lab/digits", "flipped.safetensors", ValueError)),
            ("no one/x/t.safetensors: ", get("no one/x", "t.safetensors", ValueError)),
            ("lab/digits: the hub denied access (401)", said(lambda: push_to_hub(file, "lab/digits",
                endpoint=hub.address, token="hf_reads"), PermissionError)),
        ):
            assert message.startswith(words) or words in message, message
            assert len(message.splitlines()) == 1, message
        assert hub.repos["lab/digits"].keys() - files.keys() == set()
    damaged = cache.parent/"bad.safetensors"
    damaged.write_bytes(file.read_bytes()[:-7])
    with running() as hub:
        assert "damaged" in said(lambda: push_to_hub(damaged, "lab/bad", token=TOKEN, endpoint=hub.address))
        assert not hub.asked  # a damaged file is never uploaded


def test_no_network(file, cache, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its attempts
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{s.getsockname()[1]}"  # nobody listens
        down = said(lambda: from_hub("lab/digits", endpoint=address, cache_dir=cache), ConnectionError)
        up = said(lambda: push_to_hub(file, "lab/digits", token=TOKEN, endpoint=address), ConnectionError)
    for message in (down, up):
        assert re.match(r"lab/digits.*the hub cannot be reached.*HF_ENDPOINT", message), message
        assert len(message.splitlines()) == 1


def test_without_the_package_the_error_says_what_to_install(file, monkeypatch):
    find, load = importlib.util.find_spec, builtins.__import__
    monkeypatch.setattr("lth_nb.hub.find_spec", lambda name: None if name == "huggingface_hub" else find(name))
    def refusing(name, *rest):
        if name.partition(".")[0] == "huggingface_hub": raise ModuleNotFoundError(name)
        return load(name, *rest)
    monkeypatch.setattr(builtins, "__import__", refusing)
    for call in (lambda: from_hub("lab/digits"), lambda: push_to_hub(file, "lab/digits")):
        assert "pip install 'lth_nb[hub]'" in said(call, ImportError)
