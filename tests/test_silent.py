"Inputs that once gave a plausible, wrong result: now they are seen, or refused in one sentence."
import json
import os
import py_compile
import shutil
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lth_nb.core import Paths
from lth_nb.data import load_dataset
from lth_nb.grid import cell_file, cell_name, ticket_file, transfer_cells
from lth_nb.ledger import merged_info, publish
from lth_nb.models import prunable
from lth_nb.own_files import files_of, run_file
from lth_nb.references import resolve_model, use_torchvision
from lth_nb.results import merge_rows, read_results, read_study_info
from lth_nb.run import run_tickets, run_transfers
from lth_nb.studyfile import load_study
from lth_nb.tickets import TicketRecipe, find_tickets
from lth_nb.training import Recipe

STUDY = """
study: shapes
scale: for tests
image_size: 8
channels: 1
models: MODEL
seeds: [0, 1]
seeds_per_run: 2
recipes: {base: {length: 20it, batch_size: 16, lr: 0.05}}
ticket_recipes: {base: {training: base, rounds: 2, rate: 0.5, rewind: 5it}}
transfers:
  - {sources: own, targets: shapes, arms: ticket, levels: [1, 2]}
"""
NET = """
from torch import nn
from sizes import WIDTH


class Net(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.c, self.width = nn.Conv2d(channels, WIDTH, 3), WIDTH

    def forward(self, x): return (1 * self.c(x)).relu().mean((2, 3))


def build(channels, image_size): return Net(channels), WIDTH
"""


def draw(folder, seed=0, images=30):
    "Bright and dark squares, or others of another seed."
    noise = np.random.default_rng(seed)
    for split, count in (("train", images), ("test", images // 2)):
        for label, name in enumerate(("dark", "light")):
            (folder/split/name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = noise.integers(100 * label, 100 * label + 100, (8, 8)).astype(np.uint8)
                Image.fromarray(pixels).save(folder/split/name/f"{i}.png")


def net_of(folder): return f"net_{folder.name[-12:]}"  # one process takes a file's name for one file


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A study of one's own on images of one's own."
    monkeypatch.setenv("LTH_DATA", str(tmp_path/"raw"))
    monkeypatch.chdir(tmp_path)
    draw(tmp_path/"raw"/"shapes")
    (tmp_path/"sizes.py").write_text("WIDTH = 4\n")
    (tmp_path/f"{net_of(tmp_path)}.py").write_text(NET)
    (tmp_path/"shapes.yaml").write_text(STUDY.replace("MODEL", "lenet_300_100"))
    by_file = STUDY.replace("MODEL", f"{net_of(tmp_path)}.py:build").replace("study: shapes", "study: by_file")
    (tmp_path/"by_file.yaml").write_text(by_file)
    return tmp_path


def transfers(home, file="shapes.yaml", **more):
    given = dict(source="own", target="shapes", arms=["ticket"], levels=[1, 2], paths=Paths(home)) | more
    return run_transfers(str(home/file), **given)


def test_finished_rows_of_other_images_are_made_again(home, capsys):
    scratch = dict(source="", arms=["scratch"], levels=[])
    first = transfers(home, **scratch)
    assert (transfers(home, **scratch).data_hash == first.data_hash).all()
    assert "all rows already exist" in capsys.readouterr().out
    draw(home/"raw"/"shapes", seed=1)
    again = transfers(home, **scratch)
    assert "the images of shapes have changed since" in capsys.readouterr().out
    assert not {*again.data_hash} & {*first.data_hash}


def test_a_finished_table_that_lacks_a_row_is_completed_and_not_published(home, capsys):
    whole = transfers(home)
    study, paths = load_study(str(home/"shapes.yaml"), Paths(home)), Paths(home)
    (cell,) = transfer_cells(study)
    run_tickets(study, "shapes", paths=paths)
    file = cell_file(study, cell, paths)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="it has 3 of the 4 networks of its run; delete it"): publish(study, paths)
    again = transfers(home)
    assert "it has 3 of the 4 networks of its run" in capsys.readouterr().out
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))
    file.write_text(file.read_text().rstrip("\n"))
    with pytest.raises(ValueError, match="its last line has no line break"): merge_rows([file])


@pytest.mark.parametrize("edited", ["forward", "helper"])
def test_an_edited_file_is_another_network(home, edited):
    "Neither rows nor tickets of the network before the edit stand for the one after it."
    before = transfers(home, "by_file.yaml")
    study = load_study(str(home/"by_file.yaml"), Paths(home))
    named = cell_name(study, transfer_cells(study)[0])
    if edited == "helper": (home/"sizes.py").write_text("WIDTH = 6\n")
    else: (home/f"{net_of(home)}.py").write_text(NET.replace("1 * self.c", "0 * self.c"))
    after = transfers(home, "by_file.yaml")
    study = load_study(str(home/"by_file.yaml"), Paths(home))
    assert cell_name(study, transfer_cells(study)[0]) != named
    assert not {*before.ticket_hash} & {*after.ticket_hash}
    if edited == "forward": assert (after.test_accuracy == 0.5).all()


