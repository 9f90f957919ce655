"""The results of a report from the parts of a run."""

import pytest

from lowcurve.errors import InputError
from lowcurve.results import Column, Table
from lowcurve.study.comparison import compare


def table(heading: str, value: float) -> Table:
    return Table(heading, (Column("network"), Column(heading)), (("CURE", value),))


def test_results_come_in_the_order_of_the_report():
    parts = {
        "attack-CURE": {"attacks": table("then PGD", 0.4), "robustness": table("clean", 0.9)},
        "curvature-CURE": {"spectrum": table("C", 2.0), "geometry": table("‖g‖", 1.0)},
    }
    found = compare(parts, ["CURE"])
    assert list(found) == ["comparison", "attacks", "geometry", "spectrum"]
    assert found["comparison"].rows == (("CURE", 0.9, 1.0),)


def test_a_result_of_an_unknown_kind_is_not_dropped():
    with pytest.raises(InputError, match="results of kinds that the report shows, got 'surprise'"):
        compare({"curvature-CURE": {"surprise": table("C", 2.0)}}, ["CURE"])
