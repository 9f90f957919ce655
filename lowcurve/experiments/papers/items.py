"""The items of all papers by their keys."""

import difflib

from lowcurve.errors import InputError
from lowcurve.experiments.papers import (
    bardusco_report,
    fawzi2018topology,
    moosavi2019cure,
    srinivas2022lcnn,
    yu2018interpreting,
)
from lowcurve.experiments.papers.reproduction import Item

ITEMS: dict[str, Item] = {
    item.key: item
    for paper in (bardusco_report, fawzi2018topology, moosavi2019cure, srinivas2022lcnn, yu2018interpreting)
    for item in paper.ITEMS
}


def item(key: str) -> Item:
    """The item of that key. Errors: `InputError` for an unknown one, with the nearest.

    Example:
        >>> item("srinivas2022lcnn/table-1").where
        'Table 1, section 5.1'
    """
    if key not in ITEMS:
        close = difflib.get_close_matches(key, ITEMS, n=1, cutoff=0.4)
        mend = f"write {close[0]}" if close else "see lowcurve reproduce --list"
        raise InputError("the key of an item", repr(key), mend)
    return ITEMS[key]
