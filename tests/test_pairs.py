"Paired differences on a table with known effects: every rule for levels and sources against plain Python."
import numpy as np
import pandas as pd
import pytest
from conftest import said

from lth_nb.claims import RowReader, claim_rows, contrast_pairs, in_panels, pairs_of
from lth_nb.papers import CLAIMS, DENSE, Contrast, side

EFFECTS = dict(
    scratch=0, ticket=4, finetuned=1, original=-2, reinit=-3, random=-5, shuffled=-4, shuffled_globally=-4.5,
    mask_only=-1, weights_only=2, dense_rewound=1.5, dense_finetuned=1
)
INFO = dict(
    study="made-up",
    scale="Made-up numbers that test the rules.",
    roles=dict(
        natural=["photos", "objects"], art=["paintings"], pathology=["cells"], related=[["cells", "paintings"]],
        larger=["cells"], smaller=["paintings"], more_classes=[["objects", "photos"]]
    ),
)
ALIKE = dict(study="made-up", fraction=1.0, model="net", recipe="base", freeze="none", head="linear", params=1, flops=1)


def made_up(effects=EFFECTS, seeds=range(5), rounds=6, noise=0.002, own=0.0, **conditions):
    "Rows with known effects; `own` is added for the target's own tickets."
    random, rows = np.random.default_rng(0), []
    cases = [(seed, i, target) for seed in seeds for i, target in enumerate(("paintings", "cells"))]
    for seed, i, target in cases:
        offset = np.random.default_rng([seed, i]).normal(0, 0.03)
        for source in ("photos", "objects", "paintings", "cells"):
            for arm, points in effects.items():
                if arm == "scratch" and source != "photos": continue
                found_on = dict(
                    source="" if arm == "scratch" else source, source_fraction=np.nan if arm == "scratch" else 1.0,
                    ticket_recipe="" if arm == "scratch" else "base"
                )
                for level in (0,) if arm in DENSE else range(1, rounds + 1):
                    accuracy = 0.7 + offset + (points + own * (source == target and arm not in DENSE)) / 100
                    val, test = accuracy + random.normal(0, noise), accuracy + random.normal(0, noise)
                    measured = dict(density=0.4**level, val_accuracy=val, test_accuracy=test)
                    key = dict(arm=arm, target=target, seed=seed, level=level)
                    rows.append(ALIKE | found_on | key | measured | conditions)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def frame(): return made_up()


def pairs(rows, *contrast, **more): return contrast_pairs(rows, Contrast("", *contrast, **more), INFO)
def cells(found): return set(zip(found.source, found.source_b, found.target))


def mean(rows): return sum(r["test_accuracy"] for r in rows) / len(rows)
def at(rows, level): return next(r["test_accuracy"] for r in rows if r["level"] == level)


PICKS = {  # how a rule reads the rows of one arm, source, target and seed
    "sparse": lambda rows: mean([r for r in rows if r["level"] == 0 or r["density"] <= 0.2]),
    (0.05, 0.2): lambda rows: mean([r for r in rows if r["level"] == 0 or 0.05 <= r["density"] <= 0.2]),
    0.03: lambda rows: at(rows, 4),
    "sparsest": lambda rows: at(rows, 6),
    "chosen": lambda rows: max(rows, key=lambda r: (r["val_accuracy"], -r["density"]))["test_accuracy"],
}


def costly(rows):
    "Accuracies 0.6, 0.7, 0.8 for dense networks of 1, 4 and 16 operations, and tickets of 2, 8 and 32; by seed."
    wide = [("net_w1", 1, 0.6), ("net_w2", 4, 0.7), ("net", 16, 0.8)]
    dense = dict(ALIKE, arm="scratch", source="", source_fraction=np.nan, ticket_recipe="", level=0, density=1.0)
    sparse = dict(ALIKE, arm="ticket", source="cells", source_fraction=1.0, ticket_recipe="base", test_accuracy=0.9)
    made = [dense | dict(model=model, flops=flops, test_accuracy=accuracy) for model, flops, accuracy in wide]
    made += [sparse | dict(level=l, density=0.5**l, flops=flops) for l, flops in ((3, 2), (2, 8), (1, 32))]
    table = pd.DataFrame([row | dict(target="cells", seed=seed) for row in made for seed in rows])
    table["test_accuracy"] += table["seed"] / 100
    return table.assign(params=10 * table["flops"], val_accuracy=table["test_accuracy"])


