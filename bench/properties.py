"""Measure properties of a study's targets: training images, classes, and the distance from a source.

    LTH_DATA=FOLDER python bench/properties.py [STUDY] [--out data/results/properties.csv]

The distance is that which networks trained on the source see. A dense network is trained on the source by the study's
recipe for ticket searches. Its features (what the head reads) of the source's and of the target's training images are
described by their mean and covariance. The distance is that of Frechet between the two, as in the Frechet inception
distance (Heusel et al. 2017), with this network in the place of Inception.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.linalg import sqrtm

from lth_nb.batches import Batches
from lth_nb.core import Paths
from lth_nb.data import Dataset
from lth_nb.models import build_model
from lth_nb.recipes import Recipe
from lth_nb.run import load_images
from lth_nb.spec import Study
from lth_nb.studyfile import load_study
from lth_nb.training import train


@torch.no_grad()
def features(net, data: Dataset, recipe: Recipe, at_once: int = 500) -> np.ndarray:
    "What the head of a network reads, (training images, features) float64."
    net.eval()
    batches = Batches(data.train_images, data, recipe)
    parts = torch.arange(len(data.train_images)).split(at_once)
    return torch.cat([net.backbone(batches(index)) for index in parts]).double().numpy()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    "Squared Frechet distance between two samples' normal distributions."
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    mixed = sqrtm(covariances[0] @ covariances[1])
    apart = a.mean(0) - b.mean(0)
    return float(apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * np.real(mixed)))


def measure(study: Study, source: str, seeds: list[int], paths: Paths) -> pd.DataFrame:
    "One row per target and seed."
    shares = {t: b.fractions[0] for b in reversed(study.transfers) for t in b.targets}
    recipe, rows = study.ticket_recipes["base"].training, []
    for seed in seeds:
        data = load_images(study, source, 1.0, paths, seed)
        net = build_model(study.models[0], data.num_classes, data.image_size, data.channels, recipe.init, seed)
        train(net, data, recipe, seed)
        here = features(net, data, recipe)
        for target, share in shares.items():
            images = load_images(study, target, share, paths, seed)
            there = features(net, images, recipe)
            rows.append(dict(study=study.study, model=study.models[0], source=source, target=target, seed=seed,
                images=len(there), classes=images.num_classes,
                distance=round(frechet(here, there), 6)))
            print(seed, target, rows[-1]["distance"], flush=True)
    return pd.DataFrame(rows).sort_values(["target", "seed"], ignore_index=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="?", default="small")
    parser.add_argument("--source", default="cifar10")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    given, paths = parser.parse_args(), Paths()
    table = measure(load_study(given.study, paths), given.source, given.seeds, paths)
    if given.out: table.to_csv(given.out, index=False)
    else: print(table.to_string())
