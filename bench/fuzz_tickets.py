"""Change ticket files at random, many times, and count what loading them says.

Every changed file must either be refused with one `ValueError` that names it, or load as what it was before. Many
changes are made with a valid checksum: they are what a checksum cannot see. `python bench/fuzz_tickets.py` writes
data/results/fuzz_tickets.json.
"""
import argparse
import json
import random
import resource
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch

from lth_nb.core import Paths, digest, provenance, write_atomically
from lth_nb.data import load_dataset
from lth_nb.models import MODELS, Architecture, lenet, plain
from lth_nb.tickets import NEVER, TicketRecipe, find_tickets, load_tickets
from lth_nb.training import Recipe

CHECKED = ("format", "model", "num_classes", "image_size", "channels", "init", "recipe", "recipe_hash", "keep_final")
PLAUSIBLE = ("source", "data_hash", "seed", "train_images", "provenance", "architecture")  # nothing contradicts these
MEASURED = ("val_accuracy", "test_accuracy", "val_loss", "test_loss", "best_epoch", "epochs", "steps", "seconds")
GARBAGE = (None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 1.5, 10**6, 10**12, 2**63, 10**30, 1e308, "", "8", "nan",
    "lenet_3", "\x00", "x" * 10_000, "\ud800", [], [1], {}, {"a": 1}, float("nan"), float("inf"), -float("inf"))
DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
KINDS = {}  # name -> function (original, random generator) -> bytes, or (bytes, True) if another file may come of it


class Original:
    "A ticket file as bytes, and as header and tensors."
    def __init__(self, path: Path):
        self.content, tickets = path.read_bytes(), load_tickets(path)
        self.header = tickets.header
        self.tensors = tensors_by_name(tickets)
        self.identity = identity(tickets)

    def copy(self) -> tuple[dict, dict]:
        "Return header and tensors to be changed; a tensor is to be replaced, not written into."
        return json.loads(json.dumps(self.header)), dict(self.tensors)


def tensors_by_name(tickets) -> dict[str, torch.Tensor]:
    "Return every tensor under its name in a file."
    parts = {"pruned_at": tickets.pruned_at, "initial": tickets.initial, "rewind": tickets.rewind}
    parts |= {f"final/{level}": state for level, state in tickets.final.items()}
    return {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}


def identity(tickets) -> str:
    "Return a hash of everything that loading compares with something else."
    levels = [[line["level"], float(line["density"]), line["dead_layers"]] for line in tickets.header["levels"]]
    return digest([{k: tickets.header[k] for k in CHECKED}, levels, tensors_by_name(tickets)])


def sealed(header, tensors: dict, text: str | None = None) -> bytes:
    "Return a file with a valid checksum, whatever is in it."
    text = json.dumps(header, sort_keys=True) if text is None else text
    try: read = json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError): read = text
    try: checksum = digest([read, tensors])
    except TypeError: checksum = "0" * 64  # bfloat16 has no digest
    table, parts, end = {"__metadata__": {"lth_nb": text, "sha256": checksum}}, [], 0
    for name, v in tensors.items():
        parts.append(v.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if v.numel() else b"")
        table[name] = dict(dtype=DTYPES[v.dtype], shape=list(v.shape), data_offsets=[end, end := end + len(parts[-1])])
    start = json.dumps(table).encode()
    return b"".join([len(start).to_bytes(8, "little"), start, *parts])


def kind(function):
    "Register a way to change a file under its name."
    KINDS[function.__name__] = function
    return function


# ---- changes of bytes, which a checksum can see

@kind
def flip_bits(o: Original, r: random.Random):
    content = bytearray(o.content)
    for _ in range(r.choice((1, 1, 1, 2, 8))): content[r.randrange(len(content))] ^= 1 << r.randrange(8)
    return bytes(content)


