"GPUs that runs share: as many at a time as asked for, given back when a run ends or is killed."
import os
import subprocess
import sys
import time

import pytest

HOLD = """
import os, sys, time
from pathlib import Path
desk = Path(sys.argv[1])
(desk/f"{os.getpid()}.device").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
while not (desk/"go").exists(): time.sleep(0.05)
"""


@pytest.fixture
def start(tmp_path):
    "Start a process that holds a device."
    inherited = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}

    def begin(gpus=2, per_gpu=2, **variables):
        words = [sys.executable, "-m", "lth_nb.gpus", "--gpus", str(gpus), "--per-gpu", str(per_gpu), "--"]
        return subprocess.Popen(
            [*words, sys.executable, "-c", HOLD, str(tmp_path)], stderr=subprocess.PIPE, text=True,
            env={**inherited, "LTH_GPU_SLOTS": str(tmp_path/"slots"), **variables}
        )
    return begin


@pytest.fixture
def devices(tmp_path):
    "Devices of the processes that have one, once there are `count`, and a second later, if one too many came."
    def held(): return sorted(filter(None, (f.read_text() for f in tmp_path.glob("*.device"))))

    def wait(count, seconds=120):
        until = time.time() + seconds
        while len(held()) < count and time.time() < until: time.sleep(0.05)
        time.sleep(1)
        return held()
    return wait


def let_go(folder, processes):
    (folder/"go").touch()
    return [p.wait(120) for p in processes]


def test_as_many_as_asked_for_and_the_others_wait(start, devices, tmp_path):
    six = [start() for _ in range(6)]
    assert devices(4) == ["0", "0", "1", "1"]
    assert let_go(tmp_path, six) == [0] * 6 and len(devices(6)) == 6


def test_a_killed_run_gives_its_device_back(start, devices, tmp_path):
    first = start(gpus=1, per_gpu=1)
    assert devices(1) == ["0"]
    second = start(gpus=1, per_gpu=1)
    assert devices(2, seconds=3) == ["0"]
    first.kill()
    first.wait()
    assert devices(2) == ["0", "0"] and let_go(tmp_path, [second]) == [0]


def test_devices_that_the_user_allows(start, devices, tmp_path):
    some = [start(per_gpu=1, CUDA_VISIBLE_DEVICES="5,GPU-abc, 7") for _ in range(3)]
    assert devices(2) == ["5", "GPU-abc"] and let_go(tmp_path, some) == [0] * 3
    refused = start(CUDA_VISIBLE_DEVICES="3")
    assert "allows 1; use 1 to 1" in refused.communicate()[1] and refused.returncode == 2


def test_the_exit_code_is_the_commands():
    words = ["--gpus", "1", "--", sys.executable, "-c", "raise SystemExit(3)"]
    assert subprocess.run([sys.executable, "-m", "lth_nb.gpus", *words]).returncode == 3
