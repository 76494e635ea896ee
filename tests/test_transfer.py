"Transfers: calls that are refused before anything is trained, and divergence that is allowed but does not happen."
import pytest

from lth_nb.data import load_dataset
from lth_nb.ticket_values import TicketRecipe
from lth_nb.tickets import find_tickets
from lth_nb.training import Recipe
from lth_nb.transfer import transfer

RECIPE = Recipe(length="20it", batch_size=32, lr=0.1)


def digits(size, fraction=1.0): return load_dataset("digits", image_size=size, channels=1, fraction=fraction)


@pytest.fixture(scope="module")
def target(): return digits(8, 0.1)


@pytest.fixture(scope="module")
def source():
    recipe = TicketRecipe(training=RECIPE, rounds=3, rate=0.6, rewind="5it")
    return find_tickets("lenet_300_100", digits(8), recipe)


REFUSED = {
    "needs tickets found on the target itself": dict(arm="mask_only", level=1),
    "needs tickets found on a source": dict(arm="ticket", level=1, source=None),
    "is dense: use level 0, not 2": dict(arm="scratch", level=2, source=None, model="lenet_300_100"),
    "sparse arms start at level 1": dict(arm="ticket", level=0),
    "have levels 0 to 3": dict(arm="ticket", level=9),
    "name a network": dict(arm="scratch", source=None),
    "do not fit the model": dict(arm="ticket", level=1, data=digits(12)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_wrong_call_is_refused(source, target, words):
    call = dict(data=target, recipe=RECIPE, source=source) | REFUSED[words]
    with pytest.raises(ValueError, match=words): transfer(**call)


def test_allowing_divergence_changes_nothing_if_none_happens(source, target):
    found = [transfer("ticket", target, RECIPE, level=1, source=source, may_diverge=allowed).values
             for allowed in (False, True)]
    one, other = ({k: v for k, v in values.items() if k != "seconds"} for values in found)
    assert one == other
