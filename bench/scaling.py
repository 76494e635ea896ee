"What the workflow costs: Snakemake's own time for thousands of jobs, and networks an hour against jobs side by side."


import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import yaml

from lth_nb.core import Paths, processor, write_atomically


@contextmanager
def measured(**what):
    """A line of the table that is filled in when the block ends: seconds, processor seconds of child processes, load
    before, machine, versions."""
    def used():
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    line, before, load, began = dict(what), used(), os.getloadavg()[0], time.perf_counter()
    yield line
    line |= dict(
        seconds=round(time.perf_counter() - began, 1), cpu_seconds=round(used() - before, 1), load=round(load, 1),
        cores=os.cpu_count(), processor=processor(), date=datetime.now(UTC).date().isoformat(),
        torch=version("torch"), snakemake=version("snakemake")
    )


def renew_lines(
    lines: list[dict],
    table: Path | None = None,  # `None`: data/results/scaling.csv
) -> pd.DataFrame:
    "The table with these lines in place of older ones of the same measurement."
    table, new = table or Paths().results/"scaling.csv", pd.DataFrame(lines)
    old = pd.read_csv(table) if table.is_file() else None
    both = pd.concat([old, new], ignore_index=True).drop_duplicates(["measure", "cells", "job", "jobs"], keep="last")
    with write_atomically(table) as f: both.to_csv(f, index=False, lineterminator="\n")
    return both

