"""The papers' study files: every setting marked with where it is from, loadable, planned, and really run, two levels of
each big network."""
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, run
from PIL import Image
from sklearn.datasets import load_sample_images

from lth_nb.claims import paper_table
from lth_nb.data import DATASETS
from lth_nb.study import load_study, networks_of, plan, transfer_cells

PAPERS = ("sabatelli", "morcos", "mehta")
FILES = {p: ROOT/"nbs"/"studies"/f"paper-{p}.yaml" for p in PAPERS}


@pytest.mark.parametrize("paper", PAPERS)
def test_every_setting_says_where_it_is_from(paper):
    lines = FILES[paper].read_text().split("\ntransfers:")[0].splitlines()
    settings = [l for l in lines if re.match(r"\s*[\w-]+:\s*[^#\s]", l) and not re.match(r"(study|scale):", l)]
    unmarked = [l for l in settings if not re.search(r"# [PCS?]( |$)", l)]
    assert len(settings) > 20 and not unmarked, unmarked


@pytest.mark.parametrize("paper", PAPERS)
def test_it_is_planned_without_its_data(paper, tmp_path):
    from lth_nb.core import Paths
    study = load_study(f"paper-{paper}")
    table = plan(study, Paths(tmp_path), images_per_second=1000)
    assert table.networks.sum() > 1000 and (table.hours > 0).all() and table.disk_gb.sum() > 1
    assert (
        sum(len(networks_of(study, c)) for c in transfer_cells(study)) == table[table.kind == "transfer"].networks.sum()
    )


def test_the_first_paper_is_followed_to_the_letter():
    table4, study = paper_table("sabatelli_table4").set_index("hyperparameter").value, load_study("paper-sabatelli")
    r, t = study.recipes["base"], study.ticket_recipes["base"]
    assert (study.models, r.init, r.optimizer) == (
        ("resnet50",),
        table4["Weight-Initialization"].lower(),
        table4["Optimizer"].lower(),
    )
    assert [r.batch_size, r.lr, r.momentum, r.weight_decay, r.patience] == [
        float(table4[k])
        for k in ("Size of the mini-batches", "Learning-rate", "Momentum", "Decay-Factor", "Early-Stopping")
    ]
    assert r.milestones == tuple(f"{e}ep" for e in table4["Annealing-epochs"].split()) and (t.rate, t.rewind) == (
        float(table4["Pruning-Rate"]),
        f"{table4['Late-resetting k']}ep",
    )
    assert (t.rounds, len(study.seeds), r.nesterov, r.crop_to, r.input_size(256), r.flip) == (
        31, 4, True, 224, 224, False
    )
    sizes = paper_table("sabatelli_table1").set_index("dataset").train
    assert {
        e.citation.partition("(")[2].partition(")")[0]: e.train_images
        for e in DATASETS.values()
        if "Cytomine" in e.source or "WikiArt" in e.source
    } == sizes.to_dict()


def tiles(folder, count, side):
    "Pieces of the two photographs that ship with scikit-learn, as `split/class/image` files."
    photos = dict(zip(("temple", "flower"), load_sample_images().images))
    draw = np.random.default_rng(0)
    for split, n in (("train", count), ("val", 2), ("test", 2)):
        for name, photo in photos.items():
            (folder/split/name).mkdir(parents=True)
            for i in range(n):
                top, left = (draw.integers(0, have - side) for have in photo.shape[:2])
                Image.fromarray(photo[top:top + side, left:left + side]).save(folder/split/name/f"{i}.png")


def papermill(home, notebook, **parameters):
    words = yaml.safe_dump(parameters)
    run(
        "papermill", "--no-progress-bar", "--cwd", ROOT / "nbs", ROOT / "nbs" / "runs" / f"{notebook}.ipynb",
        home / f"{notebook}.ipynb", "-y", words, home=home
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "paper, model, side, length, pixels",
    [("sabatelli", "resnet50", 256, "3ep", 224), ("morcos", "vgg19", 32, "4ep", 32)],
    ids=["ResNet-50 at 224 pixels", "VGG19 at 32 pixels"],
)
def test_two_levels_really_run(home, paper, model, side, length, pixels):
    """Levels 0 and 1 are found on a handful of real images and level 1 is transferred, by the paper's study file;
    nothing but the number of rounds and the length is narrowed."""
    (home/"data"/"cache").unlink()
    tiles(home/"data"/"raw"/"photo_tiles", 4, side)
    narrowed = {"rounds": 1, "length": length}
    papermill(
        home, "find_tickets", study=f"paper-{paper}", source="photo_tiles", source_fraction=1.0, model=model,
        seeds=[0], changes=narrowed
    )
    papermill(
        home, "transfer", study=f"paper-{paper}", source="photo_tiles", target="photo_tiles", arms=["ticket"],
        levels=[1], seeds=[0], fractions=[0.5], models=[model], changes={"length": "1ep"}, ticket_changes=narrowed
    )
    found, transferred = (
        pd.concat(map(pd.read_csv, (home / "data" / "runs").glob(f"*/{kind}/*[0-9a-f].csv")))
        for kind in ("find_tickets", "transfer")
    )
    assert (
        found.level.tolist() == [0, 1]
        and np.allclose(found.density, [1, 0.8], atol=1e-4)
        and transferred.level.tolist() == [1]
    )
    assert (
        (found.model == model).all()
        and found.test_loss.notna().all()
        and transferred.ticket_hash.tolist() == found.ticket_hash[:1].tolist()
    )
    dense = found.set_index("level").flops[0]
    per_pixel = {"resnet50": 2 * 4.09e9 / 224**2, "vgg19": 2 * 0.398e9 / 32**2}[model]
    assert abs(dense / (per_pixel * pixels**2) - 1) < 0.02, "the network saw images of another size"
