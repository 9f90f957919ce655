"""List the items of all papers by key."""

import difflib

from lowcurve.errors import InputError
from lowcurve.papers import fawzi2018 as fawzi2018topology
from lowcurve.papers.bardusco import tables as bardusco_report
from lowcurve.papers.common.context import Item
from lowcurve.papers.cure import tables as moosavi2019cure
from lowcurve.papers.lcnn import tables as srinivas2022lcnn
from lowcurve.papers.yu2018 import tables as yu2018interpreting

ITEMS: dict[str, Item] = {
    item.key: item
    for paper in (bardusco_report, fawzi2018topology, moosavi2019cure, srinivas2022lcnn, yu2018interpreting)
    for item in paper.ITEMS
}


def get_item(key: str) -> Item:
    """Return the item with this key.

    Args:
        key: PAPER/ITEM, such as "srinivas2022lcnn/table-1".

    Raises:
        InputError: If there is no such item. The error names the nearest key.

    Example:
        >>> get_item("srinivas2022lcnn/table-1").where
        'Table 1, section 5.1'
    """
    if key not in ITEMS:
        close = difflib.get_close_matches(key, ITEMS, n=1, cutoff=0.4)
        hint = f"write {close[0]}" if close else "see lowcurve reproduce --list"
        raise InputError("the key of an item", repr(key), hint)
    return ITEMS[key]