def test_two_folders_have_helpers_of_one_name(home):
    "Each builder gets the module beside it."
    for name, width in (("ha", 4), ("hb", 32)):
        (home/name).mkdir()
        (home/name/"sizes.py").write_text(f"WIDTH = {width}\n")
        (home/name/f"net_{name}.py").write_text(NET)
        row = resolve_model(f"{name}/net_{name}.py:build")
        data, recipe = load_dataset("shapes", image_size=8, channels=1, paths=Paths(home)), Recipe(length="2it")
        found = find_tickets(row, data, TicketRecipe(recipe, rounds=1, rewind="1it"))
        assert found.rewind["backbone.c.weight"].shape[0] == width
    assert "sizes" not in sys.modules


def test_an_edit_within_the_same_second_is_seen(home, monkeypatch):
    "Compiled code is told from the text by its second and its size; a network runs from the text."
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (home/"parts").mkdir()
    (home/"parts"/"__init__.py").write_text("")
    (home/"net_of_parts.py").write_text("from parts.sizes import WIDTH")
    sizes, widths = home/"parts"/"sizes.py", []
    for width in (4, 6):
        sizes.write_text(f"WIDTH = {width}")
        os.utime(sizes, (10**9, 10**9))
        py_compile.compile(str(sizes), doraise=True) if width == 4 else None
        widths.append(run_file(home/"net_of_parts.py").WIDTH)
    assert widths == [4, 6]
    assert [f.name for f in files_of(home/"net_of_parts.py")] == ["net_of_parts.py", "__init__.py", "sizes.py"]


def test_a_session_that_has_imported_the_helper_itself(home, monkeypatch):
    "A notebook beside the file imports the same helper; the network gets the edited text, the notebook keeps its own."
    monkeypatch.syspath_prepend(str(home))
    import sizes  # pyright: ignore[reportMissingImports]
    (home/"sizes.py").write_text("WIDTH = 32\n")
    net = home/f"{net_of(home)}.py"
    assert run_file(net).build(1, 8)[1] == 32 and sizes.WIDTH == 4 and sys.modules["sizes"] is sizes
    assert home/"sizes.py" in files_of(net)
    del sys.modules["sizes"]


def test_libraries_below_the_folder_are_not_the_users_files(home, monkeypatch):
    "A clone has its environment in the same folder; its libraries neither count as edits nor are loaded twice."
    site = home/".venv"/"site-packages"
    (site/"somelib").mkdir(parents=True)
    (site/"somelib"/"__init__.py").write_text("from . import inner")
    (site/"somelib"/"inner.py").write_text("WIDTH = 3")
    (home/"somelib").mkdir()  # a directory of that name, without __init__.py
    monkeypatch.syspath_prepend(str(site))
    (home/"net_of_a_library.py").write_text("import somelib, sizes\nWIDTH = somelib.inner.WIDTH + sizes.WIDTH")
    assert run_file(home/"net_of_a_library.py").WIDTH == 7
    assert [f.name for f in files_of(home/"net_of_a_library.py")] == ["net_of_a_library.py", "sizes.py"]
    assert "somelib.inner" in sys.modules
    for name in ("somelib", "somelib.inner"): del sys.modules[name]


def test_a_builder_that_ends_the_program(home):
    (home/"ends.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(ValueError, match="ends.py: running it failed \\(SystemExit: 3\\)"):
        resolve_model("ends.py:build")


def test_weight_standardization_is_refused_by_a_rule_too(home):
    (home/"ws.py").write_text(
        "import torch.nn.functional as F\nfrom torch import nn\n\n\n"
        "class WSConv(nn.Conv2d):\n    def forward(self, x):\n        w = self.weight\n"
        "        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)\n"
        "        return F.conv2d(x, w, self.bias, self.stride, self.padding)\n\n\n"
        "def build(channels, image_size):\n"
        "    return nn.Sequential(WSConv(channels, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8\n")
    data = load_dataset("shapes", image_size=8, channels=1, paths=Paths(home))
    with pytest.raises(ValueError, match="transforms its weight before use"):
        find_tickets("ws.py:build", data, TicketRecipe(Recipe(length="2it"), rounds=1, rewind="1it"))


def test_standardized_networks_of_a_library_are_refused():
    from lth_nb.models import build_model
    use_torchvision()
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="would not stay zero"):
        prunable(build_model(resolve_model("timm:nf_resnet26"), 10, 64, 3))


