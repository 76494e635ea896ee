"Known effects on made-up targets give known words."
import numpy as np
import pandas as pd
import pytest

from lth_nb.comparisons import COMPARED, target_effects
from lth_nb.over_targets import verdicts_over_targets
from lth_nb.papers import CLAIMS

JUDGED = {id: CLAIMS[id] for id in ("S1", "S8")}


def word(effect, targets=8, spread=0.2, against=(), excluded=None):
    "The word for S1 and for S8, with one effect in points; targets in `against` have the opposite."
    rng, rows = np.random.default_rng(1), []
    for id, claim in JUDGED.items():
        for contrast, t, seed in ((c, t, s) for c in claim.deciding for t in range(targets) for s in range(3)):
            points = (-effect if t in against else effect) + rng.normal(0, spread)
            rows.append(dict(id=id, contrast=contrast, target=f"t{t}", seed=seed, difference=points / 100))
    compared = pd.DataFrame(rows).assign(fraction=1.0, model="net", source="s", source_b="").reindex(columns=COMPARED)
    table = verdicts_over_targets(target_effects(compared, excluded or {}), JUDGED)
    return dict(zip(table.id, table.verdict))


@pytest.mark.parametrize("effect, words", [(3, "holds here"), (-3, "fails here")], ids=["for", "against"])
def test_a_clear_effect_decides(effect, words):
    assert word(effect) == {"S1": words, "S8": words}


def test_a_claim_about_every_target_fails_on_one():
    assert word(3, against=[0])["S1"] == "fails here"


def test_fewer_than_five_targets_decide_nothing():
    assert word(3, targets=4) == {"S1": "not tested", "S8": "not tested"}
    assert word(3, targets=5)["S8"] == "holds here"
    assert word(3, targets=5, excluded={"t0": "too odd"})["S8"] == "not tested"


def test_noise_decides_nothing():
    assert word(0, spread=3) == {"S1": "mixed", "S8": "open"}
