"""Random networks: no bound is exceeded, and most networks of the vocabulary are certified."""

import pytest
from random_networks import Tally, check_network


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 1500), marks=pytest.mark.slow)], ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_no_bound_of_a_random_network_is_exceeded(seeds):
    tally = Tally()
    for seed in seeds:
        check_network(seed, tally)
    assert tally.violations == []
    assert tally.certified > 0.9 * len(seeds)
    assert tally.certified + sum(tally.refused.values()) == len(seeds)
    assert tally.smooth > 0.25 * len(seeds)
    assert len(tally.operations) > 40
    assert max(tally.tightness) > 0.99  # some bounds are reached
