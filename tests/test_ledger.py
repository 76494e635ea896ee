"What counts as done: images that change, sets that every seed draws anew, and published tables that come back."
import shutil
import tempfile
from functools import partial

import numpy as np
import torch
import yaml
from fastcore.test import test_eq as equal
from fastcore.test import test_fail as fails

from lth_nb.core import Paths
from lth_nb.data import load_dataset
from lth_nb.freshness import check_data, reopen, stale_files, status
from lth_nb.grid import cell_file, cell_name, ticket_cells, ticket_file, transfer_cells
from lth_nb.jobs import job_of, run_job
from lth_nb.ledger import publish, restore, study_info
from lth_nb.results import read_results, read_study_info
from lth_nb.run import run_cell, run_tickets, run_transfers
from lth_nb.studyfile import EXAMPLE, parse_study


def broken(text, by): return lambda: parse_study(yaml.safe_load(EXAMPLE.replace(text, by)), "example.yaml")


def test_images_that_changed_are_noticed(tmp_path):
    paths = Paths(tmp_path)
    def save_tiles(high):
        "Sixty random pictures up to this gray, in three classes."
        draw, labels = torch.Generator().manual_seed(0), torch.arange(60) % 3
        images = torch.randint(high, (60, 8, 8), dtype=torch.uint8, generator=draw)
        paths.raw.mkdir(parents=True, exist_ok=True)
        np.savez(
            paths.raw / "tiles.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels
        )
    save_tiles(200)
    content = {
        **yaml.safe_load(EXAMPLE),
        "roles": {},
        "seeds": [0],
        "transfers": [
            dict(sources="tiles", targets="digits", fractions=0.1, arms="ticket", levels=1),
            dict(targets="digits", fractions=0.1, arms="scratch"),
        ],
    }
    tiles = parse_study(content, "example.yaml", paths)
    for cell in transfer_cells(tiles): run_cell(tiles, cell, paths)
    check_data(tiles, paths)
    equal(stale_files(tiles, paths), {})
    for cell in ticket_cells(tiles):
        run_tickets(tiles, cell.source, cell.source_fraction, seeds=cell.seeds, paths=paths)
    equal(
        {
            k: v
            for k, v in read_study_info(publish(tiles, paths)).items()
            if k in ("runs", "runs_missing", "train_images")
        },
        dict(runs=3, runs_missing=0, train_images=dict(digits={"0.1": 108})),
    )
    table = cell_file(tiles, ticket_cells(tiles)[0], paths)
    kept = table.read_bytes()
    table.unlink()  # as if the search had been stopped after its tickets were written
    equal(
        status(tiles, paths).query("kind == 'find_tickets'")[["networks", "rows", "done"]].values.tolist(),
        [[5, 5, False]],
    )
    table.write_bytes(kept)
    save_tiles(100)
    equal(
        set(status(tiles, paths)[["done", "changed"]].itertuples(index=False, name=None)), {(True, "tiles"), (True, "")}
    )
    for refused in (check_data, publish):
        said = "study example: tiles: the images have changed since 2 finished runs and 1 ticket files were made"
        fails(partial(refused, tiles, paths), contains=said)
    for file in stale_files(tiles, paths): file.unlink()
    check_data(tiles, paths)


def test_every_seed_cuts_a_set_anew():
    cut_anew = parse_study(
        {
            **yaml.safe_load(EXAMPLE), "resplit": "digits", "seeds": [0, 1], "roles": {},
            "transfers": [dict(sources="own", targets="digits", fractions=0.1, arms=["scratch", "ticket"], levels=4)]
        },
        "example.yaml",
    )
    with tempfile.TemporaryDirectory() as folder:
        for cell in ticket_cells(cut_anew):
            run_tickets(cut_anew, cell.source, cell.source_fraction, seeds=cell.seeds, paths=Paths(folder))
        for cell in transfer_cells(cut_anew): run_cell(cut_anew, cell, Paths(folder))
        cut_rows = read_results(publish(cut_anew, Paths(folder)))
        equal(stale_files(cut_anew, Paths(folder)), {})
    equal(cut_rows.groupby("seed").data_hash.nunique().tolist(), [1, 1])
    equal(cut_rows.data_hash.nunique(), 2)
    equal(study_info(cut_anew)["resplit"], ["digits"])
    assert ticket_file(cut_anew, ticket_cells(cut_anew)[0], 0, Paths("home")) != ticket_file(
        parse_study({**cut_anew.model_dump(exclude={"file", "resplit"})}, "example.yaml"), ticket_cells(cut_anew)[0], 0,
        Paths("home")
    )
    warned = parse_study({**cut_anew.model_dump(exclude={"file"}), "cautions": {"digits": "tiny"}}, "example.yaml")
    equal(study_info(warned)["cautions"], {"digits": "tiny"})
    fails(
        broken("channels: 1", "channels: 1\ncautions: {mnists: tiny}"), contains="cautions = 'mnists': unknown data set"
    )
    fails(broken("channels: 1", "channels: 1\nresplit: mnists"), contains="resplit = 'mnists': unknown data set, ")
    with tempfile.TemporaryDirectory() as folder:  # a run of one pair of it keeps the setting, whatever the pair is
        paths = Paths(folder)
        equal(len(run_transfers(cut_anew, "", "mnist_5k", ["scratch"], seeds=[0], fractions=[0.02], paths=paths)), 1)