@kind
def flip_bits_of_header(o: Original, r: random.Random):
    content, end = bytearray(o.content), 8 + int.from_bytes(o.content[:8], "little")
    for _ in range(r.choice((1, 1, 2))): content[r.randrange(end)] ^= 1 << r.randrange(8)
    return bytes(content)


@kind
def set_bytes(o: Original, r: random.Random):
    content, at = bytearray(o.content), r.randrange(len(o.content))
    for i in range(at, min(len(content), at + r.choice((1, 2, 16, 256)))):
        content[i] = r.choice((0, 255, r.randrange(256)))
    return bytes(content)


@kind
def truncate(o: Original, r: random.Random):
    return o.content[:r.choice((0, 1, 7, 8, 9, r.randrange(len(o.content)), len(o.content) - 1))]


@kind
def lengthen(o: Original, r: random.Random):
    return o.content + r.choice((b"\0", b" ", o.content, r.randbytes(r.randrange(1, 2000))))


@kind
def cut_out(o: Original, r: random.Random):
    a, b = sorted((r.randrange(len(o.content)), r.randrange(len(o.content))))
    return o.content[:a] + o.content[b + 1:]


@kind
def insert_bytes(o: Original, r: random.Random):
    at = r.randrange(len(o.content))
    return o.content[:at] + r.randbytes(r.choice((1, 2, 8, 100))) + o.content[at:]


@kind
def set_length(o: Original, r: random.Random):
    was = int.from_bytes(o.content[:8], "little")
    length = r.choice((0, 1, 2, was - 1, was + 1, was + 8, 2**31, 2**32, 10**8, 2**63, 2**64 - 1, r.randrange(2**64)))
    return length.to_bytes(8, "little") + o.content[8:]


@kind
def edit_table(o: Original, r: random.Random):
    end = 8 + int.from_bytes(o.content[:8], "little")
    table = json.loads(o.content[8:end])
    name = r.choice([n for n in table if n != "__metadata__"])
    what = r.choice(("dtype", "shape", "data_offsets", "drop", "rename", "garbage", "metadata"))
    if what == "drop": del table[name]
    elif what == "rename":
        table[r.choice(("", "pruned_at", "final/x/y", "final/0", "a/b/c", name + "x"))] = table.pop(name)
    elif what == "garbage": table[name] = r.choice(GARBAGE)
    elif what == "metadata":
        table["__metadata__"] = r.choice((None, {}, [], {"lth_nb": 1}, {"lth_nb": "{}"}, {"sha256": ""}))
    elif what == "dtype": table[name]["dtype"] = r.choice((*DTYPES.values(), "F8_E5M2", "", None, 3))
    else:
        values, new = table[name][what], (0, -1, 1, 2**40, 2**70, 0.5, True, "1", None, r.randrange(10_000))
        if not values or r.random() < 0.2: values.append(r.choice(new))
        else: values[r.randrange(len(values))] = r.choice(new)
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + o.content[end:]


@kind
def splice(o: Original, r: random.Random):
    other = r.choice(ORIGINALS).content
    a, b = r.randrange(len(o.content)), r.randrange(len(other))
    if r.random() < 0.5: b = min(a, len(other) - 1)
    return o.content[:a] + other[b:]


@kind
def splice_data(o: Original, r: random.Random):
    "The tensors of one file under the header of another."
    other = r.choice(ORIGINALS).content
    at, theirs = (8 + int.from_bytes(c[:8], "little") for c in (o.content, other))
    return o.content[:at] + other[theirs:]


# ---- changes with a valid checksum: the header

def places_of(value, path=()):
    "Yield the path of every value within a JSON value."
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places_of(inner, (*path, key))


def put(value, path, new):
    "Replace what is at a path of a JSON value."
    for key in path[:-1]: value = value[key]
    value[path[-1]] = new


def at(value, path):
    "Return what is at a path of a JSON value."
    for key in path: value = value[key]
    return value


