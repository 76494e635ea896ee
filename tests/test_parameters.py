"Parameters of run notebooks: one value in any form, and words for what does not fit."
import pytest
from conftest import said

from lth_nb.parameters import read_parameter

FORMS = [
    ("seeds", 2.0, [2]), ("source", ["digits"], "digits"), ("source", 5, "5"), ("model", None, ""),
    ("source_fraction", "0.5", 0.5),
    ("changes", "{lr: 0.03, milestones: [1ep, 2ep]}", {"lr": 0.03, "milestones": ["1ep", "2ep"]}),
    *(("changes", empty, {}) for empty in ("", None, {}, "{}")),
]


@pytest.mark.parametrize("name, given, value", FORMS, ids=str)
def test_a_value_is_read_in_any_form(name, given, value):
    read = read_parameter(name, given)
    assert read == value and type(read) is type(value)


WRONG = [
    ("seeds", "a", "parameter seeds = 'a': use whole numbers from 0, such as 0 or [0, 1]"),
    *(("seeds", v, "parameter seeds = ") for v in (True, -1, 1.5, [[1]], float("nan"), "1;2", {"a": 1})),
    *(
        ("source_fraction", v, "parameter source_fraction = ")
        for v in (0, 1.1, "x", [0.1, 0.2], "", None)
    ),
    ("source", ["digits", "mnist_5k"], "parameter source = ['digits', 'mnist_5k']: use one name"),
    ("arms", [True], "use names, such as [ticket, scratch]"),
    ("changes", "lr", "parameter changes = 'lr': use fields with values, such as {lr: 0.03}"),
    ("orders", 1, "use 0, or a whole number above 1"),
]


@pytest.mark.parametrize("name, given, words", WRONG, ids=str)
def test_what_does_not_fit_is_refused(name, given, words):
    assert words in said(lambda: read_parameter(name, given))