def test_every_seed_draws_its_own_training_images():
    cut_anew = parse_study({**yaml.safe_load(EXAMPLE), "seeds": [0, 1], "roles": {}}, "example.yaml")
    redrawn = parse_study({**cut_anew.model_dump(exclude={"file", "resplit"}), "redraw": ["digits"], "transfers": [
        dict(targets="digits", arms="scratch", fractions=[0.1, 1.0])]}, "example.yaml")
    equal(redrawn.data_of("digits", 1, 0.1)["split_seed"], 1)
    assert "split_seed" not in redrawn.data_of("digits", 1), "a set taken whole is the same for every seed"
    first, second = (load_dataset("digits", fraction=0.1, **redrawn.data_of("digits", s, 0.1)) for s in (0, 1))
    assert first.content_hash != second.content_hash
    once = parse_study({**redrawn.model_dump(exclude={"file", "redraw"})}, "example.yaml")
    assert cell_name(once, transfer_cells(once)[0]) != cell_name(redrawn, transfer_cells(redrawn)[0])
    fails(broken("channels: 1", "channels: 1\nredraw: mnists"), contains="redraw = 'mnists': unknown data set")
    kept_together = parse_study({**once.model_dump(exclude={"file"}), "grouped": ["digits"]}, "example.yaml")
    equal(kept_together.data_of("digits", 1)["groups"], "near-duplicates")
    equal(kept_together.counted_as("digits"), dict(resplit=False, groups="near-duplicates"))
    assert cell_name(once, transfer_cells(once)[0]) != cell_name(kept_together, transfer_cells(kept_together)[0])
    equal(study_info(kept_together)["grouped"], ["digits"])


def test_a_published_table_comes_back(tmp_path):
    paths, there = (
        Paths(tmp_path),
        parse_study(
            {**yaml.safe_load(EXAMPLE), "seeds": [0], "transfers": yaml.safe_load(EXAMPLE)["transfers"][:1]},
            "example.yaml",
        ),
    )
    run_transfers(
        there, "own", "digits", ["ticket", "reinit", "mask_only", "scratch"], levels=[2, 4], seeds=[0], fractions=0.1,
        paths=paths
    )
    for cell in ticket_cells(there)[1:]: run_tickets(there, cell.source, cell.source_fraction, paths=paths)
    for cell in transfer_cells(there): run_cell(there, cell, paths)
    for cell in ticket_cells(there): run_tickets(there, cell.source, cell.source_fraction, paths=paths)
    rows = len(read_results(publish(there, paths)))
    shutil.rmtree(paths.runs)
    equal(restore(there, paths), rows)
    equal(status(there, paths).done.all(), True)
    shutil.rmtree(paths.runs)
    longer = parse_study(
        {
            **yaml.safe_load(EXAMPLE.replace("length: 60it", "length: 61it")),
            "seeds": [0],
            "transfers": yaml.safe_load(EXAMPLE)["transfers"][:1],
        },
        "example.yaml",
    )
    equal(restore(longer, paths), 0)  # another recipe: nothing counts
    for field, value in (
        ("rate", 0.5), ("rewind", "0it"), ("one_shot", True), ("scope", "layerwise")
    ):  # other tickets: only scratch counts
        ticket_recipes = {"base": {"training": "base", "rounds": 4, "rate": 0.6, "rewind": "10it", field: value}}
        other = parse_study(
            {
                **yaml.safe_load(EXAMPLE), "seeds": [0], "transfers": yaml.safe_load(EXAMPLE)["transfers"][:1],
                "ticket_recipes": ticket_recipes
            },
            "example.yaml",
        )
        equal(restore(other, paths), 1)
        shutil.rmtree(paths.runs)
    bigger = parse_study(
        {
            **yaml.safe_load(EXAMPLE.replace("image_size: 8", "image_size: 12")),
            "transfers": yaml.safe_load(EXAMPLE)["transfers"][:1],
        },
        "example.yaml",
    )
    fails(lambda: restore(bigger, paths), contains="a different image_size")
    more = parse_study(
        {
            **yaml.safe_load(EXAMPLE.replace("levels: [2, 4]", "levels: [1, 2, 4]")),
            "seeds": [0],
            "transfers": [{**yaml.safe_load(EXAMPLE)["transfers"][0], "levels": [1, 2, 4]}],
        },
        "example.yaml",
    )
    restore(more, paths)
    print(status(more, paths).to_string(index=False))


def test_a_table_that_lacks_rows_is_not_done(tmp_path):
    paths, scratch = Paths(tmp_path), dict(targets="digits", fractions=0.1, arms="scratch")
    own = dict(sources="own", targets="digits", fractions=0.1, arms="ticket", levels=[1])
    study = parse_study({**yaml.safe_load(EXAMPLE), "seeds": [0, 1], "transfers": [scratch, own]}, "example.yaml")
    cells = [*ticket_cells(study), *transfer_cells(study)]
    run_job(study, job_of(ticket_cells(study)), paths)
    for cell in transfer_cells(study): run_cell(study, cell, paths)
    equal(reopen(study, paths), [])
    files = [cell_file(study, c, paths) for c in cells]
    before = [f.read_bytes() for f in files]
    for f in files: f.write_text("\n".join(f.read_text().splitlines()[:-1]) + "\n")
    found = status(study, paths)
    assert not found.done.any() and (found.rows == found.networks - 1).all()
    said = reopen(study, paths)
    assert len(said) == len(files) and "networks of its run; the others are trained" in said[0]
    assert not any(f.is_file() for f in files)
    run_job(study, job_of(ticket_cells(study)), paths)
    for cell in transfer_cells(study): run_cell(study, cell, paths)
    after = [f.read_text().splitlines() for f in files]
    assert [sorted(l.split(",")[:12] for l in t) for t in after] == [
        sorted(l.split(",")[:12] for l in b.decode().splitlines()) for b in before]
