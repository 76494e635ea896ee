"""The quick study through Slurm: Debian's slurm-wlm as a one-node cluster on loopback, with two GPUs that are none.

Installs packages and writes /etc/slurm/slurm.conf, so it runs where it is root on a machine with apt and no Slurm of
its own, and says why it is skipped elsewhere. `make test-slurm` runs it by itself; `make test` leaves it out.
"""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import ENVIRONMENT, ROOT, run

pytestmark = pytest.mark.slurm
VARIES, KEY = (
    ["seconds", "device", "torch", "commit"],
    [
        "arm", "source", "source_fraction", "ticket_recipe", "target", "fraction", "model", "recipe", "freeze", "head",
        "seed", "level"
    ],
)
OURS = "# written by tests/test_slurm.py\n"
CONFIGURATION = OURS + """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
StateSaveLocation={state}/slurmctld
SlurmdSpoolDir={state}/slurmd
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
GPUS = OURS + "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def said(*words, check=True):
    "What a command of the system prints."
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 or not check, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout if done.returncode == 0 else ""


def wait_for(what, seconds, found, otherwise=pytest.fail):
    "The first true answer of `found`; `otherwise` after some seconds."
    until = time.time() + seconds
    while time.time() < until:
        if answer := found(): return answer
        time.sleep(0.5)
    otherwise(f"{what}: not within {seconds} seconds")


def install():
    "Debian's packages, or a skip that says why not."
    if shutil.which("slurmctld") and shutil.which("slurmd") and shutil.which("munged"): return
    if os.geteuid() != 0: pytest.skip("Slurm is not installed, and installing Debian's slurm-wlm needs root")
    if not shutil.which("apt-get"):
        pytest.skip("Slurm is not installed, and there is no apt-get to install Debian's slurm-wlm with")
    settings = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    def apt(*words):
        return subprocess.run(
            ["apt-get", "-q", *words], env=settings, capture_output=True, text=True, timeout=900
        )
    apt("update")
    done = apt("install", "-y", "--no-install-recommends", "slurm-wlm", "munge")
    if done.returncode:
        pytest.skip(f"apt-get could not install slurm-wlm: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    "A running Slurm of one node; its daemons and its configuration go with the test."
    if os.geteuid() != 0: pytest.skip("a Slurm of one's own on loopback needs root")
    install()
    state, folder = tmp_path_factory.mktemp("slurm"), Path("/etc/slurm")
    files = {
        folder / "slurm.conf": CONFIGURATION.format(host=socket.gethostname().split(".")[0], state=state),
        folder / "gres.conf": GPUS,
    }
    if theirs := [f for f in files if f.exists() and not f.read_text().startswith(OURS)]:
        pytest.skip(f"this machine has a Slurm of its own: {theirs[0]} is not ours")
    folder.mkdir(exist_ok=True)
    for file, text in files.items(): file.write_text(text)
    daemons = []
    try:
        if not said("munge", "-n", check=False):
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            daemons.append(
                subprocess.Popen(
                    ["runuser", "-u", "munge", "--", "munged", "--foreground"],
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            wait_for(
                "this machine does not let munged start", 60, lambda: said("munge", "-n", check=False), pytest.skip
            )
        daemons += [
            subprocess.Popen([d, "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            for d in ("slurmctld", "slurmd")
        ]
        wait_for(
            "this machine does not let Slurm's daemons make an idle node", 120,
            lambda: said("sinfo", "-h", "-o", "%T", check=False).strip() == "idle", pytest.skip
        )
        yield
        said("scancel", "--user", "root", check=False)
        wait_for("an empty queue", 60, lambda: not said("squeue", "-h", check=False))
    finally:
        for daemon in reversed(daemons):
            os.killpg(daemon.pid, signal.SIGTERM)
            daemon.wait(30)
        for file in files: file.unlink()


def running():
    "Slurm's running jobs: {id: (what it runs, indices of its GPUs)}."
    jobs = said("scontrol", "show", "job", "-d", "-o", check=False).splitlines()
    jobs = {
        re.search(r"JobId=(\d+)", j)[1]: (re.search(r"Comment=(\S+)", j), re.search(r"GRES=gpu:1\(IDX:([\d,-]+)\)", j))
        for j in jobs
        if "JobState=RUNNING" in j
    }
    return {i: (comment[1] if comment else "", gpu[1] if gpu else "") for i, (comment, gpu) in jobs.items()}


def notebook_process(job):
    "The process that runs the notebook of a Slurm job."
    for folder in Path("/proc").glob("[0-9]*"):
        try: words, variables = (folder/"cmdline").read_bytes(), (folder/"environ").read_bytes()
        except OSError: continue
        if b"ipykernel" in words and f"SLURM_JOB_ID={job}\0".encode() in variables + b"\0": return int(folder.name)


RULES = ("find_tickets", "source"), ("transfer", "pair")  # of searches and of transfers, alone and in groups


def begun(home): return list(home.glob("data/runs/quick/transfer/*.rows.csv"))


def rows(file): return pd.read_csv(file, dtype={"source": str}).drop(columns=VARIES).sort_values(KEY, ignore_index=True)


def test_the_quick_study_on_slurm_survives_killed_jobs_and_gives_the_same_table(cluster, home):
    words = [sys.executable, "-m", "lth_nb.cli", "run", "quick", "--profile", "slurm", "--until", "results"]
    log, devices, killed = home/"data"/"runs"/"quick"/"snakemake.log", set(), {}
    with open(home/"lth.log", "w") as kept:
        study = subprocess.Popen(
            words, cwd=home, env={**ENVIRONMENT, "LTH_HOME": str(home)}, stdout=kept, stderr=kept,
            start_new_session=True
        )
    try:
        until = time.time() + 3000
        while study.poll() is None and time.time() < until:
            for job, (what, gpu) in running().items():
                devices.add(gpu)
                process = notebook_process(job)
                searches, transfers = (any(f"rule_{r}" in what for r in rules) for rules in RULES)
                if process and searches and "cancelled" not in killed:  # as an administrator would
                    said("scancel", job)
                    killed["cancelled"] = job
                elif process and transfers and "killed" not in killed and begun(home):
                    # as a machine short of memory would
                    os.kill(process, signal.SIGKILL)
                    killed["killed"] = job
            time.sleep(0.3)
        assert study.poll() == 0, f"{study.poll()}\n{(home/'lth.log').read_text()[-3000:]}"
    finally:
        if study.poll() is None:
            os.killpg(study.pid, signal.SIGTERM)
            study.wait(120)

    words = log.read_text()
    submitted = {job: name for name, job in re.findall(r"Job (\d+) has been submitted with SLURM jobid (\d+)", words)}
    assert set(killed) == {"cancelled", "killed"}, killed
    for job in killed.values():
        assert list(submitted.values()).count(submitted[job]) >= 2, (
            f"Slurm's job {job} was killed and not submitted again\n{words[-3000:]}"
        )
    assert {"0", "1"} <= devices, f"Slurm gave the runs the devices {devices}"

    table, committed = rows(home/"data"/"results"/"quick.csv"), rows(ROOT/"data"/"results"/"quick.csv")
    if not table.equals(committed):  # another kind of processor: a local run on this one is what the table must equal
        local = home.parent/"local"
        (local/"data").mkdir(parents=True)
        (local/"data"/"cache").symlink_to(ROOT/"data"/"cache")
        run("lth_nb.cli", "run", "quick", "--jobs", 2, "--until", "results", home=local)
        committed = rows(local/"data"/"results"/"quick.csv")
    pd.testing.assert_frame_equal(table, committed, check_exact=True)
