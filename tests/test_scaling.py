"The measurement of what the workflow itself costs."
import subprocess
import sys

import pytest
from conftest import ROOT
from test_tickets import bench

from lth_nb.study import parse_study, transfer_cells, transfer_jobs

scaling = bench("scaling")


def test_a_study_has_as_many_cells_as_asked():
    content = scaling.study_of(3000)
    assert len(content["transfers"]) * len(content["seeds"]) * 100 == 3000
    assert len(transfer_cells(parse_study(content, "empty3000cell.yaml"))) == 3000
    assert len(transfer_jobs(parse_study(scaling.study_of(3000, "pair"), "empty3000pair.yaml"))) == 100


def test_a_new_line_replaces_the_old_one(tmp_path):
    line = dict(measure="graph", cells=1, job="cell", jobs=2, seconds=1.0)
    assert len(scaling.renew_lines([line], tmp_path/"t.csv")) == 1
    both = scaling.renew_lines([{**line, "seconds": 2.0}, {**line, "cells": 9}], tmp_path/"t.csv")
    assert both["seconds"].tolist() == [2.0, 1.0]


def test_an_unknown_job_is_refused():
    with pytest.raises(RuntimeError, match="job"): scaling.time_workflow(100, "group")
    done = subprocess.run([sys.executable, ROOT/"bench"/"scaling.py", "--job", "group"], capture_output=True, text=True)
    assert done.returncode == 2 and "invalid choice: 'group'" in done.stderr


@pytest.mark.slow
def test_empty_jobs_and_networks_are_counted():
    graph, run = scaling.time_workflow(100, "pair", limit=20)
    assert graph["total"] == run["total"] > 100 and 0 < run["done"] <= run["total"]
    assert scaling.networks_per_hour(2, cells=2)["done"] == 12