def may_differ(header, path) -> bool:
    "Whether another value at this path of a header is as plausible as the old one."
    if path == ("image_size",): return header["model"] == "fuzz_cnn"  # which takes images of many sizes
    return path[0] in PLAUSIBLE or path[0] == "levels" and path[-1] in MEASURED


@kind
def header_value(o: Original, r: random.Random):
    header, tensors = o.copy()
    path = r.choice([*places_of(header)])
    put(header, path, r.choice(GARBAGE))
    return sealed(header, tensors), may_differ(header, path)


@kind
def header_number(o: Original, r: random.Random):
    header, tensors = o.copy()
    path = r.choice([p for p in places_of(header) if type(at(header, p)) in (int, float)])
    old = at(header, path)
    new = (old + 1, old - 1, -old, old * 2, old / 2, old * 1e-3, int(old), float(old), str(old), old + 1e-9)
    put(header, path, r.choice(new))
    return sealed(header, tensors), may_differ(header, path)


@kind
def header_missing(o: Original, r: random.Random):
    header, tensors = o.copy()
    path = r.choice([p for p in places_of(header) if isinstance(p[-1], str)])
    del at(header, path[:-1])[path[-1]]
    return sealed(header, tensors), path[0] in ("provenance", "architecture")


@kind
def header_more(o: Original, r: random.Random):
    header, tensors = o.copy()
    path = r.choice([(), *(p for p in places_of(header) if isinstance(at(header, p), dict))])
    at(header, path)[r.choice(("more", "arm", "__class__", "", "self"))] = r.choice(GARBAGE)
    return sealed(header, tensors), path in ((), ("provenance",))


@kind
def absurd_size(o: Original, r: random.Random):
    header, tensors = o.copy()
    key = r.choice(("image_size", "num_classes", "channels"))
    sizes = (0, 1, -8, 4097, 10**5, 10**6, 10**9, 2**31, 2**63, 10**100, 10**4000, 8.0, "8", None, True)
    header[key] = r.choice(sizes if key == "image_size" else [s for s in sizes if s != o.header[key]])
    return sealed(header, tensors)


@kind
def unknown_model(o: Original, r: random.Random):
    header, tensors = o.copy()
    others = [m for m in MODELS if m != header["model"]]
    header["model"] = r.choice((*others, "lenet", "LENET_300_100", "../x", "x\ny", "mine", " " + header["model"]))
    if r.random() < 0.5: header.pop("architecture", None)
    return sealed(header, tensors)


@kind
def change_levels(o: Original, r: random.Random):
    header, tensors = o.copy()
    levels = header["levels"]
    how = r.choice(("drop", "twice", "swap", "renumber", "empty", "more"))
    if how == "drop": del levels[r.randrange(len(levels))]
    elif how == "twice": levels.insert(r.randrange(len(levels)), dict(r.choice(levels)))
    elif how == "swap": levels[0], levels[-1] = levels[-1], levels[0]
    elif how == "renumber": r.choice(levels)["level"] += r.choice((1, -1, 300))
    elif how == "empty": header["levels"] = []
    else: levels += [dict(levels[-1], level=len(levels) + i) for i in range(r.choice((1, 300)))]
    return sealed(header, tensors)


@kind
def change_density(o: Original, r: random.Random):
    header, tensors = o.copy()
    line = r.choice(header["levels"])
    was = line["density"]
    line["density"] = r.choice((was * 0.99, was + 1e-6, r.random(), 0.0, 1.0000001, -0.1, float("nan")))
    if r.random() < 0.2: line["dead_layers"] = [r.choice([*o.tensors]).partition("/")[2]]
    return sealed(header, tensors)


@kind
def change_recipe(o: Original, r: random.Random):
    header, tensors = o.copy()
    path = r.choice(list(places_of(header["recipe"])))
    put(header["recipe"], path, r.choice((*GARBAGE, 0.3, 5, "5it", "900ep", "adam", "layerwise")))
    if r.random() < 0.7:
        try: header["recipe_hash"] = digest(header["recipe"], 12)
        except TypeError: pass
    return sealed(header, tensors), path[-1] not in ("rounds", "rate", "scope", "prune_head", "init")


