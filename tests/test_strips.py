"""Half a Hessian from strips of rows: the same matrix as from whole products, for fewer operations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from replayed_networks import CLASSES, NETWORKS, Called, made
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from lowcurve import randomness
from lowcurve.analysis.hessians import Replayed, hessian
from lowcurve.analysis.spectra import dense
from lowcurve.examples.public_networks import lenet5, soft_resnet20
from lowcurve.losses import loss_field
from lowcurve.randomness import stream
from lowcurve.types import Strips


def images(*shape: int) -> Tensor:
    return randomness.uniform(torch.zeros(*shape, dtype=torch.float64), 0, 1, generator=stream(0, "images"))


X, Y = images(3, 2, 6, 6), torch.tensor([0, 1, 4])


class Whole:
    """The same operator, of which nobody knows that it is symmetric."""

    def __init__(self, operator: Replayed) -> None:
        self.many, self.take = operator.many, operator.take

    def __call__(self, v: Tensor) -> Tensor:
        return self.many(v[None])[0]


def require_equal(operator: Replayed, x: Tensor, chunk: int = 128) -> Tensor:
    assert isinstance(operator, Strips)
    assert not isinstance(Whole(operator), Strips)
    matrices = dense(Whole(operator), x, chunk=chunk)
    scale = float(matrices.abs().max()) or 1.0
    assert_close(dense(operator, x, chunk=chunk) / scale, matrices / scale, rtol=0, atol=1e-12)
    return matrices


@pytest.mark.parametrize("name", NETWORKS)
def test_strips_of_every_kind_of_network_give_the_matrix_of_its_products(name):
    require_equal(hessian(loss_field(made(NETWORKS[name]), Y), X), X)


@pytest.mark.parametrize("chunk", [1, 5, 12, 40, 1000])
@pytest.mark.parametrize("part", ["Gauss-Newton", "network"])
def test_parts_of_rows_several_rows_and_parts_of_the_hessian(chunk, part):
    require_equal(hessian(loss_field(made(NETWORKS["residual"]), Y), X).only(part), X, chunk)


def test_a_strip_is_what_its_products_are_from_its_first_row_on():
    operator = hessian(loss_field(made(NETWORKS["softplus"]), Y), X)
    for first, rows in ((0, 1), (2, 3), (5, 1), (0, 6)):
        v = randomness.normal(X.new_zeros(4, 3, 2, rows, 6), generator=stream(0, "v"))
        everywhere = X.new_zeros(4, 3, 2, 6, 6)
        everywhere[..., first : first + rows, :] = v
        assert_close(operator.strip(v, first), operator.many(everywhere)[..., first:, :], rtol=1e-12, atol=1e-14)


LAYERS = st.lists(
    st.tuples(
        st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2), st.sampled_from(["plain", "grouped"]),
        st.sampled_from(["softplus", "linear", "sum", "every second", "wider", "pool"]),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@given(LAYERS, st.integers(4, 11), st.integers(0, 99))
def test_any_convolutions_strides_paddings_sums_and_slices(layers, height, seed):
    """In every order and size that leaves a map: windows that skip rows, reach beyond both borders, or miss the strip."""
    with randomness.isolated(seed, "network"):
        steps, x, channels = [], images(2, 2, height, 5), 2
        probe = x
        for kernel, stride, padding, dilation, groups, after in layers:
            wide = nn.Conv2d(channels, channels, (kernel, 3), (stride, 1), (padding, 1), (dilation, 1),
                             groups=channels if groups == "grouped" else 1).double()  # fmt: skip
            if probe.shape[2] + 2 * padding < dilation * (kernel - 1) + 1:
                continue
            made_of = after_convolution(wide, after)
            probe, steps = made_of(probe), [*steps, made_of]
            channels = probe.shape[1]
        top = nn.Linear(probe[0].numel(), CLASSES).double()

    def network(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return top(torch.tanh(x).flatten(1))

    model = Called(network)
    require_equal(hessian(loss_field(model, torch.tensor([0, 3])), x), x)


def after_convolution(layer: nn.Conv2d, after: str):
    """A convolution and what comes after it."""

    def step(x: Tensor) -> Tensor:
        found = nn.functional.softplus(layer(x))
        if after == "linear":
            return layer(x)
        if after == "sum":
            return found - x if found.shape == x.shape else found + 0.5 * found
        if after == "every second":
            return found[:, :, 1::2] if found.shape[2] > 1 else found[:, :, ::2, ::2]
        if after == "wider":
            return nn.functional.pad(found, (0, 1, 0, 0, 0, 2))
        return nn.functional.max_pool2d(found, (2, 1)) if after == "pool" and found.shape[2] > 1 else found

    return step


def operations(make) -> int:
    with FlopCounterMode(display=False) as counted:
        make()
    return counted.get_total_flops()


@pytest.mark.parametrize(
    ("build", "shape", "at_most"), [(soft_resnet20, (3, 32, 32), 0.75), (lenet5, (1, 28, 28), 0.8)]
)
def test_a_whole_matrix_from_strips_takes_fewer_operations(build, shape, at_most):
    x = images(1, *shape).float()
    operator = hessian(loss_field(build().eval(), torch.tensor([1])), x)
    strips, products = (operations(lambda one=one: dense(one, x)) for one in (operator, Whole(operator)))
    assert strips < at_most * products


def test_what_is_no_image_or_sees_whole_images_at_once_has_no_strips_and_the_same_matrix():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.Softplus(), nn.Linear(8, CLASSES)).double()
    require_equal(hessian(loss_field(flat, Y), X), X)
    points = X.flatten(1)
    require_equal(hessian(loss_field(flat, Y), points), points)
