"""Every table, figure and number of the papers has its item: their own numbering against what the items say they cover."""

import re

import pytest

from lowcurve.papers.common.units import CONVERSIONS
from lowcurve.papers.items import ITEMS

CHECKLIST = {
    "moosavi2019cure": {"Table": range(1, 4), "Figure": range(1, 16)},
    "srinivas2022lcnn": {"Table": range(1, 4), "Figure": range(1, 3)},
    "yu2018interpreting": {"Table": range(1, 3), "Figure": range(1, 16)},
    "bardusco_report": {"Table": range(1, 3), "Figure": range(2, 10)},  # its Figure 1 illustrates the word adversarial
    "fawzi2018topology": {"Algorithm": range(1, 2)},
}
"""What each paper numbers, to the last."""
IN_TEXT = {
    "moosavi2019cure": ("Theorem 1", "Remark 3", "Footnote 5", "cost"),
    "srinivas2022lcnn": ("Theorem 1", "time"),
    "yu2018interpreting": ("time", "8.1"),
    "bardusco_report": ("section 2.1",),
    "fawzi2018topology": ("section 4", "section 5"),
}
"""What they say without a number of its own: some item's key, title or place has these words."""


def numbered(text: str, kind: str) -> set[int]:
    """The numbers that follow "Figure", "Figures 1, 2 and 5" or "Figures 5 to 8"."""
    found: set[int] = set()
    for listed in re.findall(rf"{kind}s? (\d+(?:(?:, | and | to )\d+)*)", text):
        for part in re.split(r", | and ", listed):
            ends = [int(number) for number in part.split(" to ")]
            found |= set(range(ends[0], ends[-1] + 1))
    return found


def test_numbers_are_read_from_places():
    assert numbered("Figures 1, 3 and 5, section 2", "Figure") == {1, 3, 5}
    assert numbered("Table 2, Figures 5 to 8, section 2.2", "Figure") == {5, 6, 7, 8}
    assert numbered("Table 2, section 5.2", "Figure") == set()


@pytest.mark.parametrize("paper", CHECKLIST)
def test_every_table_and_figure_of_a_paper_has_an_item(paper):
    places = " ; ".join(item.where for key, item in ITEMS.items() if key.startswith(f"{paper}/"))
    for kind, numbers in CHECKLIST[paper].items():
        assert numbered(places, kind) == set(numbers), (paper, kind)


@pytest.mark.parametrize("paper", IN_TEXT)
def test_what_a_paper_says_in_its_text_has_an_item(paper):
    said = " ; ".join(f"{key} {item.title} {item.where}" for key, item in ITEMS.items() if key.startswith(f"{paper}/"))
    assert not [words for words in IN_TEXT[paper] if words not in said]


def test_no_item_is_of_another_paper():
    assert {key.split("/")[0] for key in ITEMS} == set(CHECKLIST)


def test_every_paper_has_its_units():
    assert {one.paper for one in CONVERSIONS} == set(CHECKLIST)
    assert all(one.words and one.how and one.ours > 0 for one in CONVERSIONS)