@kind
def header_text(o: Original, r: random.Random):
    "Text that is not what a JSON writer would write."
    text = json.dumps(o.header, sort_keys=True)
    at = r.randrange(len(text))
    how = r.choice(("twice", "deep", "number", "cut", "replace", "other", "space"))
    if how == "twice": text = '{"seed": 7, ' + text[1:]
    elif how == "deep":
        depth = r.choice((50, 500, 5000, 50_000))
        text = text[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}"
    elif how == "number":
        text = text.replace('"seed": ', '"seed": ' + r.choice(("9" * 5000, "NaN", "-Infinity", "1e999", "0x1")), 1)
    elif how == "cut": text = text[:at]
    elif how == "replace": text = text[:at] + r.choice("{}[]\",:0 \x00é\U0001f3b2") + text[at + 1:]
    elif how == "other": text = r.choice(("", "null", "[]", "1", '"x"', "{}", "\ufeff" + text))
    else: text = text.replace(" ", r.choice(("  ", "\n", "")))
    return sealed(o.header, o.tensors, text), how == "replace" or how == "deep"


# ---- changes with a valid checksum: the tensors

@kind
def not_finite(o: Original, r: random.Random):
    header, tensors = o.copy()
    name = r.choice([n for n, v in tensors.items() if v.is_floating_point() and v.numel()])
    value = tensors[name].clone()
    value.view(-1)[r.randrange(value.numel())] = r.choice((float("nan"), float("inf"), -float("inf")))
    return sealed(header, tensors | {name: value})


@kind
def other_dtype(o: Original, r: random.Random):
    header, tensors = o.copy()
    name = r.choice([*tensors])
    new = r.choice([d for d in DTYPES if d != tensors[name].dtype])
    return sealed(header, tensors | {name: tensors[name].to(new)})


@kind
def other_shape(o: Original, r: random.Random):
    header, tensors = o.copy()
    name = r.choice([n for n, v in tensors.items() if v.numel() > 1])
    v = tensors[name]
    flat = v.reshape(-1)
    new = r.choice((flat[:-1], v.reshape(1, *v.shape), torch.cat([v, v]), v[:0], flat[:1], flat.reshape(-1, 1, 1)))
    return sealed(header, tensors | {name: new})


@kind
def missing_tensor(o: Original, r: random.Random):
    header, tensors = o.copy()
    for name in r.sample([*tensors], r.choice((1, 1, 2, 5))): del tensors[name]
    return sealed(header, tensors)


@kind
def missing_part(o: Original, r: random.Random):
    header, tensors = o.copy()
    part = r.choice(("pruned_at", "initial", "rewind", "final", "final/0", "final/1"))
    kept = {n: v for n, v in tensors.items() if not n.startswith(part + "/")}
    return sealed(header, kept), len(kept) == len(tensors)


@kind
def another_tensor(o: Original, r: random.Random):
    header, tensors = o.copy()
    name = r.choice(("x", "initial/x", "pruned_at/x", "final/9/x", "final/x/y", "final/0/x", "final/00/head.bias",
        "rewind/", "pruned_at/head.bias", "pruned_at/head.weight", "", "/", "final/-1/head.bias"))
    return sealed(header, tensors | {name: r.choice([*tensors.values()])}), name in tensors


@kind
def renamed_tensor(o: Original, r: random.Random):
    header, tensors = o.copy()
    name = r.choice([*tensors])
    shorter, flat = name.replace(".weight", ".w"), name.replace("/", ".", 1)
    new = r.choice((name + "x", name.upper(), flat, "initial/" + name, shorter))
    tensors[new] = tensors.pop(name)
    return sealed(header, tensors), new == name


