"""Measure what networks cost to run: those at every level of a study's tickets, and its dense networks of every width.

    python bench/ticket_cost.py [STUDY] [--out data/results/ticket_cost.csv]

Every network is exported to ONNX without its useless channels, and run by onnxruntime on one thread. Layers are not
padded to a multiple of eight channels, because those of narrower networks are not padded either. The networks of one
target and seed are timed in turn. The table is then written, and an interrupted run resumes where it left off. Zeros
that remain in a file save neither time nor bytes, but they compress: the table also has the file's size after gzip.
"""
import argparse
import gzip
from pathlib import Path

import pandas as pd
import torch

from lth_nb.compact import compact, footprint, trained_network
from lth_nb.core import Paths
from lth_nb.export import load_onnx, onnx_bytes
from lth_nb.grid import ticket_cells, ticket_file, transfer_cells
from lth_nb.latency import measure_latency, write_latency
from lth_nb.models import Network, build_model
from lth_nb.spec import Study
from lth_nb.studyfile import load_study
from lth_nb.tickets import load_tickets

BATCHES = 1, 64  # images at a time


def networks_on(study: Study, target: str, seed: int, paths: Paths) -> dict[tuple, Network]:
    "The networks to run, by model, ticket recipe ('' if dense) and level."
    found, classes = {}, 0
    for cell in ticket_cells(study):
        if cell.source != target or seed not in cell.seeds: continue
        tickets = load_tickets(ticket_file(study, cell, seed, paths))
        classes = tickets.header["num_classes"]
        for level in range(1, len(tickets)):
            found[cell.model, cell.ticket_recipe, level] = compact(trained_network(tickets, level), tickets[level])
    blocks = [b for b in transfer_cells(study) if target in b.targets and "scratch" in b.arms]
    dense = {model for b in blocks for model in b.models or study.models}
    for model in sorted(dense):
        found[model, "", 0] = build_model(model, classes, study.image_size, study.channels, seed=seed).eval()
    return found


def measure(study: Study, target: str, seed: int, paths: Paths, rounds: int) -> list[dict]:
    "One row per network and batch size."
    networks, rows = networks_on(study, target, seed, paths), []
    files = {key: onnx_bytes(net, study.image_size, study.channels) for key, net in networks.items()}
    costs = {key: footprint(net, study.image_size, study.channels) for key, net in networks.items()}
    ways = {key: load_onnx(content) for key, content in files.items()}
    for batch in BATCHES:
        images = torch.randn(batch, study.channels, study.image_size, study.image_size)
        times = measure_latency(ways, images, rounds)
        for key in networks:
            model, recipe, level = key
            rows.append(dict(study=study.study, target=target, seed=seed, model=model, ticket_recipe=recipe,
                level=level, **costs[key], bytes=len(files[key]), gzip_bytes=len(gzip.compress(files[key], mtime=0)),
                batch=batch, ms=times[key].median(), low=times[key].quantile(0.25), high=times[key].quantile(0.75)))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="?", default="cost")
    parser.add_argument("--rounds", type=int, default=20, help="in forward and reverse order, per network")
    parser.add_argument("--out", type=Path, help="the CSV file; without it the table is printed")
    given, paths = parser.parse_args(), Paths()
    study = load_study(given.study, paths)
    table = pd.read_csv(given.out, keep_default_na=False) if given.out and given.out.is_file() else pd.DataFrame()
    done = {*zip(table["study"], table["target"], table["seed"])} if len(table) else set()
    for target in dict.fromkeys(t for block in study.transfers for t in block.targets):
        for seed in study.seeds:
            if (study.study, target, seed) in done: continue
            table = pd.concat([table, pd.DataFrame(measure(study, target, seed, paths, given.rounds))])
            if given.out: table = pd.read_csv(write_latency(table, given.out), keep_default_na=False)
            print(target, seed, flush=True)
    if not given.out: print(table.to_string())
