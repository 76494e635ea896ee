"Study files: what is wrong with them is said with the key; the names of cells, tickets and jobs never change."
import time

import pytest
import yaml

from lth_nb.core import Paths, digest
from lth_nb.grid import cell_name, ticket_cells, ticket_file, transfer_cells
from lth_nb.jobs import transfer_jobs
from lth_nb.studyfile import EXAMPLE, gathered, load_study, parse_study, read_yaml

# study -> number of cells, and hashes of their names, of ticket files and of jobs, as when results were made from them
NAMES = {
    "cnn5": (25, "b04908644add", "2313fb2adf0d", "2b052e9ef08b"),
    "cost": (40, "9df447359107", "e6930c763e1f", "861f72e91c75"),
    "gpu": (1284, "6efad5a3f24a", "7bc40eecea5b", "304645327d17"),
    "paper-mehta": (56, "a741be940eef", "201986e43161", "1419302da486"),
    "paper-morcos": (428, "6b9e9cab0cf6", "d342ab47564c", "8f1b2a526298"),
    "paper-sabatelli": (224, "122764aaedf0", "712a41031022", "cb44449c4b04"),
    "quick": (25, "736410dedc74", "b716609da416", "44fd63484f9f"),
    "small": (648, "0835a30e1f2f", "459a1564a4ff", "d5147776ad9c"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_cells_tickets_and_jobs_do_not_change(name):
    "A finished run is known by the name of its file: with another name it would be run again."
    study, home = load_study(name), Paths("home")
    cells = [cell_name(study, c) for c in (*ticket_cells(study), *transfer_cells(study))]
    files = [ticket_file(study, c, seed, home) for c in ticket_cells(study) for seed in c.seeds]
    files = [str(f.relative_to(home.root)) for f in files]
    assert (len(cells), digest(cells, 12), digest(files, 12), digest(list(transfer_jobs(study)), 12)) == NAMES[name]


def content_of(study): return study.model_dump(exclude={"file"})
def example(text="", by=""): return EXAMPLE.replace(text, by) if text else EXAMPLE
def parsed(text="", by=""): return parse_study(yaml.safe_load(example(text, by)), "example.yaml")


WRONG = [  # a line of the example, what stands there instead, what the error says
    ("image_size: 8", "imagesize: 8", "imagesize = 8: unknown key; the keys are study, scale, image_size"),
    (
        "arms: [finetuned]",
        "arms: [fine]",
        "example.yaml: transfers[1].arms = 'fine': unknown arm; use one of ticket, original",
    ),
    ("models: lenet_300_100", "models: lenet", "models = 'lenet': unknown model; use one of lenet_300_100"),
    (
        "targets: digits, fractions: 0.1, arms: [finetuned]",
        "targets: digit, arms: [finetuned]",
        "transfers[1].targets = 'digit': unknown data set, do you mean 'digits'?; ",
    ),
    (
        "levels: [2, 4]",
        "levels: [2, 5]",
        "transfers[0].levels = 5: out of range; sparse arms have levels 1 to 4, the rounds of ticket recipe 'base'",
    ),
    ("related: [[mnist_5k, digits]]", "related: [[mnist, digit]]", "roles.related = 'digit': unknown data set"),
    ("seeds: [0, 1]", "seeds: [0, 1, 0]", "seed 0 occurs twice"),
    (
        "related: [[mnist_5k, digits]]",
        "related: [[mnist_5k]]",
        "roles.related = ['mnist_5k']: list pairs [source, target]",
    ),
    (
        "related: [[mnist_5k, digits]]",
        "related: [mnist_5k, digits]",
        "roles.related = 'mnist_5k', roles.related = 'digits'",
    ),
    (
        "related: [[mnist_5k, digits]]",
        "related: [[[mnist_5k], digits]]",
        "roles.related = [['mnist_5k'], 'digits']: list",
    ),
    (
        "related: [[mnist_5k, digits]]",
        "natural: [[mnist_5k, digits]]",
        "roles.natural = ['mnist_5k', 'digits']: list sources",
    ),
    (
        "related: [[mnist_5k, digits]]",
        "narrower: [[lenet_300_100, lenet]]",
        "roles.narrower = ['lenet_300_100', 'lenet']: unknown model 'lenet'",
    ),
    ("channels: 1", "channels: 1\npages: [tables]", "pages = 'tables': no such page; use some of budget"),
    ("related: [[mnist_5k, digits]]", "natural: [5]", "roles.natural = 5: list sources of natural images, each a name"),
    ("channels: 1", "channels: yes", "channels = True: use a number"),
    ("image_size: 8", "image_size: .inf", "image_size = inf: Input should be a finite number"),
    ("batch_size: 32}", "batch_size: 32, lr: yes}", "recipes.base.lr = True"),
    ("batch_size: 32}", "batch_size: 32, lr: .inf}", "recipes.base.lr = inf"),
    ("batch_size: 32}", "batch_size: yes}", "recipes.base.batch_size = True"),
    ("rounds: 4", "rounds: true", "ticket_recipes.base.rounds = True"),
    ("seeds: [0, 1]", "seeds: [99999999999999999999]", "seeds[0] = 99999999999999999999: Input should be less than"),
    (
        "image_size: 8",
        "image_size: 8\ngrouped: digits.a",
        "grouped = 'digits.a': transfers use digits, which counts as",
    ),
    ("image_size: 8", "image_size: 8\nresplit: mnist_5k.b", "resplit = 'mnist_5k.b': transfers use mnist_5k, which"),
    (
        "image_size: 8",
        "image_size: 8\nimages_per_second: {lenet_300_100: .inf}",
        "images_per_second.lenet_300_100 = inf",
    ),
    (
        "batch_size: 32",
        "batch: 32",
        "recipes.base.batch = 32, recipes.base-x2.batch = 32, ticket_recipes.base.training.batch = "
        "32 and 1 more: unknown key; the keys are length, optimizer",
    ),
    (
        "rate: 0.6",
        "rate: 1.6",
        "ticket_recipes.base.rate = 1.6, ticket_recipes.one-shot.rate = 1.6: Input should be less than 1",
    ),
    (
        "like: base, one_shot",
        "like: bass, one_shot",
        "ticket_recipes.one-shot.like = 'bass': no such entry; the entries are base, one-shot",
    ),
    ("training: base", "training: slow", "training = 'slow': no such recipe; the recipes are base, base-x2"),
    ("sources: mnist_5k, targets", "targets", "transfers[1].sources is missing: arm 'finetuned' needs one"),
    ("fractions: 0.1, arms: scratch", "fractions: 1.1, arms: scratch", "transfers[2].fractions[0] = 1.1"),
    (
        "rewind: 10it",
        "rewind: 90it",
        "ticket_recipes.base.rewind = '90it', ticket_recipes.one-shot.rewind = '90it': later than "
        "the end of its training, '60it'",
    ),
    ("models: lenet_300_100", "models: resnet18", "models = 'resnet18': needs image_size 32 or more, not 8"),
    ("channels: 1", "channels: 1\nimage_sizes: {mnists: 28}", "image_sizes = 'mnists': unknown data set, do you mean"),
    ("channels: 1", "channels: 1\nimages_per_second: {lenet: 28}", "images_per_second.lenet: unknown model"),
    ("seeds: [0, 1]", "seeds: [0, 1]\nkeep_final: false", "finetuned need keep_final: true"),
    ("base-x2:", "a/b:", "recipes: 'a/b' is not a valid name"),
    ("related:", "relatives:", "roles.relatives: unknown role; use one of natural"),
    (
        "{sources: mnist_5k, targets: digits",
        "{sources: art_type, targets: painting_subject",
        "have the same images with different labels",
    ),
    ("{targets: digits, fractions: 0.1, arms: scratch", "{targets: own, arms: scratch", "transfers[2].targets = 'own'"),
    (
        "length: 60it",
        "length: 60",
        "recipes.base.length = 60, ticket_recipes.base.training.length = 60, "
        "ticket_recipes.one-shot.training.length = 60: give epochs or optimizer steps, such as '100ep'",
    ),
    ("rewind: 10it", "rewind: 10", "ticket_recipes.base.rewind = 10, ticket_recipes.one-shot.rewind = 10: give epochs"),
    ("channels: 1", "channels: 1\ndevice: gpu", "device = 'gpu': use auto, cpu, cuda"),
    ("levels: [2, 4]", "levels: [2, 4, 2]", "transfers[0].levels = [2, 4, 2]: the value 2 occurs twice"),
    ("seeds: [0, 1]", "seeds: yes", "seeds[0] = True: use a number")
]


@pytest.mark.parametrize("text, by, words", WRONG, ids=[by[:40] for _, by, _ in WRONG])
def test_what_is_wrong_is_said_with_the_key(text, by, words):
    assert text in EXAMPLE
    with pytest.raises(ValueError) as error: parsed(text, by)
    assert words in str(error.value) and str(error.value).startswith("example.yaml: ")


def test_halves_are_sets_of_their_own():
    "A key on the whole set does not count for its halves; naming both is right."
    content = yaml.safe_load(
        example("targets: digits, fractions: 0.1, arms: scratch", "targets: digits.a, arms: scratch")
    )
    with pytest.raises(
        ValueError, match="grouped = 'digits': transfers use digits.a, which counts as another data set"
    ):
        parse_study(content | dict(grouped=["digits"]), "example.yaml")
    assert parse_study(content | dict(grouped=["digits", "digits.a"]), "example.yaml").grouped == ("digits", "digits.a")


def test_an_item_that_is_wrong_is_not_said_to_be_missing():
    with pytest.raises(ValueError) as error: parsed("fractions: 0.1", "fractions: 0")
    assert "fractions[0] = 0" in str(error.value) and "at least 1 item" not in str(error.value)


def test_a_network_that_is_asked_for_twice_is_described_without_nan():
    content = yaml.safe_load(EXAMPLE)
    content["transfers"].append(content["transfers"][-1])
    with pytest.raises(ValueError) as error: transfer_cells(parse_study(content, "example.yaml"))
    words = "transfers[3] requests a network of transfers[2] again: arm scratch, target digits, fraction 0.1"
    assert words in str(error.value) and "nan" not in str(error.value)


def test_complaints_that_say_the_same_are_said_once():
    found = gathered(["a: no", "b = 2: x: y", "c: no", "no colon", *(f"t[{i}]: odd" for i in range(5)), "a: no"])
    assert found == ["a, c: no", "b = 2: x: y", "no colon", "t[0], t[1], t[2] and 2 more: odd"]


def test_recipes_that_are_no_mapping():
    content = yaml.safe_load(EXAMPLE)
    for recipes, words in ((["base"], "recipes = ['base']: use a mapping of names to recipes"),
                           ({"base": "60it"}, "recipes.base = '60it': use a mapping, such as {length: 10ep}"),
                           ({1: {"length": "60it"}}, "recipes: the name 1 is not a string")):
        with pytest.raises(ValueError) as error: parse_study({**content, "recipes": recipes})
        assert words in str(error.value)
    with pytest.raises(ValueError, match="the key 3 is not a string"): parse_study({**content, 3: "x"})


def test_image_sizes_of_single_sets():
    study = parsed("models: lenet_300_100", "models: cnn_small\nimage_sizes: {mnist_5k: 28}")
    assert study.size_of("mnist_5k") == 28 and study.size_of("digits") == 8


# Files

TWICE = [  # what is written, and what the error says
    (EXAMPLE + "recipes: {base: {length: 9it}}\n", "line 20: recipes is already defined on line 9; keep one of them"),
    (
        example("batch_size: 32}", "batch_size: 32, length: 9it}"),
        "line 10: recipes.base.length is already defined on line 10",
    ),
    (example("levels: [2, 4]", "levels: [2, 4], levels: 3"), "transfers[0].levels is already defined on line"),
    (
        example("  one-shot:", "  base: {training: base}\n  one-shot:"),
        "ticket_recipes.base is already defined on line 13",
    ),
    (example("scale: an", "'scale': no\nscale: an"), "line 3: scale is already defined on line 2"),
    ("a: {b: [{c: 1, d: 2}, {c: 1, c: 2}]}\n", "line 1: a.b[1].c is already defined on line 1"),
    ("base: &b {x: 1}\nother:\n  <<: *b\n  y: 1\n  y: 2\n", "line 5: other.y is already defined on line 4"),
    (
        "a: 1\na: 2\nb: 1\nb: 2\n",
        "line 2: a is already defined on line 1; keep one of them; line 4: b is already defined on line 3",
    ),
]


@pytest.mark.parametrize("text, words", TWICE, ids=range(len(TWICE)))
def test_a_key_that_occurs_twice(tmp_path, text, words):
    (tmp_path/"example.yaml").write_text(text)
    with pytest.raises(ValueError) as error: load_study(tmp_path/"example.yaml")
    assert words in str(error.value) and str(tmp_path/"example.yaml") in str(error.value)


def test_anchors_and_merge_keys_are_no_repetition(tmp_path):
    text = (
        "base: &usual {length: 60it, lr: 0.1}\nother: {<<: *usual, lr: 0.2}\nthird:\n"
        "  <<: [*usual, {lr: 1}]\n  gamma: 0.5\n"
        "list: &l [*usual, *usual]\nagain: *l\nfourth: {<<: *usual, length: 9it}\n"
    )
    (tmp_path/"anchors.yaml").write_text(text)
    assert read_yaml(tmp_path/"anchors.yaml") == yaml.safe_load(text)
    assert read_yaml(tmp_path/"anchors.yaml")["other"] == {"length": "60it", "lr": 0.2}


def test_many_aliases_take_no_time(tmp_path):
    "Thirty anchors, each a list of two of the one before: looked at once each, not 2^30 times."
    lines = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 30)]
    (tmp_path/"aliases.yaml").write_text("\n".join(lines[:12]) + "\n")
    assert len(read_yaml(tmp_path/"aliases.yaml")) == 12
    (tmp_path/"aliases.yaml").write_text("\n".join(lines) + "\n")
    began = time.perf_counter()
    with pytest.raises(ValueError, match="aliases.yaml: it expands to .* more than 100,000"):
        read_yaml(tmp_path/"aliases.yaml")
    assert time.perf_counter() - began < 1