@kind
def swapped_tensors(o: Original, r: random.Random):
    header, tensors = o.copy()
    a, b = r.sample([n for n in tensors if n.startswith(("initial", "rewind", "pruned_at"))], 2)
    tensors[a], tensors[b] = tensors[b], tensors[a]
    same = o.tensors[a].shape == o.tensors[b].shape and o.tensors[a].dtype == o.tensors[b].dtype
    return sealed(header, tensors), same and not a.startswith("pruned_at")


@kind
def other_mask(o: Original, r: random.Random):
    header, tensors = o.copy()
    name = r.choice([n for n in tensors if n.startswith("pruned_at")])
    value = tensors[name].clone()
    flat = value.view(-1)
    for _ in range(r.choice((1, 1, 3, 20))): flat[r.randrange(len(flat))] = r.choice((0, 1, 2, 3, 4, 9, 200, 254, 255))
    as_many = torch.equal(flat.sort().values, tensors[name].view(-1).sort().values)  # die at each level as before
    return sealed(header, tensors | {name: value}), as_many


@kind
def other_mask_with_its_densities(o: Original, r: random.Random):
    "A mask that agrees with the header but not with the recipe, or with the trained weights."
    header, tensors = o.copy()
    names = [n for n in tensors if n.startswith("pruned_at")]
    name = r.choice(names)
    value = tensors[name].clone()
    value.view(-1)[r.randrange(value.numel())] = r.choice((1, 2, NEVER))
    tensors[name] = value
    total = sum(tensors[n].numel() for n in names)
    for line in header["levels"]:
        alive = {n: int((tensors[n] > line["level"]).sum()) for n in names}
        line["density"] = sum(alive.values()) / total
        line["dead_layers"] = [n.partition("/")[2] for n, count in alive.items() if not count]
    return sealed(header, tensors)


@kind
def negative_variance(o: Original, r: random.Random):
    header, tensors = o.copy()
    names = [n for n in tensors if n.endswith("running_var")]
    if not names: return not_finite(o, r)
    name = r.choice(names)
    return sealed(header, tensors | {name: -tensors[name] - 1})


@kind
def longer_weights(o: Original, r: random.Random):
    header, tensors = o.copy()
    masked = {n.partition("/")[2] for n in tensors if n.startswith("pruned_at/")}
    finals = [n for n in tensors if n.startswith("final/") and n.split("/", 2)[2] in masked]
    if not finals: return missing_tensor(o, r)
    name = r.choice(finals)
    v = tensors[name]
    new = r.choice((torch.cat([v, v[:1]]), v[1:], v[:0], v.repeat(40)))
    return sealed(header, tensors | {name: new}), not v.numel()


@kind
def only_words(o: Original, r: random.Random):
    "What may well be another value: it must load, as what it is now."
    header, tensors = o.copy()
    header["provenance"][r.choice(("commit", "time", "machine", "note"))] = r.choice(("", "x", "a b c", "é"))
    if r.random() < 0.5: header["seed"] = r.randrange(10**6)
    if r.random() < 0.5: r.choice(header["levels"])["test_accuracy"] = r.random()
    return sealed(header, tensors), None  # must load


# ---- the run

ORIGINALS: list[Original] = []


def make_originals(folder: Path) -> None:
    "Find tickets of two very small networks: pruned globally, layer by layer with the head, at once, without theta_i."
    MODELS["fuzz_lenet"] = Architecture(partial(lenet, widths=(6, 4)), 0, "bench/fuzz_tickets.py")
    MODELS["fuzz_cnn"] = Architecture(partial(plain, plan=(3, "M", 4)), 1, "bench/fuzz_tickets.py")
    data, training = load_dataset("digits", image_size=8, channels=1), Recipe(length="6it", batch_size=32, lr=0.01)
    recipes = {"global": {}, "layerwise": dict(scope="layerwise", prune_head=True), "one shot": dict(one_shot=True)}
    for i, (model, changes, keep) in enumerate((("fuzz_lenet", "global", True), ("fuzz_cnn", "layerwise", True),
            ("fuzz_cnn", "one shot", True), ("fuzz_lenet", "global", False))):
        recipe = TicketRecipe(training=training, rounds=2 + i % 2, rate=0.4, rewind="2it", **recipes[changes])
        find_tickets(model, data, recipe, seed=i, keep_final=keep, save_to=folder/f"{i}.safetensors")
        ORIGINALS.append(Original(folder/f"{i}.safetensors"))


