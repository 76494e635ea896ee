"A whole study through Snakemake and papermill: complete, resumed after a kill, repeated, edited, asked wrongly."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ENVIRONMENT, ROOT, TINY, prints_nan, run

VARIES = ["seconds", "device", "torch", "commit"]


def study(home, *words, **settings):
    return run("lth_nb.cli", "run", home/"tiny.yaml", "--jobs", 2, "--until", "results", *words, home=home, **settings)
def table(home): return pd.read_csv(home/"data"/"results"/"tiny.csv").drop(columns=VARIES)
def notebooks(home): return {p.relative_to(home): p.stat().st_mtime_ns for p in (home/"data"/"runs").rglob("*.ipynb")}


def test_a_study_survives_a_kill_and_gives_the_same_table(tmp_path_factory, home):
    whole = tmp_path_factory.mktemp("whole")
    (whole/"data").mkdir()
    (whole/"data"/"cache").symlink_to((home/"data"/"cache").resolve())
    (whole/"tiny.yaml").write_text(TINY)
    study(whole)

    command = [sys.executable, "-m", "lth_nb.cli", "run", str(home/"tiny.yaml"), "--jobs", "2", "--until", "results"]
    started = subprocess.Popen(
        command, cwd=home, env={**ENVIRONMENT, "LTH_HOME": str(home)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.time() + 120
    while not list((home/"data").glob("tickets/*/*.safetensors")) and time.time() < deadline: time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert not (home/"data"/"results"/"tiny.csv").exists()

    study(home)
    pd.testing.assert_frame_equal(table(home), table(whole))
    # searches x seeds x levels, sources x arms x levels x seeds, scratch
    assert len(table(home)) == 2 * 2 * 4 + 2 * 2 * 2 * 2 + 2

    before = notebooks(home)
    assert "5 of 5 runs are done" in study(home).stdout
    assert notebooks(home) == before, "a second run trained something"

    (home / "tiny.yaml").write_text(
        TINY.replace("arms: scratch}", "arms: scratch, recipes: longer}").replace(
            "ticket_recipes:\n", "  longer: {like: base, length: 30it}\nticket_recipes:\n", 1
        )
    )
    assert "4 of 5 runs are done" in run("lth_nb.cli", "run", home/"tiny.yaml", "--dry-run", home=home).stdout
    study(home)
    new = {p for p in notebooks(home) if p not in before}
    assert len(new) == 1 and "scratch--digits" in str(new), new
    assert {p: t for p, t in notebooks(home).items() if p in before} == before, (
        "an edit of one recipe ran something else again"
    )


@pytest.mark.parametrize("deaths, kernels", [(1, "started again"), (9, "never answers")], ids=["once", "always"])
def test_a_kernel_that_dies_before_it_answers(home, deaths, kernels):
    "As happens where another process takes the port that was meant for it: started once more, and no oftener."
    spec = home/"jupyter"/"kernels"/"python3"
    spec.mkdir(parents=True)
    script = 'echo >> "$0"; [ "$(wc -l < "$0")" -le "$1" ] && exit 1; shift; exec "$@"'
    words = [
        "sh", "-c", script, str(home / "starts"), str(deaths), sys.executable, "-m", "ipykernel_launcher", "-f",
        "{connection_file}"
    ]
    (spec/"kernel.json").write_text(json.dumps(dict(argv=words, display_name="a kernel that dies", language="python")))
    (home / "tiny.yaml").write_text(
        TINY.split("  - {sources")[0] + "  - {targets: digits, fractions: 0.1, arms: scratch}\n"
    )
    done = study(
        home,
        check=kernels == "started again",
        env={**ENVIRONMENT, "LTH_HOME": str(home), "JUPYTER_PATH": str(home / "jupyter")},
    )
    assert (home/"starts").read_text().count("\n") == 2
    assert (done.returncode == 0) == (kernels == "started again") == (home/"data"/"results"/"tiny.csv").is_file()
    if done.returncode: assert "Kernel died before replying" in done.stderr


@pytest.mark.slow
def test_a_committed_table_stands_for_its_runs(home):
    """On another machine `lth results restore` takes the rows of the table as done; an edit then trains only what is
    new."""
    study(home)
    whole = table(home)
    for folder in ("runs", "tickets"): shutil.rmtree(home/"data"/folder)
    assert f"restored {len(whole)} rows" in run("lth_nb.cli", "results", "restore", home/"tiny.yaml", home=home).stdout
    assert "5 of 5 runs are done" in study(home).stdout
    pd.testing.assert_frame_equal(table(home), whole)
    assert not notebooks(home), "a restored run was run again"

    (home/"data"/"results"/"tiny.csv").unlink()
    study(home)
    pd.testing.assert_frame_equal(table(home), whole)
    (home/"tiny.yaml").write_text(TINY.replace("for tests", "for other tests"))
    study(home)
    assert "for other tests" in (home / "data" / "results" / "tiny.json").read_text(), (
        "an edited scale did not reach the table's description"
    )


@pytest.mark.slow
def test_a_study_that_is_trained_again_leaves_a_clean_checkout(home):
    "Same results, other seconds: no tracked file changes, neither the table nor its description nor the README."

    def git(*words):
        return subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words],
            cwd=home,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    (home / "README.md").write_text(
        "Before\n<!-- found: tiny (written by `lth results publish`) -->\n<!-- /found -->\nafter\n"
    )
    (home/".gitignore").write_text("data/cache\ndata/runs\ndata/tickets\n.snakemake\n")
    git("init", "--quiet")
    study(home)
    assert "- **Do tickets transfer?**" in (home/"README.md").read_text()
    git("add", ".")
    git("commit", "--quiet", "-m", "study")
    tracked = {name: (home/name).read_bytes() for name in git("ls-files").splitlines()}
    assert {"README.md", "data/results/tiny.csv", "data/results/tiny.json", "data/results/columns.csv"} <= set(tracked)

    def seconds():
        return {
            p.name: pd.read_csv(p)["seconds"].tolist()
            for p in (home / "data" / "runs" / "tiny").glob("transfer/*[0-9a-f].csv")
        }

    before = seconds()
    for folder in ("runs", "tickets"): shutil.rmtree(home/"data"/folder)
    study(home)
    assert seconds() != before, "nothing was trained again"
    assert git("status", "--porcelain") == "" and tracked == {name: (home/name).read_bytes() for name in tracked}
    run("lth_nb.cli", "results", "publish", home/"tiny.yaml", home=home)
    assert git("status", "--porcelain") == ""


@pytest.mark.slow
def test_all_cells_of_a_pair_as_one_job(home):
    "What ran cell by cell counts, and of a pair only the cell that is missing is run."
    study(home)
    whole, before = table(home), notebooks(home)
    (home/"tiny.yaml").write_text(TINY + "job: pair\n")
    (lost,) = (home/"data"/"runs"/"tiny"/"transfer").glob("mnist_5k--digits--??????????.csv")
    for file in lost.parent.glob(f"{lost.stem}.*"): file.unlink()
    assert "4 of 5 runs are done" in study(home).stdout
    pd.testing.assert_frame_equal(table(home), whole)
    (new,) = {p for p, t in notebooks(home).items() if before.get(p) != t}
    assert new.parent == Path("data", "runs", "tiny", "pair") and new.name.startswith("mnist_5k--digits--"), new
    assert len(list((home/"data"/"runs"/"tiny"/"pair").glob("*.done"))) == 3


@pytest.mark.slow
def test_a_whole_study_in_processes_forked_from_one(home):
    "It gives the same table; what ran cell by cell counts; `--first` runs single cells; a failure leaves the others."
    study(home)
    whole, folder, before = table(home), home/"data"/"runs"/"tiny", notebooks(home)
    (home/"tiny.yaml").write_text(TINY + "job: study\n")
    (lost,) = (folder/"transfer").glob("mnist_5k--digits--??????????.csv")
    for file in lost.parent.glob(f"{lost.stem}.*"): file.unlink()
    assert "4 of 5 runs are done" in study(home).stdout
    pd.testing.assert_frame_equal(table(home), whole)
    again = {p for p, t in notebooks(home).items() if before.get(p) != t}
    assert again == {lost.with_suffix(".ipynb").relative_to(home)}, "what ran cell by cell was run again"
    assert "5 of 5 runs are done" in study(home).stdout

    for made in ("runs", "tickets"): shutil.rmtree(home/"data"/made)
    study(home)
    pd.testing.assert_frame_equal(table(home), whole)
    assert len([*(folder/"transfer").glob("*.ipynb")]) == 3 and len([*folder.glob("all_*/*.done")]) == 2
    before = notebooks(home)
    for words in ((), ("--first", 1)):
        for file in lost.parent.glob(f"{lost.stem}.*"): file.unlink()
        assert "4 of 5 runs are done" in study(home, *words).stdout
        pd.testing.assert_frame_equal(table(home), whole)
        (new,) = {p for p, t in notebooks(home).items() if before.get(p) != t}
        assert (home/new).parent == lost.parent and new.stem == lost.stem, new
        before = notebooks(home)
    shutil.rmtree(lost.parent)
    (lost.parent/f"{lost.stem}.ipynb.part.ipynb").mkdir(parents=True)  # no file can be written there
    done = study(home, check=False)
    assert done.returncode == 1 and f"{lost.stem}.ipynb.part.ipynb" in done.stderr, done.stderr
    assert len([*lost.parent.glob("*[0-9a-f].csv")]) == 2, "a failure took the others with it"


def test_a_study_file_with_errors_stops_before_anything_runs(home):
    (home/"tiny.yaml").write_text(TINY.replace("reinit", "reinits").replace("seeds: [0, 1]", "seeds: [0, 0]"))
    done = study(home, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for word in ("tiny.yaml", "transfers[0].arms", "'reinits'", "ticket, original", "seed 0 occurs twice"):
        assert word in done.stderr, done.stderr
    assert not (home/"data"/"runs").exists()


def test_a_missing_data_set_says_how_to_get_it(home):
    (home/"tiny.yaml").write_text(TINY.replace("targets: digits", "targets: blood_cells"))
    done = study(home, check=False)
    assert (
        done.returncode == 1
        and "blood_cells.npz" in done.stderr
        and "data" in done.stderr
        and not (home / "data" / "tickets").exists()
    ), done.stderr


def test_an_unusable_file_stops_before_anything_runs(home):
    (home/"data"/"raw").mkdir(parents=True)
    np.savez(
        home / "data" / "raw" / "floats.npz",
        **{
            f"{s}_{part}": np.zeros((9, 8, 8)) if part == "images" else np.arange(9) % 3
            for s in ("train", "test")
            for part in ("images", "labels")
        },
    )
    (home/"tiny.yaml").write_text(TINY.replace("targets: digits", "targets: floats"))
    done = study(home, check=False)
    assert (
        done.returncode == 1
        and "floats.npz: train_images has dtype float64; store" in done.stderr
        and "Traceback" not in done.stderr
        and not (home / "data" / "tickets").exists()
    ), done.stderr


def test_papermill_refuses_a_parameter_the_notebook_does_not_have(home):
    out = home/"out.ipynb"
    done = run(
        "papermill", "--no-progress-bar", "--cwd", ROOT / "nbs", ROOT / "nbs" / "runs" / "transfer.ipynb", out, "-p",
        "sorce", "mnist_5k", home=home, check=False
    )
    assert done.returncode != 0 and "no parameter sorce; its parameters are arms" in done.stderr, done.stderr[-2000:]
    assert not (home/"data"/"runs").exists()


FORMS = {  # of one and the same value
    "seeds": ("0", "[0]", "0,", [0]),
    "levels": ("1,3", "[1, 3]", "1, 3", [1, 3]),
    "arms": ("ticket", "[ticket]", "['ticket']", ["ticket"]),
    "fractions": ("0.1", "[0.1]", 0.1, [0.1]),
}


def test_a_parameter_accepts_the_same_forms_everywhere(home):
    "Scalars, texts with commas, lists in brackets and lists give the same rows, in every call that trains."
    from lth_nb.core import Paths
    from lth_nb.study import run_connectivity, run_tickets, run_transfers
    usual, paths = dict(arms=["ticket"], levels=[1, 3], seeds=[0], fractions=[0.1]), Paths(home)
    whole = run_transfers(home/"tiny.yaml", "own", "digits", **usual, paths=paths)
    for name, forms in FORMS.items():
        for value in forms:
            rows = run_transfers(home/"tiny.yaml", ["own"], "digits", **{**usual, name: value}, paths=paths)
            pd.testing.assert_frame_equal(rows, whole)
    searched = [
        run_tickets(home / "tiny.yaml", "digits", f, seeds=s, paths=paths)
        for f, s in ((0.1, 0), ("0.1", "[0]"), ([0.1], [0]))
    ]
    for rows in searched[1:]: pd.testing.assert_frame_equal(rows, searched[0])
    lines = [
        run_connectivity(home / "tiny.yaml", "digits", k, levels=l, seeds=s, orders=0, targets=t, paths=paths)
        for k, l, s, t in (
            ("0it", 1, 0, "digits=0.1"),
            (["0it"], "[1]", "0", {"digits": 0.1}),
            (0, [1], [0], "{digits: 0.1}"),
        )
    ]
    for rows in lines: assert len(rows) == 1, rows


@pytest.mark.parametrize(
    "notebook, parameters",
    [
        ("find_tickets", dict(source="digits", source_fraction="[0.1]", seeds=1)),
        ("transfer", dict(source="own", target="digits", arms="ticket,scratch", levels=1, seeds=1, fractions="0.1")),
        (
            "connectivity",
            dict(
                source="digits",
                rewinds="0it,5it",
                levels="0, 1",
                seeds=1,
                orders=2,
                points=3,
                images=50,
                targets="digits=0.1",
            ),
        ),
    ],
    ids=["find_tickets", "transfer", "connectivity"],
)
def test_papermill_takes_single_values_and_texts(home, notebook, parameters):
    "`-p seeds 1` and `-p arms ticket,scratch` work in every run notebook, and a single seed prints no `nan`."
    words = [w for name, value in dict(study=home / "tiny.yaml", **parameters).items() for w in ("-p", name, value)]
    out = home / f"{notebook}.ipynb"
    run(
        "papermill",
        "--no-progress-bar",
        "--cwd",
        ROOT / "nbs",
        ROOT / "nbs" / "runs" / f"{notebook}.ipynb",
        out,
        *words,
        home=home,
    )
    assert not prints_nan(json.loads(out.read_text())["cells"])


@pytest.mark.parametrize(
    "parameters, words",
    [
        (dict(seeds="a"), "parameter seeds = 'a': use whole numbers from 0"),
        (dict(seeds=True), "parameter seeds = True: use whole numbers"),
        (dict(fractions=2), "parameter fractions = 2: use fractions of the images"),
        (dict(target="digit"), "parameter target = 'digit': unknown data set"),
        (dict(source="mnst"), "parameter source = 'mnst': unknown data set"),
        (dict(source=["digits", "mnist_5k"]), "parameter source = ['digits', 'mnist_5k']: use one name"),
        (dict(source=""), "parameter source is missing: arm 'ticket' needs one"),
        (dict(arms="tickets"), "parameter arms = 'tickets': unknown arm"),
        (dict(levels=9), "parameter levels = 9: out of range"),
        (dict(models="vgg"), "parameter models = 'vgg': unknown model"),
        (dict(heads="two"), "parameter heads = 'two': unknown head"),
        (dict(recipes="bse"), "parameter recipes = 'bse': unknown recipe"),
        (dict(ticket_recipes="bse"), "parameter ticket_recipes = 'bse': unknown ticket recipe"),
        (dict(changes="lr=-1"), "parameter changes: lr = -1: Input should be greater than 0"),
        (dict(changes="rate=1"), "parameter changes: rate = 1: unknown key; the keys are length"),
        (dict(changes=3), "parameter changes = 3: use fields with values"),
        (
            dict(ticket_changes={"roundz": 1}),
            "parameter ticket_changes: roundz = 1: unknown key; the keys are training, rounds",
        ),
    ],
    ids=lambda v: "" if isinstance(v, str) else "-".join(v),
)
def test_an_error_about_a_parameter_names_the_parameter(home, parameters, words):
    from lth_nb.core import Paths
    from lth_nb.study import run_transfers

    usual = dict(source="own", target="digits", arms="ticket", levels=1, seeds=0, fractions=0.1)
    study = home / "tiny.yaml" if "levels" in parameters else "quick"
    with pytest.raises(ValueError) as error:
        run_transfers(study, **{**usual, **parameters}, paths=Paths(home))
    assert words in str(error.value) and "transfers[" not in str(error.value) and ".yaml" not in str(error.value)
    assert not (home / "data" / "runs").exists()


def test_a_key_that_occurs_twice_stops_before_anything_runs(home):
    (home/"tiny.yaml").write_text(TINY + "transfers:\n  - {targets: digits, fractions: 0.1, arms: scratch}\n")
    for command in (("run",), ("run", "--dry-run"), ("plan",), ("status",)):
        done = run("lth_nb.cli", *command, home/"tiny.yaml", home=home, check=False)
        assert (
            done.returncode == 1
            and "tiny.yaml: line 16: transfers is already defined on line 13; keep one of them" in done.stderr
        ), done.stderr
    assert not (home/"data"/"runs").exists()


def test_plan_and_run_say_when_seeds_can_never_decide(home):
    for command in (("plan", "--images-per-second", 1000), ("run", "--dry-run")):
        said = run("lth_nb.cli", command[0], home/"tiny.yaml", *command[1:], home=home)
        assert "the study has two seeds. One seed does not count for a verdict" in said.stderr, (
            said.stderr
        )
        assert not prints_nan([said.stdout, said.stderr])
    (home/"tiny.yaml").write_text(TINY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    assert (
        "does not count for a verdict"
        not in run("lth_nb.cli", "plan", home / "tiny.yaml", "--images-per-second", 1000, home=home).stderr
    )


@pytest.mark.slow
def test_stale_files_are_deleted_and_no_others(home):
    "Names with spaces and quotes, which a pipe into `xargs rm` would take for several files."
    folder = home/"a study's folder"
    folder.mkdir()
    (home/"data"/"raw").mkdir(parents=True)
    file = folder/"tiny.yaml"
    file.write_text(
        TINY.split("  - {sources")[0]
        + "  - {targets: tiles, arms: scratch}\n  - {targets: digits, fractions: 0.1, arms: scratch}\n"
    )

    def save_tiles(high):
        images = np.random.default_rng(0).integers(0, high, (60, 8, 8), dtype=np.uint8)
        parts = dict(
            train_images=images, train_labels=np.arange(60) % 3, test_images=images, test_labels=np.arange(60) % 3
        )
        np.savez(home/"data"/"raw"/"tiles.npz", **parts)
    command = ("lth_nb.cli", "run", file, "--jobs", 2, "--until", "results")
    save_tiles(200)
    run(*command, home=home)
    save_tiles(100)
    refused = run(*command, home=home, check=False)
    assert (
        refused.returncode == 1
        and "--stale --delete`) and run again" in refused.stderr
        and "xargs" not in refused.stderr
    ), refused.stderr
    every = {p for p in (home/"data").rglob("*") if p.is_file()}
    listed = run("lth_nb.cli", "status", file, "--stale", home=home).stdout.splitlines()
    assert len(listed) == 1 and "tiles" in listed[0]
    asked = run("lth_nb.cli", "status", file, "--stale", "--delete", home=home, input="n\n", check=False)
    assert asked.returncode == 1 and {p for p in (home/"data").rglob("*") if p.is_file()} >= every
    assert (
        "--delete: add --stale" in run("lth_nb.cli", "status", file, "--delete", home=home, check=False).stderr
    )
    run("lth_nb.cli", "status", file, "--stale", "--delete", "--yes", home=home)
    assert every - {p for p in (home/"data").rglob("*") if p.is_file()} == {home/listed[0]}
    assert "no file is out of date" in run("lth_nb.cli", "status", file, "--stale", home=home).stderr
    run(*command, home=home)


def test_a_path_is_as_good_as_a_name(home):
    for study in ("nbs/studies/quick.yaml", "data/results/quick.csv", ROOT/"nbs"/"studies"/"quick.yaml"):
        assert run("lth_nb.cli", "claims", study).stdout == run("lth_nb.cli", "claims", "quick").stdout
    assert (
        "networks"
        in run("lth_nb.cli", "plan", ROOT / "nbs" / "studies" / "quick", "--images-per-second", 1000, home=home).stdout
    )
    for command, words in (
        (("claims", "nbs/studies/none.yaml"), "study 'none' has no table"),
        (("plan", "nbs/studies"), "a folder, not a file"),
        (("run", "data/none"), "study 'data/none': no file"),
        (("status", home), "a folder, not a file"),
    ):
        done = run("lth_nb.cli", *command, check=False)
        assert (
            done.returncode == 1
            and words in done.stderr
            and "Traceback" not in done.stderr
            and len(done.stderr.splitlines()) == 1
        ), done.stderr


def without_root_rights():
    "Let permissions count for root too: drop CAP_DAC_OVERRIDE, capability 1, before the command starts."
    import ctypes
    ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP


def test_a_project_that_is_read_only_is_one_sentence(tmp_path):
    (tmp_path/"tiny.yaml").write_text(TINY)
    tmp_path.chmod(0o555)
    settings = dict(preexec_fn=without_root_rights) if os.geteuid() == 0 else {}
    try: done = run("lth_nb.cli", "run", "tiny.yaml", "--until", "results", home=tmp_path, check=False, **settings)
    finally: tmp_path.chmod(0o755)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert (
        last.startswith(f"lth: {tmp_path}/data")
        and "permission denied; make it writable, or set LTH_HOME to a folder of your own" in last
    ), last


def test_two_runs_at_a_time_are_refused(home):
    import fcntl
    (home/"data"/"runs").mkdir()
    with open(home/"data"/"runs"/".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = study(home, check=False)
    assert done.returncode == 1 and "another run is active" in done.stderr, done.stderr


SLOWER = [pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGKILL)]


@pytest.mark.parametrize("how", [signal.SIGINT, *SLOWER], ids=lambda s: s.name)
def test_stopping_lth_stops_its_runs(home, how):
    (home/"tiny.yaml").write_text(TINY.replace("length: 20it", "length: 200000it"))
    command = [sys.executable, "-m", "lth_nb.cli", "run", str(home/"tiny.yaml"), "--jobs", "2", "--until", "results"]
    started = subprocess.Popen(
        command, cwd=home, env={**ENVIRONMENT, "LTH_HOME": str(home)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )  # what a shell starts in the background ignores it
    def others():
        return [
            line
            for line in subprocess.run(["ps", "-wweo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
            if str(home) in line
        ]
    deadline = time.time() + 120
    while not any("papermill" in line for line in others()) and time.time() < deadline: time.sleep(0.2)
    time.sleep(1)
    started.send_signal(how)
    said = started.communicate(timeout=90)[0]
    if how != signal.SIGKILL:
        assert (
            started.returncode == 130 and "the same command continues from there" in said and "Traceback" not in said
        ), said
    while others() and time.time() < deadline + 60: time.sleep(0.2)
    assert not others()


@pytest.mark.slow
def test_a_direct_snakemake_and_lth_run_exclude_each_other(home):
    from lth_nb.core import Paths
    from lth_nb.workflow import hold_lock
    direct = (
        "snakemake", "--snakefile", ROOT / "nbs" / "Snakefile", "--configfile", home / "tiny.yaml", "--directory",
        home, "--jobs", 1, "--until", "results"
    )
    with hold_lock(Paths(home)):
        done = run(*direct, home=home, check=False)
        assert done.returncode == 1 and f"another run is active in {home} (process {os.getpid()})" in done.stderr, (
            done.stderr
        )
    run(*direct, home=home)
    assert "nothing to do" in study(home).stdout


@pytest.mark.slow
def test_a_study_outside_a_checkout_ends_with_its_papers(home):
    "Only a checkout has the site's sources. A second run does not start Snakemake, unless a file has changed."
    again = "lth_nb.cli", "run", home/"tiny.yaml", "--jobs", 2
    done, log = run(*again, home=home), home/"data"/"runs"/"tiny"/"snakemake.log"
    assert list((home/"data"/"runs"/"tiny"/"papers").glob("*.ipynb")) and not (home/"_site").exists()
    assert "papers " in done.stdout and "site " not in done.stdout.splitlines()[-1]
    started = log.stat().st_mtime_ns
    assert "nothing to do" in run(*again, home=home).stdout and log.stat().st_mtime_ns == started
    (home/"tiny.yaml").touch()
    run(*again, home=home)
    assert log.stat().st_mtime_ns > started