@pytest.mark.parametrize("how", ["swapped", "other recipe"])
def test_tickets_in_another_s_place_are_refused(home, how):
    run_tickets(str(home/"shapes.yaml"), "shapes", paths=Paths(home))
    study, paths = load_study(str(home/"shapes.yaml"), Paths(home)), Paths(home)
    from lth_nb.grid import ticket_cells
    one, two = (ticket_file(study, ticket_cells(study)[0], seed, paths) for seed in (0, 1))
    if how == "swapped":
        shutil.copy(one, home/"kept")
        shutil.copy(two, one)
        shutil.copy(home/"kept", two)
    else:
        data = load_dataset("shapes", image_size=8, channels=1, paths=paths)
        other = TicketRecipe(Recipe(length="20it", batch_size=16, lr=0.05), rounds=2, rate=0.1, rewind="5it")
        find_tickets("lenet_300_100", data, other, seed=0, save_to=one)
    words = "seed = 1" if how == "swapped" else "recipe_hash = .*"
    with pytest.raises(ValueError, match=f"{words}: misplaced tickets"): transfers(home)


@pytest.mark.parametrize("name", ["digits", "mnist_5k"])
def test_images_under_the_name_of_a_set_that_comes_with_a_package(home, name):
    draw(home/"raw"/name)
    with pytest.raises(ValueError, match=f"{name} is also a data set from a package"):
        load_dataset(name, paths=Paths(home))


def test_pieces_that_contradict_each_other(home):
    "Sizes, recipes and studies agree, or the pieces are not joined; their seeds are."
    def piece(folder, change=lambda text: text):
        (home/folder).mkdir()
        (home/folder/"shapes.yaml").write_text(change(STUDY.replace("MODEL", "lenet_300_100")))
        study, paths = load_study(str(home/folder/"shapes.yaml"), Paths(home/folder)), Paths(home/folder)
        run_tickets(study, "shapes", paths=paths)
        run_transfers(study, "own", "shapes", ["ticket"], [1, 2], paths=paths)
        return publish(study, paths)

    one = piece("one")
    for folder, old, new, words in (
        ("size", "image_size: 8", "image_size: 16", "image_size = 16, but 8 in"),
        ("recipe", "lr: 0.05", "lr: 0.01", "recipes.base differs from the one in"),
        ("name", "", "", "study = 'other', but 'shapes' in"),
    ):
        other = piece(folder, lambda text, old=old, new=new: text.replace(old, new) if old else text)
        if folder == "name":
            info = json.loads(other.with_suffix(".json").read_text())
            other.with_suffix(".json").write_text(json.dumps(info | {"study": "other"}))
        with pytest.raises(ValueError, match=words): merged_info([one, other])
    more = piece("seeds", lambda text: text.replace("seeds: [0, 1]", "seeds: [2]"))
    assert merged_info([one, more])["seeds"] == [0, 1, 2] and len(merge_rows([one, more])) == 15
    info = json.loads(one.with_suffix(".json").read_text())
    for key, value in (("roles", None), ("ticket_recipes", [])):
        one.with_suffix(".json").write_text(json.dumps(info | {key: value}))
        with pytest.raises(ValueError, match=f"{key} = .*: not a dict"): read_study_info(one)


def test_blanks_around_the_names_of_groups_mean_nothing(home):
    folder = home/"raw"/"patients"
    lines = ["path,group"]
    for label, name in enumerate(("dark", "light")):
        (folder/name).mkdir(parents=True)
        for i in range(40):
            Image.fromarray(np.full((8, 8), 100 * label + i, np.uint8)).save(folder/name/f"{i}.png")
            lines.append(f"{name}/{i}.png,p{i // 2}{' ' * (i % 2)}")
    (folder/"groups.csv").write_text("\n".join(lines) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = load_dataset("patients", image_size=8, channels=1, paths=Paths(home))
    assert sum(len({*ids.tolist()}) for ids in data.groups.values()) == 20


def test_a_table_is_not_overwritten_by_its_description(home):
    from typer.testing import CliRunner

    from lth_nb.cli import app
    transfers(home)
    (file,) = (home/"data"/"runs"/"shapes"/"transfer").glob("*--shapes--??????????.csv")
    done = CliRunner().invoke(app, ["results", "merge", str(file), "-o", str(home/"out.json")])
    assert done.exit_code == 1 and "the name must end in .csv" in done.output
    assert len(read_results(file)) == 4


@pytest.mark.parametrize("settings, words", [
    ("schedule: step", "recipes.base.milestones is empty: `schedule: step` would never lower the rate"),
    ("milestones: [5it]", "recipes.base.milestones = \\['5it'\\]: only `schedule: step` uses them, not cosine"),
    ("warmup: 99it", "recipes.base.warmup = '99it': longer than the training, '20it'"),
])
def test_settings_without_effect_are_said(home, settings, words):
    text = (home/"shapes.yaml").read_text()
    (home/"shapes.yaml").write_text(text.replace("lr: 0.05}", f"lr: 0.05, {settings}}}"))
    with pytest.raises(ValueError, match=words): load_study(str(home/"shapes.yaml"), Paths(home))
