"Plans: networks, images and hours of a study before it runs, also where data are missing."
import pytest
import yaml
from conftest import said

from lth_nb.core import Paths
from lth_nb.freshness import check_data, missing_data
from lth_nb.grid import networks_of, transfer_cells
from lth_nb.plan import ASSUMED_IMAGES, measured_throughput, plan
from lth_nb.studyfile import EXAMPLE, parse_study
from lth_nb.training import steps_per_epoch


def parsed(*replaced, **changes):
    "The example with lines replaced and keys changed."
    text = EXAMPLE
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return parse_study({**yaml.safe_load(text), **changes}, "example.yaml")


@pytest.fixture(scope="module")
def study(): return parsed()


def test_networks_and_hours_add_up(study):
    found = plan(study, images_per_second=10_000)
    searched = 3 * 2 * 5  # searches, seeds, levels
    assert found.networks.sum() == sum(len(networks_of(study, c)) for c in transfer_cells(study)) + searched
    assert found.hours.sum() == pytest.approx(found.images.sum() / 10_000 / 3600)


def test_the_speed_is_measured_where_none_is_stated(study):
    assert measured_throughput(study, "lenet_300_100", 32, seconds=0.2) > 0


def test_a_stated_speed_is_scaled_by_pixels():
    sizes = "channels: 1\nimage_sizes: {mnist_5k: 16}\nimages_per_second: {lenet_300_100: 10000}"
    speeds = plan(parsed(("channels: 1", sizes))).set_index(["kind", "pixels"]).images_per_second.to_dict()
    expected = {("find_tickets", 16): 2500, ("find_tickets", 8): 10_000, ("transfer", 8): 10_000}
    assert speeds == pytest.approx(expected)


ABSENT = ("targets: digits", "targets: blood_cells"), ("60it", "2ep")


def test_missing_data_are_named(tmp_path):
    absent = parsed(*ABSENT)
    assert list(missing_data(absent, Paths(tmp_path))) == ["blood_cells"]
    assert "save it as blood_cells.npz" in said(lambda: check_data(absent, Paths(tmp_path)), FileNotFoundError)
    names = ("blood_cells", "brain_mri", "pap_smear", "pollen")
    blocks = tuple(t.model_copy(update={"targets": names}) for t in absent.transfers)
    many = absent.model_copy(update={"transfers": blocks})
    words = said(lambda: check_data(many, Paths(tmp_path)), FileNotFoundError)
    assert words.startswith("4 data sets of study") and all(n in words for n in names) and len(words) < 400, words


def test_a_plan_without_the_data_assumes_a_number_of_images(tmp_path):
    grid = [dict(targets="blood_cells", fractions=0.1, arms="scratch")]
    scratch = parsed(transfers=grid, recipes={"base": {"length": "2ep", "batch_size": 32}})
    per_network = 2 * steps_per_epoch(ASSUMED_IMAGES // 10, 32) * 32
    assert plan(scratch, Paths(tmp_path), images_per_second=1e4).images.tolist() == [2 * per_network]


def test_searches_that_train_nothing_are_not_counted(study):
    "The example's base recipe with masks at initialization."
    early = parsed(
        ("rate: 0.6, rewind: 10it", "rate: 0.6, score: snip, rewind: 0it"),
        ("like: base, one", "like: base, score: magnitude, rewind: 10it, one"),
    )
    assert early.ticket_recipes["base"].untrained
    found, before = (plan(s, images_per_second=10_000).set_index("kind").networks for s in (early, study))
    assert found["find_tickets"] < before["find_tickets"]
