"""Hessian products of random networks: right to 1e-8, or a sentence; never a wrong number and never a crash."""

import pytest
from random_programs import OPERATIONS, Program, examine

from lowcurve.analysis.hessians import REPLAYED


@pytest.mark.parametrize("first", range(0, 240, 40))
def test_every_product_of_a_random_network_is_right_or_refused(first):
    outcomes = {seed: examine(Program.of(seed)) for seed in range(first, first + 40)}
    found = {seed: outcome for seed, outcome in outcomes.items() if outcome is not None}
    assert {seed: (Program.of(seed).names, one) for seed, one in found.items() if not one.right} == {}
    assert not [seed for seed, one in found.items() if "replayed product" in one.backend]  # the rules need no check
    assert len(found) > 35
    assert sum(one.backend == REPLAYED for one in found.values()) > 25
    assert sum(one.backend.startswith("refused") for one in found.values()) < 5


def test_the_vocabulary_is_large():
    assert len(OPERATIONS) > 200