@pytest.mark.parametrize("level", ["equal_flops", "equal_params"])
def test_narrower_networks_are_read_off_their_curve_at_the_cost_of_a_ticket(level):
    "Tickets of 2 and 8 operations are halfway between two widths in the logarithm; that of 32 costs more than any."
    frame = costly(range(3))
    contrast = Contrast("", side("ticket", "own"), side("scratch", model="narrower"), level=level)
    found = contrast_pairs(frame, contrast, INFO | dict(roles=dict(narrower=[["net", "net_w1"], ["net", "net_w2"]])))
    assert found["model"].tolist() == ["net"] * 3 and found["seed"].tolist() == [0, 1, 2]
    assert found["b"].to_numpy() == pytest.approx(np.mean([0.65, 0.75]) + np.arange(3) / 100)
    assert found["difference"].to_numpy() == pytest.approx([0.9 - 0.7] * 3)
    assert found["density_a"].to_numpy() == pytest.approx([(0.5**3 + 0.5**2) / 2] * 3)
    assert found["best_of_test"].isna().all()
    assert contrast_pairs(frame, contrast, INFO).empty  # no role says which networks are narrower


def test_narrower_networks_are_no_networks_of_other_comparisons():
    frame = costly(range(3))
    roles = dict(narrower=[["net", "net_w1"], ["net", "net_w2"]])
    contrast = Contrast("", side("ticket", "own"), side("scratch"), level=(0, 1))
    found = contrast_pairs(frame, contrast, INFO | dict(roles=roles))
    assert found["b"].to_numpy() == pytest.approx(0.8 + np.arange(3) / 100)


def test_equal_cost_is_exact_where_both_sides_cost_the_same():
    frame = costly(range(2))
    fresh = frame[frame["arm"] == "ticket"].assign(arm="reinit")
    fresh["test_accuracy"] -= 0.05
    contrast = Contrast("", side("ticket", "own"), side("reinit", "own"), level="equal_flops")
    found = contrast_pairs(pd.concat([frame, fresh]), contrast, INFO)
    assert found["difference"].to_numpy() == pytest.approx([0.05] * 2)


def test_a_side_of_narrower_networks_needs_equal_cost():
    wide, narrow = side("ticket", "own"), side("scratch", model="narrower")
    assert "are compared at equal cost" in said(lambda: Contrast("c", wide, narrow, level="chosen"))
    assert "use '' for the pair's own network" in said(lambda: side("scratch", model="wider"))


PICKS["drop"] = lambda rows: PICKS["sparsest"](rows) - PICKS["chosen"](rows)


def by_hand(frame, a, b, pick):
    "Differences of two arms from foreign sources, averaged over sources: {(target, seed): difference}."
    rows, found = frame.to_dict("records"), {}
    def of(arm, source, target, seed):
        key = (arm, target, seed)
        return [r for r in rows if (r["arm"], r["target"], r["seed"]) == key and r["source"] in ("", source)]
    for target, seed in sorted({(r["target"], r["seed"]) for r in rows}):
        sources = sorted({r["source"] for r in rows} - {"", target})
        each = [pick(of(a, s, target, seed)) - pick(of(b, s, target, seed)) for s in sources]
        found[target, seed] = sum(each) / len(each)
    return found


@pytest.mark.parametrize("rule, other", [
    *((rule, "finetuned") for rule in PICKS), *((rule, "scratch") for rule in ("sparse", (0.05, 0.2), "chosen"))
], ids=str)
def test_every_rule_against_plain_python(frame, rule, other):
    found = pairs(frame, side("ticket"), side(other), rule).groupby(["target", "seed"]).difference.mean()
    expected = by_hand(frame[frame.arm.isin(["ticket", other])], "ticket", other, PICKS[rule])
    assert list(found.index) == list(expected)
    np.testing.assert_allclose(found, list(expected.values()), rtol=0, atol=1e-12)


PAINTINGS = ("paintings", "paintings")
RELATED = [  # conditions of two sides, and the cells that they give
    (("ticket", "natural"), ("ticket", "own"), dict(on="art"), {("photos", *PAINTINGS), ("objects", *PAINTINGS)}),
    (("ticket", "related"), ("ticket", "own"), {}, {("cells", *PAINTINGS)}),
    (("ticket", "more_classes"), ("ticket", "fewer_classes"), {},
     {("objects", "photos", target) for target in ("paintings", "cells")}),
]


@pytest.mark.parametrize("a, b, more, expected", RELATED, ids=["natural on art", "related", "more classes"])
def test_relations_choose_sources(frame, a, b, more, expected):
    assert cells(pairs(frame, side(*a), side(*b), **more)) == expected


def test_sources_match_where_both_sides_have_the_same_relation(frame):
    assert len(cells(pairs(frame, side("ticket", "any"), side("reinit", "any")))) == 8
    assert len(cells(pairs(frame, side("weights_only"), side("ticket", "own")))) == 6


def test_levels_meet_by_density_and_not_by_number(frame):
    "A one-shot file whose level 1 has the density of level 3."
    once = frame[(frame.arm == "finetuned") & (frame.level == 3)].assign(level=1, ticket_recipe="one-shot")
    found = pairs(pd.concat([frame, once]), side("finetuned"), side("finetuned", ticket_recipe="one-shot"))
    np.testing.assert_allclose(found.difference, 0, rtol=0, atol=1e-12)
    assert set(found.density_a.round(3)) == {0.064}


