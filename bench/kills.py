"""Kill a search for tickets and the transfers that follow it at random moments, and count what survives.

After each SIGKILL no half-written file may be taken for a whole one. Whatever was killed is then run again, and in the
end tickets and rows must be those of a run that nothing disturbed, bit for bit. `python bench/kills.py` writes
data/results/kills.json.
"""
import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from lth_nb.core import Paths, digest, provenance, write_atomically
from lth_nb.results import read_results
from lth_nb.study import load_study, run_transfers
from lth_nb.ticket_values import tensors_of
from lth_nb.tickets import load_tickets

STUDY = """
study: kills
scale: two seeds of a very short study, to be killed
image_size: 8
channels: 1
models: lenet_300_100
seeds: [0, 1]
recipes:
  base: {length: 30it, batch_size: 32}
ticket_recipes:
  base: {training: base, rounds: 4, rate: 0.5, rewind: 5it}
transfers:
  - {sources: own, targets: digits, fractions: 0.5, arms: [ticket, reinit], levels: [1, 2, 3, 4]}
"""
VARIES = ["seconds", "device", "torch", "commit"]  # columns of a row that say how and where it was made


def new_home(folder: Path, cache: Path) -> Path:
    "Make a project folder with the study in it, which shares parsed data sets."
    (folder/"data").mkdir(parents=True)
    (folder/"data"/"cache").symlink_to(cache)
    (folder/"kills.yaml").write_text(STUDY)
    return folder


def work(home: Path) -> None:
    "Find tickets of both seeds and transfer them."
    paths = Paths(home)
    study = load_study(str(home/"kills.yaml"), paths)
    run_transfers(study, "own", "digits", ("ticket", "reinit"), (1, 2, 3, 4), fractions=(0.5,), paths=paths)


def start(home: Path) -> int:
    "Begin the work in a process of its own; return its number."
    sys.stdout.flush()
    if child := os.fork(): return child
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        work(home)
        os._exit(0)
    except BaseException: os._exit(1)


def finish(home: Path) -> None:
    "Do the work to its end."
    _, status = os.waitpid(start(home), 0)
    if status: raise RuntimeError(f"{home}: the work ended with status {status}")


def killed(home: Path, after: float, in_writing: bool) -> bool:
    "Begin the work and kill it after so many seconds, or when it then writes a file; false if it was done by then."
    child, until, status, ended = start(home), time.perf_counter() + after, 0, 0
    time.sleep(after)
    while in_writing and not ended and time.perf_counter() < until + 5 and not [*home.rglob(".*.part")]:
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if status and not os.WIFSIGNALED(status): raise RuntimeError(f"{home}: the work ended with status {status}")
    return os.WIFSIGNALED(status)


class Found:
    "What there is in a project folder: tickets, rounds of unfinished searches, rows."
    def __init__(self, home: Path):
        place = home/"data"/"tickets"
        self.tickets = {str(f.relative_to(place)): load_tickets(f) for f in place.rglob("*.safetensors")}
        self.partial = {str(f.relative_to(place)): load_tickets(f) for f in place.rglob("*.partial")}
        runs = [*(home/"data"/"runs").rglob("*.csv")]
        self.tables = {f.name: self._rows(f) for f in runs if not f.name.endswith(".rows.csv")}
        self.journals = {f.name: self._rows(f) for f in runs if f.name.endswith(".rows.csv")}

    def _rows(self, file: Path) -> list:
        rows = read_results(file).drop(columns=VARIES)
        return [tuple(str(v) for v in row) for row in rows.itertuples(index=False)]

    def identity(self) -> str:
        "Return a hash of tickets and tables, times and places aside."
        return digest([{name: described(t) for name, t in self.tickets.items()}, self.tables])


def described(tickets) -> list:
    "Return what must be the same of tickets that were found twice."
    levels = [{k: v for k, v in line.items() if k != "seconds"} for line in tickets.header["levels"]]
    header = {k: v for k, v in tickets.header.items() if k not in ("levels", "provenance")}
    return [header, levels, tensors_of(tickets)]