def test_aliases_of_aliases_are_refused_before_they_are_written_out(tmp_path):
    "Twelve lines that stand for billions of values."
    lines = ["a0: &a0 [lol]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    file = tmp_path/"example.yaml"
    file.write_text("\n".join([*lines, EXAMPLE]))
    began = time.perf_counter()
    with pytest.raises(ValueError, match="example.yaml: it expands to .* values with its aliases, more than 100,000"):
        load_study(file)
    assert time.perf_counter() - began < 1
    file.write_text("a: &a [1, *a]\n" + EXAMPLE)
    with pytest.raises(ValueError, match="example.yaml: line 1: this list or mapping contains itself"): load_study(file)
    file.write_text("a: " + "[" * 5000)
    with pytest.raises(ValueError, match="example.yaml: "): load_study(file)


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    file = tmp_path/"example.yaml"
    file.write_text("- 1\n" * 100_000)
    began = time.perf_counter()
    with pytest.raises(ValueError, match="example.yaml: 400,000 bytes, but a study has at most 200,000"):
        load_study(file)
    assert time.perf_counter() - began < 0.1
    file.write_text(EXAMPLE.replace("seeds: [0, 1]", f"seeds: {'x' * 100_000}"))
    with pytest.raises(ValueError) as error: load_study(file)
    assert len(str(error.value)) < 1000 and "seeds[0] = 'xxx" in str(error.value)


@pytest.mark.parametrize("content, words", [
    (b"\0\0\0\n", "contains null bytes"),
    ("st\u00fcdy\n".encode("latin-1"), "not a readable CSV file .UnicodeDecodeError"),
    (b'a,"' + b"x" * 200_000 + b'"\n', "not a readable CSV file .Error"),
])
def test_tables_that_are_no_text(tmp_path, content, words):
    from lth_nb.results import read_results
    (tmp_path/"rows.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"rows.csv: .*{words}"): read_results(tmp_path/"rows.csv")


@pytest.mark.parametrize("content", [b"\0", b"[]", b"[" * 100_000, b"{", "\u00fc".encode("latin-1"), b"5"])
def test_descriptions_that_are_no_json(tmp_path, content):
    from lth_nb.results import read_study_info
    (tmp_path/"rows.csv").write_text("x\n")
    (tmp_path/"rows.json").write_bytes(content)
    with pytest.raises(ValueError, match="rows.json: not .*JSON.*; publish the table again"):
        read_study_info(tmp_path/"rows.csv")


def test_single_values_and_texts_with_commas_are_lists(tmp_path):
    file = tmp_path/"example.yaml"
    file.write_text(example("seeds: [0, 1]", "seeds: 0,1").replace("arms: [finetuned]", "arms: finetuned")
                    .replace("sources: [mnist_5k, own]", "sources: 'mnist_5k, own'"))
    assert content_of(load_study(file)) == content_of(parsed()) == content_of(load_study(file.with_suffix("")))


def test_a_study_like_another(tmp_path):
    file = tmp_path/"other.yaml"
    file.write_text("study: other\nlike: quick\nimage_size: 12\n")
    other, quick = load_study(file), load_study("quick")
    assert (other.study, other.image_size, other.transfers, other.recipes) == (
        "other",
        12,
        quick.transfers,
        quick.recipes,
    )
    file.write_text("study: other\nlike: quickly\n")
    with pytest.raises(FileNotFoundError, match="study 'quickly': no file"): load_study(file)
    file.write_text(f"study: other\nlike: {file}\n")
    with pytest.raises(ValueError, match="like: circular reference"): load_study(file)


def test_files_that_are_no_study(tmp_path):
    (tmp_path/"renamed.yaml").write_text(EXAMPLE)
    with pytest.raises(ValueError, match="write study: renamed, or rename the file to example.yaml"):
        load_study(tmp_path / "renamed.yaml")
    for content, words in (
        (b"study: \xe4", "byte 7 is not UTF-8; save the file as UTF-8"),
        (b"a: [1", "not valid YAML"),
        (b"", "write a mapping"),
        (b"- a\n- b\n", "write a mapping"),
        (b"a: 1\n---\nb: 2\n", "not valid YAML"),
        (b"\0", "not valid YAML"),
    ):
        (tmp_path / "bad.yaml").write_bytes(content)
        with pytest.raises(ValueError) as error:
            load_study(tmp_path / "bad.yaml")
        assert words in str(error.value) and "bad.yaml" in str(error.value), content
    with pytest.raises(FileNotFoundError, match="not a file; the studies are cnn5, cost, gpu"): load_study(tmp_path)


# Which images a study's networks see


def rows_of(study, project, seeds=(0,)):
    "Rows as a run of the example would write them, with made-up accuracies."
    from lth_nb.grid import networks_of
    from lth_nb.results import read_results
    template = read_results(Paths().results/"quick.csv").query("arm == 'scratch'").iloc[0].to_dict()
    networks = [n for c in transfer_cells(study) for n in networks_of(study, c) if n.arm == "scratch"]
    return [
        {**template, **vars(n), "study": study.study, "recipe_hash": study.recipes[n.recipe].hash} for n in networks
    ]


@pytest.fixture
def drawn(tmp_path):
    "A project, and a study of one target of which a tenth is taken; further keys make it draw otherwise."
    def make(**keys):
        content = {**yaml.safe_load(EXAMPLE), "seeds": [0, 1], "roles": {}, **keys}
        content["transfers"] = [dict(targets="digits", arms="scratch", fractions=[0.1])]
        return parse_study(content, "example.yaml")
    project = Paths(tmp_path)
    project.results.mkdir(parents=True)
    return project, make


@pytest.mark.parametrize("key", ["redraw", "grouped", "resplit"])
def test_rows_on_other_images_do_not_count_and_are_named(drawn, key):
    "A table whose images were drawn otherwise is not taken for the study's, and the user is told."
    from lth_nb.results import write_results
    from lth_nb.study import restore, study_info
    project, make = drawn
    plain, other = make(), make(**{key: ["digits"]})
    rows = rows_of(plain, project)
    write_results(rows, study_info(plain), project.results/f"{plain.study}.csv")
    with pytest.warns(UserWarning, match=rf"{len(rows)} rows do not count, because .*{key}.*digits"):
        assert restore(other, project) == 0
    assert restore(plain, project) == len(rows)


@pytest.mark.parametrize("key", ["redraw", "grouped", "resplit"])
def test_descriptions_are_joined_only_where_images_agree(drawn, key):
    from lth_nb.results import write_results
    from lth_nb.study import merged_info, study_info
    project, make = drawn
    plain, other = make(), make(**{key: ["digits"]})
    rows = rows_of(plain, project)
    one, two, none = (project.root/f"{name}.csv" for name in ("one", "two", "none"))
    write_results(rows, study_info(plain), one)
    write_results(rows, study_info(other), two)
    write_results(rows[:0], study_info(plain), none)
    with pytest.raises(ValueError, match=f"one.csv: its {len(rows)} rows on digits were made without `{key}: digits`"):
        merged_info([two, one])
    for tables in ([two, none], [none, two]): assert merged_info(tables)[key] == ["digits"]
    assert merged_info([project.root/"nothing.csv"]) is None


def test_notes_about_images_are_told_before_training(tmp_path):
    "A file that cannot be read, and is lost, is named before anything trains."
    import numpy as np
    from PIL import Image

    from lth_nb.study import data_notes
    draw = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 6)):
        for name in ("cat", "dog"):
            folder = tmp_path/"data"/"raw"/"pets"/split/name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder/f"{i}.png")
    content = {
        **yaml.safe_load(EXAMPLE),
        "roles": {},
        "transfers": [dict(targets="pets", arms="scratch", fractions=[1.0])],
    }
    project, study = Paths(tmp_path), parse_study(content, "example.yaml", Paths(tmp_path))
    assert data_notes(study, project) == []
    (tmp_path/"data"/"raw"/"pets"/"train"/"cat"/"30.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    notes = data_notes(study, project)
    assert len(notes) == 1 and "pets" in notes[0] and "30.heic" in notes[0]
