"A study trained in pieces is the study trained at once, also when it goes on from the table on another machine."
import shutil

import pandas as pd
import yaml

from lth_nb.core import Paths
from lth_nb.pieces import run_piece
from lth_nb.results import merge_rows
from lth_nb.studyfile import EXAMPLE, parse_study


def results_of(frame): return frame[[c for c in frame if c not in ("seconds", "commit")]]


def test_pieces_give_the_same_table(tmp_path):
    content = yaml.safe_load(EXAMPLE)
    some = [*content["transfers"][:1], *content["transfers"][2:]]
    study = parse_study({**content, "seeds": [0], "transfers": some}, "example.yaml")
    at_once = run_piece(study, minutes=60, paths=Paths(tmp_path/"whole"))
    out, second = tmp_path/"out", Paths(tmp_path/"second")
    sizes = [len(run_piece(study, 0, out, Paths(tmp_path/"first"))) for _ in range(14)]
    assert sizes == sorted(sizes) and 0 < sizes[-1] < len(at_once)

    second.results.mkdir(parents=True)
    for file in out.glob("example.*"): shutil.copy(file, second.results)
    assert len(list(out.glob("*/*.safetensors"))) == 2
    rest = run_piece(study, 60, paths=second)
    merged = merge_rows([out/"example.csv", second.results/"example.csv"])
    for one in (rest, merged): pd.testing.assert_frame_equal(results_of(one), results_of(at_once))
