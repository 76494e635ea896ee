"""Measure how well copies are found in a data set whose images were augmented before it was published.

    LTH_DATA=FOLDER python bench/near_duplicates.py [white_blood_cells] [--out data/results/near_duplicates.json]

The method sees no labels, so how often copies share a class says how often it is right.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from lth_nb.data import SPLITS, count_shared_groups, load_dataset


def measure(name: str) -> dict:
    "Counts of groups, how pure they are, and how many lie in two splits before and after a new cut."
    began = time.perf_counter()
    found, anew = (load_dataset(name, 64, 3, resplit=again, groups="near-duplicates") for again in (False, True))
    groups, labels = (torch.cat([part[s] for s in SPLITS]).numpy() for part in
                      (found.groups, {s: found.split(s)[1] for s in SPLITS}))
    sizes, classes = np.bincount(groups), range(found.num_classes)
    tally = np.stack([np.bincount(groups[labels == c], minlength=len(sizes)) for c in classes])
    of_class = {found.class_names[c]: int((tally.argmax(0) == c).sum()) for c in classes}
    return dict(
        data_set=name, images=len(groups), groups=len(sizes), largest=int(sizes.max()), single=int((sizes == 1).sum()),
        groups_of_class=of_class, in_own_class=round(float(tally.max(0).sum() / len(groups)), 4),
        shared_as_published=count_shared_groups(found), shared_after_resplit=count_shared_groups(anew),
        resplit_images={s: len(anew.split(s)[1]) for s in SPLITS}, seconds=round(time.perf_counter() - began, 1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", default="white_blood_cells")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    report = json.dumps(measure(given.name), indent=1)
    if given.out: given.out.write_text(report + "\n")
    print(report)