def test_a_share_of_the_source_is_read_where_it_is_asked_for(frame):
    both = pd.concat([frame, made_up({"ticket": 2}).assign(source_fraction=0.25)])
    found = pairs(both, side("ticket", "own"), side("ticket", "own", source_share=0.25))
    assert found.difference.mean() == pytest.approx(0.02, abs=1e-3)


def test_own_tickets_see_no_more_data_than_the_targets_networks():
    scarce = made_up(fraction=0.1)
    scarce.loc[scarce.source == scarce.target, "source_fraction"] = 0.1
    assert len(pairs(scarce, side("ticket", "own"), side("scratch"))) == 10


def test_the_best_source_is_one_per_seed_by_validation(frame):
    best = pairs(frame, side("ticket", "best_natural"), side("scratch"), level="chosen")
    assert cells(best) == {("best_natural", "", "paintings"), ("best_natural", "", "cells")}
    natural = frame[(frame.arm == "ticket") & frame.source.isin(["photos", "objects"])]
    first = natural.loc[natural.groupby(["target", "seed"]).val_accuracy.idxmax()]
    by_validation = first.set_index(["target", "seed"]).test_accuracy.sort_index()
    found = best.set_index(["target", "seed"]).a.sort_index()
    np.testing.assert_allclose(found, by_validation, rtol=0, atol=1e-12)
    refused = said(lambda: Contrast("", side("ticket", "best"), side("scratch")))
    assert "a best source needs level = 'chosen'" in refused


def test_no_side_has_more_levels_to_choose_from(frame):
    few = frame[(frame.source != "photos") | (frame.arm != "ticket") | frame.level.isin([3, 6])]
    shared = pairs(few, side("ticket", "natural"), side("ticket", "own"), level="chosen")
    assert set(shared.density_a.round(3)) | set(shared.density_b.round(3)) == {0.064, 0.004}


@pytest.mark.parametrize("level, count", [(0.5, 30), (0.001, 0), ((0.5, 0.9), 0)], ids=str)
def test_a_density_is_the_nearest_level_within_a_factor(frame, level, count):
    assert len(pairs(frame, side("ticket"), side("finetuned"), level=level, kind="greater")) == count


@pytest.mark.parametrize("level", ["sparse", "chosen", "drop"])
def test_a_shared_reader_gives_the_same_differences(frame, level):
    contrast = Contrast("", side("ticket"), side("reinit"), level)
    alone = contrast_pairs(frame, contrast, INFO)
    shared = pairs_of(RowReader(frame, INFO), contrast)
    pd.testing.assert_frame_equal(shared, alone[shared.columns])
    assert alone.difference.mean() == pytest.approx(0 if level == "drop" else 0.07, abs=5e-3)


def test_the_order_of_rows_does_not_matter(frame):
    found = [pairs(rows, side("ticket"), side("scratch"), level="chosen") for rows in
             (frame.sample(frac=1, random_state=0), frame)]
    pd.testing.assert_frame_equal(*found)


def test_seeds_and_studies_are_never_mixed(frame):
    other = frame.copy()
    other.loc[other.arm == "scratch", "seed"] += 100
    assert len(pairs(other, side("ticket"), side("scratch"))) == 0
    both = pd.concat([frame, frame.assign(study="other")])
    assert "rows of made-up, other" in said(lambda: pairs(both, side("ticket"), side("scratch")))


def test_figures_draw_the_rows_that_the_verdict_sees(frame):
    assert set(claim_rows(frame, INFO, CLAIMS["S8"]).arm) == {"ticket", "reinit"}
    assert set(claim_rows(frame, INFO, CLAIMS["S2"]).target) == {"paintings"}
    assert len(claim_rows(frame, dict(INFO, roles={}), CLAIMS["S2"])) == 0


def panels(rows, *columns): return in_panels(rows, *columns).on


def test_scratch_is_in_the_panels_of_every_source(frame):
    rows = claim_rows(frame, INFO, CLAIMS["S1"])
    drawn = in_panels(rows)
    assert drawn[drawn.arm == "scratch"].groupby("on").size().tolist() == [5] * 8
    assert set(drawn[drawn.arm == "scratch"].source) == {""}
    assert sorted(panels(rows, ("target", "fraction")).unique()) == ["cells", "paintings"]


def test_titles_say_what_differs(frame):
    "A source that all rows share goes below the figure."
    of_photos = frame[frame.source.isin(["photos", ""])]
    assert sorted(panels(of_photos).unique()) == ["cells", "paintings"]
    heads = frame[frame.arm == "ticket"][:2].assign(head=["linear", "mlp"])
    titles = panels(heads, ("target", "head")).str.split(", ").str[-1]
    assert titles.tolist() == ["linear head", "two-layer head"]
    assert panels(frame[:0]).tolist() == []