def faults(home: Path, whole: Found) -> list[str]:
    "Say what in a folder is not a part of what an undisturbed run leaves."
    try: found = Found(home)
    except Exception as e: return [f"something cannot be read: {type(e).__name__}: {e}"]
    other = [n for n, t in found.tickets.items() if digest(described(t)) != whole.known[n]]
    wrong = [f"{n} is not what it should be" for n in other]
    for name, tickets in found.partial.items():
        levels, ours = described(tickets)[1], tensors_of(tickets)
        theirs = whole.tickets[name.removesuffix(".partial")]
        if levels != described(theirs)[1][:len(levels)]: wrong.append(f"{name} has other levels")
        kept = {n: v for n, v in tensors_of(theirs).items() if not n.startswith("pruned_at")}
        wrong += [f"{name}: {n} differs" for n, v in ours.items() if n in kept and not torch.equal(v, kept[n])]
    every = {row for rows in whole.tables.values() for row in rows}
    for name, rows in found.journals.items():
        if not every.issuperset(rows): wrong.append(f"{name} has a row that it should not have")
    wrong += [f"{n} is not what it should be" for n, rows in found.tables.items() if rows != whole.tables[n]]
    return wrong


def place_of_death(home: Path) -> str:
    "Say what was going on in a folder when its process was killed: start, search or transfer."
    files = {f.suffix for f in (home/"data"/"tickets").rglob("seed*")}
    if not files & {".partial", ".safetensors"}: return "start"
    return "search" if ".partial" in files or not list(home.rglob("*.rows.csv")) else "transfer"


def kill_many(
    count: int,     # kills
    seed: int = 0,  # decides the moments
) -> dict:          # kills, where they struck, what survived
    "Kill the work at random moments, each time look at what is left, and let every folder be finished in the end."
    r, began, failures = random.Random(seed), time.perf_counter(), []
    struck, survived, finished, identical, torn = dict(search=0, transfer=0, start=0), 0, 0, 0, 0
    cache = Paths().data/"cache"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        whole_home, times = new_home(Path(folder)/"whole", cache), []
        finish(whole_home)  # also fills the cache of data sets
        for i in range(2):
            time_began = time.perf_counter()
            finish(new_home(Path(folder)/f"timed{i}", cache))
            times.append(time.perf_counter() - time_began)
        whole = Found(whole_home)
        whole.known = {n: digest(described(t)) for n, t in whole.tickets.items()}
        while sum(struck.values()) < count:
            home = new_home(Path(folder)/f"home{finished}", cache)
            for _ in range(r.randrange(1, 6)):
                for f in home.rglob(".*.part"): f.unlink()
                if sum(struck.values()) == count or not killed(home, r.uniform(0, max(times)), r.random() < 0.4): break
                torn += len([*home.rglob(".*.part")])
                struck[place_of_death(home)] += 1
                wrong = faults(home, whole)
                survived += not wrong
                failures += [f"kill {sum(struck.values())}: {fault}" for fault in wrong]
            finish(home)
            finished += 1
            now = Found(home)
            identical += now.identity() == whole.identity()
            if now.identity() != whole.identity(): failures.append(f"home {finished}: another result than undisturbed")
    return dict(
        kills=count, survived=survived, seed=seed, while_searching=struck["search"],
        while_transferring=struck["transfer"], before_the_first_file=struck["start"], runs_finished=finished,
        runs_bit_identical=identical, half_written_files=torn, taken_for_whole=len(failures),
        seconds=round(time.perf_counter() - began, 1), first_failures=failures[:20]
    )


def main():
    "Run from the command line."
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--kills", type=int, default=50, help="how many")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--out", type=Path, default=Paths().results/"kills.json")
    chosen = words.parse_args()
    torch.set_num_threads(1)
    found, made = kill_many(chosen.kills, chosen.seed), provenance()
    found["made_with"] = {k: made[k] for k in ("python", "torch", "machine")} | {"date": made["time"][:10]}
    with write_atomically(chosen.out) as f: f.write(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["first_failures"]))


if __name__ == "__main__": main()