def study_of(
    cells: int,         # how many transfers, about: rounded down to a multiple of 100 pairs
    job: str = "cell",  # what one job of the workflow is: 'cell' or 'pair'
) -> dict:              # the content of a study file
    "A study of 100 pairs of data sets with as many blocks and seeds as that takes."
    from lth_nb.data import DATASETS
    names = [n for n, d in DATASETS.items() if not d.part_of][:10]
    a_pair = max(1, cells // len(names) ** 2)
    blocks = next(b for b in (10, 5, 3, 2, 1) if a_pair % b == 0)
    grid = dict(
        sources=names, targets=names, arms=["ticket", "reinit", "random", "shuffled", "dense_rewound"],
        levels=list(range(1, 11))
    )
    return dict(
        study=f"empty{cells}{job}", scale="nothing is trained", image_size=32, channels=1, models="lenet_300_100",
        seeds=list(range(a_pair // blocks)), job=job, recipes={"base": dict(length="20it")},
        ticket_recipes={"base": dict(training="base", rounds=10, rewind="5it")},
        transfers=[{**grid, "fractions": (b + 1) / 10} for b in range(blocks)]
    )


EMPTY = (
    "def papermill(notebook, out, *_): return 'touch ' + shlex.quote(out.removesuffix('.ipynb') + '.csv')\n\n"
    "def papermill_that_trains("
)


def _empty_workflow(home: Path, content: dict) -> list[str]:
    "Snakemake's command line for a study whose jobs only touch their output."
    text = (Paths().nbs/"Snakefile").read_text(encoding="utf-8")
    if text.count("def papermill(") != 1:
        raise ValueError("the Snakefile has no single `def papermill(` to put `touch` in place of")
    (home/"Snakefile").write_text(text.replace("def papermill(", EMPTY), encoding="utf-8")
    (home/f"{content['study']}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(home / "Snakefile"), "--configfile",
        str(home / f"{content['study']}.yaml"), "--directory", str(home), "--rerun-triggers", "mtime", "--quiet",
        "rules", "--nocolor", "--jobs", "2", "--until", "pair" if content["job"] == "pair" else "transfer"
    ]

def _run_for(seconds: float, words: list[str], settings: dict) -> float:
    "Run a command for at most so long; the processor seconds that it and its finished children took."
    import psutil
    process, until, times = (
        subprocess.Popen(words, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        time.time() + seconds,
        (0.0,),
    )
    while process.poll() is None and time.time() < until:
        times = psutil.Process(process.pid).cpu_times()[:4]
        time.sleep(0.5)
    process.kill()
    process.wait()
    return round(sum(times), 1)


def time_workflow(
    cells: int,  # transfers of the study
    job: str = "cell",  # 'cell' or 'pair'
    limit: float = 120.0,  # seconds after which the run of empty jobs is stopped; 0: only the graph
) -> list[dict]:  # lines of the table: 'graph', and 'empty jobs' with the jobs that were done and all that there are
    "How long Snakemake takes to build the graph of a study, and to run jobs that do nothing."
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        words = _empty_workflow(Path(folder), study_of(cells, job))
        settings = {**os.environ, "LTH_HOME": folder, "OMP_NUM_THREADS": "1"}
        with measured(measure="graph", cells=cells, job=job, jobs=2) as graph:
            done = subprocess.run([*words, "--dry-run"], env=settings, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Snakemake could not plan {cells} cells: {(done.stderr or done.stdout)[-2000:]}")
        graph["total"] = int(re.search(r"^total\s+(\d+)", done.stdout, re.M)[1])
        if not limit: return [graph]
        with measured(measure="empty jobs", cells=cells, job=job, jobs=2, total=graph["total"]) as run:
            cpu_seconds = _run_for(limit + graph["seconds"], words, settings)
        found = Path(folder).glob(f"data/runs/*/{'pair/*.done' if job == 'pair' else 'transfer/*.csv'}")
        return [
            graph,
            {
                **run,
                "cpu_seconds": cpu_seconds,
                "done": len([*found, *Path(folder).glob("data/runs/*/find_tickets/*.csv")]),
            },
        ]

CELLS_LIKE_QUICK = """
study: jobs
scale: a measurement, no study
image_size: 16
channels: 1
models: lenet_300_100
seeds: [SEEDS]
recipes:
  base: {length: 200it, batch_size: 32, lr: 0.05, schedule: cosine, weight_decay: 1.0e-4}
  base-x2: {like: base, length: 400it}
  base-x5: {like: base, length: 1000it}
ticket_recipes: {base: {training: base, rounds: 9, rate: 0.4, rewind: 40it}}
transfers:
  - {targets: digits, fractions: [0.1, 1.0], arms: scratch, recipes: [base, base-x2, base-x5]}
"""


def networks_per_hour(
    jobs: int,        # runs side by side, from 1
    cells: int = 4,   # runs in all, six networks each
) -> dict:            # a line of the table
    "How many networks this machine trains in an hour with so many jobs, with the start of every run."
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "jobs.yaml").write_text(
            CELLS_LIKE_QUICK.replace("SEEDS", ", ".join(map(str, range(cells)))), encoding="utf-8"
        )
        words = [
            sys.executable, "-m", "lth_nb.cli", "run", f"{folder}/jobs.yaml", "--jobs", str(jobs), "--gpus", "0",
            "--until", "transfer"
        ]
        with measured(measure="networks", cells=cells, job="cell", jobs=jobs, total=6 * cells) as line:
            done = subprocess.run(words, env={**os.environ, "LTH_HOME": folder}, capture_output=True, text=True)
        if done.returncode: raise RuntimeError(f"the study with {jobs} jobs failed: {done.stderr[-2000:]}")
        rows = pd.concat(map(pd.read_csv, Path(folder).glob("data/runs/jobs/transfer/*--??????????.csv")))
    return {**line, "done": len(rows), "training_seconds": round(rows.seconds.sum(), 1)}

def main():
    "python bench/scaling.py: measure, and put the lines into data/results/scaling.csv."
    parser = argparse.ArgumentParser(prog="python bench/scaling.py", description=main.__doc__)
    parser.add_argument(
        "--cells", type=int, nargs="*", default=[], help="time the workflow for so many empty cells, such as 3000 30000"
    )
    parser.add_argument("--job", choices=["cell", "pair"], default="cell", help="what one job of the workflow is")
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds after which a run of empty jobs is stopped; 0: only the graph"
    )
    parser.add_argument(
        "--jobs", type=int, nargs="*", default=[], help="networks an hour with so many jobs, such as 1 2 4"
    )
    asked = parser.parse_args()
    for cells in asked.cells:
        print(renew_lines(time_workflow(cells, asked.job, asked.limit)).tail(2).to_string(index=False))
    for jobs in asked.jobs: print(renew_lines([networks_per_hour(jobs)]).tail(1).to_string(index=False))


if __name__ == "__main__" and "__file__" in globals(): main()