def judged(path: Path, original: Original, may_load) -> tuple[str, str]:
    "Load a changed file; return what came of it, and what is wrong with that, if anything is."
    try: found = load_tickets(path)
    except ValueError as e:
        said = str(e)
        if may_load is None: return "refused", f"refused without need: {said[:300]}"
        if not said.startswith(f"{path}: ") or not said.endswith("."): return "refused", f"no sentence: {said[:300]}"
        return "refused", f"not one short line: {said[:300]}" if "\n" in said or len(said) > 1500 else ""
    except BaseException as e: return "crashed", f"{type(e).__name__}: {str(e)[:300]}"
    if identity(found) == original.identity: return "as before", ""
    return "plausible", "" if may_load else f"loaded as something else: {found}"


def fuzz(
    count: int,     # files to change
    seed: int = 0,  # decides all changes
    keep: Path | None = None,  # folder for files with which something is wrong
    memory: int = 2**30,  # bytes that the process may take beyond what it has when it begins
) -> dict:          # counts by kind, failures, times, memory
    "Change files and load them."
    r, counts, failures, slowest = random.Random(seed), {name: {} for name in KINDS}, [], 0.0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        if not ORIGINALS: make_originals(Path(folder))
        path, names, began = Path(folder)/"changed.safetensors", [*KINDS], time.perf_counter()
        before, limits = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrlimit(resource.RLIMIT_AS)
        if (sizes := Path("/proc/self/statm")).is_file():
            taken = int(sizes.read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + memory, limits[1]))
        for i in range(count):
            name, original = names[i % len(names)], r.choice(ORIGINALS)
            made = KINDS[name](original, r)
            content, may_load = made if isinstance(made, tuple) else (made, False)
            path.write_bytes(content)
            cpu = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome, wrong = judged(path, original, may_load)
            cpu = time.process_time() - cpu
            slowest = max(slowest, cpu)
            if cpu > 1: wrong = wrong or f"took {cpu:.1f} s"
            counts[name][outcome] = counts[name].get(outcome, 0) + 1
            if wrong: failures.append(dict(number=i, kind=name, wrong=wrong.replace(str(path), "FILE")))
            if wrong and keep: (keep/f"{i}.safetensors").write_bytes(content)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    totals = {k: sum(c.get(k, 0) for c in counts.values()) for k in ("refused", "as before", "plausible", "crashed")}
    return dict(files=count, seed=seed, **{k.replace(" ", "_"): v for k, v in totals.items()}, failures=len(failures),
        seconds=round(time.perf_counter() - began, 1), slowest_ms=round(1000 * slowest, 1),
        memory_grown_mb=round(grown, 1),
        kinds=counts, first_failures=failures[:20])


def main():
    "Run from the command line."
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--files", type=int, default=100_000, help="how many changed files")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--keep", type=Path, help="folder for the files with which something is wrong")
    words.add_argument("--out", type=Path, default=Paths().results/"fuzz_tickets.json")
    chosen = words.parse_args()
    torch.set_num_threads(1)
    if chosen.keep: chosen.keep.mkdir(parents=True, exist_ok=True)
    found = fuzz(chosen.files, chosen.seed, chosen.keep)
    made = provenance()
    found["made_with"] = {k: made[k] for k in ("python", "torch", "machine")} | {"date": made["time"][:10]}
    with write_atomically(chosen.out) as f: f.write(json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k != "kinds"}, indent=1))
    sys.exit(bool(found["failures"]))


if __name__ == "__main__": main()
