"""Products with the Hessian: every kind of network against its dense Hessian in float64, at every level of confidence."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from replayed_networks import CLASSES, NETWORKS, Called, made
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from trained import public

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient, jacobian
from lowcurve.analysis.hessians import REPLAYED, gauss_newton_spectrum, hessian, record_backends
from lowcurve.analysis.secants import secant_hessian
from lowcurve.analysis.spectra import lanczos, spectrum
from lowcurve.data import Limits, load
from lowcurve.errors import InputError
from lowcurve.examples.public_networks import lenet5, resnet20, soft_lenet5
from lowcurve.geometry.curvature import hessian_matrices
from lowcurve.losses import cross_entropy, loss_field, margin
from lowcurve.models import Network
from lowcurve.randomness import stream

LEVELS = (10.0, 1.0, 1e-2, 1e-4, 1e-6, 1e-8)


class AtLevels(nn.Module):
    """A network whose i-th example has the i-th loss: its true logit is moved by what that takes."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, losses: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            logits = model(x).double()
        others = logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)
        move = others - logits.gather(1, y[:, None])[:, 0] - losses.double().expm1().log()
        self.model = model
        self.moves = torch.zeros_like(logits).scatter(1, y[:, None], move[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.moves.to(x)


X = randomness.uniform(torch.zeros(len(LEVELS), 2, 6, 6, dtype=torch.float64), 0, 1, generator=stream(0, "images"))
Y = torch.arange(len(LEVELS)) % CLASSES
V = randomness.normal(torch.zeros(3, *X.shape, dtype=torch.float64), generator=stream(0, "vectors"))


@sdpa_kernel(SDPBackend.MATH)
def dense(field_of, x: Tensor) -> Tensor:
    """Every example's Hessian by torch's own functional, one example at a time, shape (batch, d, d)."""
    found = [
        torch.autograd.functional.hessian(lambda p, k=k: field_of(k)(p).sum(), x[k : k + 1]) for k in range(len(x))
    ]
    return torch.stack([m.reshape(x[0].numel(), x[0].numel()) for m in found])


def applied(matrices: Tensor, vectors: Tensor) -> Tensor:
    return torch.einsum("bij,kbj->kbi", matrices, vectors.flatten(2)).reshape(vectors.shape)


def relative(found: Tensor, exact: Tensor) -> float:
    """The largest error of an example's product, relative to the product."""
    size = exact.flatten(2).norm(dim=2)
    error = (found.double() - exact).flatten(2).norm(dim=2)
    return float((error / torch.where(size > 0, size, 1)).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_product_is_that_of_the_dense_hessian_at_every_level_of_confidence(name):
    single, double = (made(NETWORKS[name], dtype) for dtype in (torch.float32, torch.float64))
    leveled = AtLevels(double, X, Y, torch.tensor(LEVELS))
    exact = applied(dense(lambda k: loss_field(lambda p: leveled.model(p) + leveled.moves[k], Y[k : k + 1]), X), V)
    operator = hessian(loss_field(leveled, Y), X)
    assert operator.backend == REPLAYED
    assert relative(operator.apply_many(V), exact) < 1e-9
    assert_close(operator.gradient, gradient(loss_field(leveled, Y), X), rtol=1e-9, atol=0)
    leveled.model = single
    operator = hessian(loss_field(leveled, Y), X.float())
    assert operator.backend == REPLAYED
    assert relative(operator.apply_many(V.float()), exact) < 1e-5
    twice = hessian(loss_field(leveled, Y), X.float(), replay=False)
    assert relative(torch.stack([twice(v) for v in V.float()]), exact) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_the_two_parts_make_the_whole(name):
    model = made(NETWORKS[name])
    field = loss_field(model, Y)
    operator = hessian(field, X)
    rows = jacobian(model, X).flatten(2)
    curvature = dense(lambda k: lambda z: F.cross_entropy(z, Y[k : k + 1], reduction="none"), model(X).detach())
    inner = applied(torch.einsum("bci,bcd,bdj->bij", rows, curvature, rows), V)
    assert relative(operator.only("Gauss-Newton").apply_many(V), inner) < 1e-9
    whole = operator.apply_many(V)
    assert_close(
        operator.only("Gauss-Newton").apply_many(V) + operator.only("network").apply_many(V),
        whole,
        rtol=1e-9,
        atol=1e-12,
    )
    piecewise = name in ("ReLU", "leaky ReLU", "PReLU")
    assert operator.curved != piecewise
    if piecewise:
        exact = torch.linalg.eigvalsh(dense(lambda k: loss_field(model, Y[k : k + 1]), X))
        few = gauss_newton_spectrum(field, X)
        assert_close(few[:, -4:], exact[:, -4:])
        assert float(exact[:, :-4].abs().max()) < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_the_recorded_pass_is_let_go_of(name):
    """Its activations would take three times the memory of what a product needs."""
    model, seen = made(NETWORKS[name]), []
    for module in model.modules():
        if not isinstance(module, nn.MultiheadAttention):  # it returns a tuple
            module.register_forward_hook(lambda _, __, result: seen.append(weakref.ref(result)))
    operator = hessian(loss_field(model, Y), X)
    gc.collect()
    assert seen
    assert not [result for result in seen if result() is not None]
    assert operator.backend == REPLAYED


@pytest.mark.parametrize("name", ["residual", "max-pool", "squeeze and excite", "halves", "in place"])
@pytest.mark.parametrize("replay", [True, False])
def test_an_example_does_not_depend_on_its_batch(name, replay):
    field = loss_field(made(NETWORKS[name]), Y)
    operator = hessian(field, X, replay=replay)
    rows = torch.tensor([4, 0, 4])
    few = operator.take(rows)
    assert_close(few.apply_many(V[:, rows]), operator.apply_many(V)[:, rows])
    assert_close(few.take(torch.tensor([1]))(V[0, :1]), operator(V[0, [0, *range(1, 6)]])[:1])
    alone = hessian(loss_field(field.model, Y[2:3]), X[2:3], replay=replay)
    assert_close(alone.apply_many(V[:, 2:3]), operator.apply_many(V)[:, 2:3])


def test_points_of_the_plane_and_fields_without_logits():
    spec = Network("mlp", (2,), 3, (0.5, 0.5), (0.2, 0.2), nonlinearity="softplus", width=8)
    model, x, y = spec.build(seed=0).double().eval(), 3 * X[:4, 0, 0, :2], torch.tensor([0, 1, 2, 0])
    for loss in (cross_entropy, margin):
        field = loss_field(
            model, y, lambda z, t, loss=loss: loss(z, t, reduction="none") if loss is F.cross_entropy else loss(z, t)
        )
        whole = dense(lambda k, loss=field.loss: loss_field(model, y[k : k + 1], loss), x)
        v = V[:2, :4, 0, 0, :2]
        assert relative(hessian(field, x).apply_many(v), applied(whole, v)) < 1e-9
    operator = hessian(lambda x: (x * x.exp()).sum(1), x)
    assert operator.backend == REPLAYED
    assert_close(operator(torch.ones_like(x)), (x + 2) * x.exp())
    assert operator.logit_hessian is None
    with pytest.raises(InputError, match=r"a field that shows its logits, got one without them"):
        operator.only("network")


LAYERS = st.lists(
    st.tuples(
        st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2), st.sampled_from(["plain", "grouped"]),
        st.sampled_from(["softplus", "linear", "sum", "every second", "wider", "pool"]),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@given(LAYERS, st.integers(4, 11), st.integers(0, 99))
def test_any_convolutions_strides_paddings_sums_and_slices_are_replayed(layers, height, seed):
    """In every order and size that leaves a map: windows that skip rows, or reach beyond both borders."""
    x = randomness.uniform(torch.zeros(2, 2, height, 5, dtype=torch.float64), 0, 1, generator=stream(seed, "images"))
    with randomness.temporary_seed(seed, "network"):
        steps, probe, channels = [], x, 2
        for kernel, stride, padding, dilation, groups, after in layers:
            if probe.shape[2] + 2 * padding < dilation * (kernel - 1) + 1:
                continue
            layer = nn.Conv2d(channels, channels, (kernel, 3), (stride, 1), (padding, 1), (dilation, 1),
                              groups=channels if groups == "grouped" else 1).double()  # fmt: skip
            steps.append(lambda x, layer=layer, after=after: after_convolution(layer(x), x, after))
            probe = steps[-1](probe)
            channels = probe.shape[1]
        top = nn.Linear(probe[0].numel(), CLASSES).double()

    def network(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return top(torch.tanh(x).flatten(1))

    field = loss_field(Called(network), torch.tensor([0, 3]))
    operator = hessian(field, x)
    v = randomness.normal(x.new_zeros(3, *x.shape), generator=stream(seed, "v"))
    assert operator.backend == REPLAYED
    assert relative(operator.apply_many(v), hessian(field, x, replay=False).apply_many(v)) < 1e-9


def after_convolution(convolved: Tensor, x: Tensor, after: str) -> Tensor:
    """What follows a convolution of x."""
    found = F.softplus(convolved)
    if after == "linear":
        return convolved
    if after == "sum":
        return found - x if found.shape == x.shape else found + 0.5 * found
    if after == "every second":
        return found[:, :, 1::2] if found.shape[2] > 1 else found[:, :, ::2, ::2]
    if after == "wider":
        return F.pad(found, (0, 1, 0, 0, 0, 2))
    return F.max_pool2d(found, (2, 1)) if after == "pool" and found.shape[2] > 1 else found


class Sine(torch.autograd.Function):
    """A custom function whose backward torch can differentiate."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


def through_a_view(x: Tensor, top: nn.Module) -> Tensor:
    x = x + 0
    x[:, 0].exp_()
    return top(x.flatten(1).exp())


STRANGE = {
    "special_erfcx is not among": lambda x, top: top(torch.special.erfcx(x).flatten(1)),
    "Sine is no function of torch": lambda x, top: top(Sine.apply(x).flatten(1).exp()),
    "sort along the batch axis": lambda x, top: top(x.flatten(1).exp() + 0 * x.sort(0)[0].flatten(1)),
    "indexing along the batch axis": lambda x, top: top(x[torch.arange(len(x))].flatten(1).exp()),
    "flip along the batch axis": lambda x, top: top(x.flip(0).flip(0).flatten(1).exp()),
    "seen in two ways": through_a_view,
}


@pytest.mark.parametrize("reason", STRANGE)
def test_what_cannot_be_recorded_is_differentiated_and_says_why(reason):
    model = made(lambda: Called(STRANGE[reason], top=nn.Linear(72, CLASSES)))
    field = loss_field(model, Y)
    with record_backends() as ways:
        operator = hessian(field, X)
    assert reason in operator.backend
    assert ways == {operator.backend}
    assert operator.backend.startswith("differentiated twice: ")
    exact = applied(dense(lambda k: loss_field(model, Y[k : k + 1]), X), V)
    assert relative(operator.apply_many(V), exact) < 1e-9
    assert_close(operator.gradient, gradient(field, X))


def test_a_field_that_cannot_be_divided_gives_the_same():
    model = made(NETWORKS["softplus"])
    whole = hessian(loss_field(model, Y), X)
    field = loss_field(model, Y)
    plain = hessian(lambda x: field(x), X, replay=False)
    rows = torch.tensor([3, 1])
    for operator, known in (
        (plain, whole),
        (plain.take(rows), whole.take(rows)),
        (plain.take(rows).take(rows[1:] - 1), whole.take(rows[:1])),
    ):
        size = known.gradient.shape
        v = randomness.normal(torch.zeros(2, *size, dtype=torch.float64), generator=stream(1, "v"))
        assert_close(operator.apply_many(v), known.apply_many(v))


def test_the_networks_of_the_package_and_the_public_ones_are_replayed():
    with randomness.temporary_seed(0, "public"):  # a ReLU within rounding of its kink may count on either side
        models = [(resnet20(), (3, 32, 32)), (lenet5(), (1, 28, 28))]
    for name in ("small-convnet", "yu2018-mnist", "yu2018-cifar", "resnet18", "resnet20", "wide-resnet28-10"):
        shape = (1, 28, 28) if name == "yu2018-mnist" else (3, 32, 32)
        spec = Network(name, shape, 10, (0.5,) * shape[0], (0.2,) * shape[0], nonlinearity="softplus", width=2)
        models.append((spec.build(seed=0), shape))
    for model, shape in models:
        x = randomness.uniform(torch.zeros(2, *shape), 0, 1, generator=stream(0, "x"))
        field = loss_field(model.eval(), torch.tensor([1, 2]))
        operator, other = hessian(field, x), hessian(field, x, replay=False)
        assert operator.backend == REPLAYED
        scale = other(x).abs().max()
        assert_close(operator(x) / scale, other(x) / scale, rtol=0, atol=1e-5)
        assert [p for p in model.parameters() if p.grad is not None] == []


def test_inputs_and_random_state_are_unchanged():
    model, x, state = made(NETWORKS["residual"]), X.clone(), torch.get_rng_state()
    with torch.no_grad():
        inside = hessian(loss_field(model, Y), x)(V[0])
    assert_close(inside, hessian(loss_field(model, Y), X)(V[0]), rtol=0, atol=0)
    assert not inside.requires_grad
    assert_close(x, X, rtol=0, atol=0)
    assert_close(torch.get_rng_state(), state)


@pytest.mark.parametrize("replay", [True, False])
def test_errors_say_what_to_do(replay):
    model = made(NETWORKS["softplus"], torch.float32)
    field, x = loss_field(model, Y), X.float()

    def refused(field, x, words):
        with pytest.raises(InputError, match=words):
            hessian(field, x, replay=replay)

    refused(field, x[0, 0, 0], r"floating-point inputs of shape \(batch, ...\), got torch.float32")
    refused(field, (255 * x).long(), r"Write x\[None\] for one example, and x.float\(\) / 255")
    refused(lambda x: x.square(), x, r"one number per example from the field, shape \(6,\), got \(6, 2, 6, 6\)")
    refused(lambda x: x.square().sum(), x, "one number per example")
    refused(field, x * torch.nan, r"finite inputs, got NaN or infinity\. Leave such images out")
    refused(lambda x: x.round().long().sum((1, 2, 3)).float(), x, "a field that is differentiable in its input")
    refused(loss_field(lambda x: model(x.detach()), Y), x, "a field that is differentiable in its input")


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(2), nn.Dropout()])
def test_a_layer_in_training_mode_is_no_field(layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(72, CLASSES)).double().train()
    with pytest.raises(
        InputError, match=r"a field of independent examples without randomness, got .* in training mode"
    ):
        hessian(lambda x: model(x).square().sum(1), X)


def test_a_secant_in_one_batch_or_in_many():
    field = loss_field(made(NETWORKS["softplus"]), Y)
    for central in (False, True):
        operator = secant_hessian(field, X, 0.1, central=central)
        apart = torch.stack([operator(v) for v in V])
        assert_close(operator.apply_many(V), apart)
        rows = torch.tensor([5, 2])
        assert_close(operator.take(rows)(V[0, rows]), apart[0, rows])
    whole = secant_hessian(lambda x: field(x), X, 0.1)
    assert_close(whole.apply_many(V), torch.stack([secant_hessian(field, X, 0.1)(v) for v in V]))
    with pytest.raises(
        InputError, match=r"a field that can be restricted to some examples, got another\. Write loss_field"
    ):
        whole.take(rows)
    with pytest.raises(InputError, match=r"a scale h of at most 8.485, the diagonal of the pixel box \[0, 1\], got 24"):
        secant_hessian(field, X, 24.0)


def test_the_central_secant_is_right_to_second_order():
    """l = x^3: one-sided 3 (x^2 + ...): g(x+h) - g(x) over h is 6x + 3h, the central one exactly 6x."""
    x = torch.tensor([[0.5]], dtype=torch.float64)
    one, two = (secant_hessian(lambda x: x.pow(3).sum(1), x, 0.1, central=c)(torch.ones_like(x)) for c in (False, True))
    assert_close(one, torch.full_like(x, 3.3))
    assert_close(two, torch.full_like(x, 3.0))


def test_a_network_that_views_its_images_as_rows_is_replayed():
    """Which it cannot do of channels that stand last."""

    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(nn.functional.softplus(self.conv(x)).view(len(x), -1))

    with randomness.temporary_seed(0, "weights"):
        model = Viewing().double().eval()
    x = randomness.uniform(torch.zeros(2, 3, 4, 4, dtype=torch.float64), 0, 1, generator=stream(0, "inputs"))
    field = loss_field(model, torch.tensor([0, 2]))
    v = randomness.normal(torch.zeros_like(x), generator=stream(0, "directions"))
    operator = hessian(field, x)
    assert operator.backend == REPLAYED
    assert_close(operator(v), hessian(field, x, replay=False)(v))
    assert_close(operator.take(torch.tensor([1]))(v[1:]), operator(v)[1:])


def random_network(seed: int) -> nn.Module:
    """A small network of random width, depth and nonlinearity, with weights a few times their usual size."""
    draw = randomness.integers((4,), 0, 6, generator=stream(seed, "shape")).tolist()
    acts = (nn.ReLU(), nn.Softplus(5), nn.GELU(), nn.Tanh(), nn.SiLU(), nn.ELU())
    with randomness.temporary_seed(seed, "weights"):
        width, layers = 3 + draw[0], [nn.Linear(6, 3 + draw[0])]
        for _ in range(1 + draw[1] % 2):
            layers += [acts[draw[2]], nn.Linear(width, width)]
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, (1 + draw[3]) / layer.in_features**0.5)
        return nn.Sequential(*layers, acts[draw[2]], nn.Linear(width, 3)).eval()


@pytest.mark.parametrize("part", ["whole", "Gauss-Newton"])
def test_logits_that_move_alike_leave_the_curvature_its_digits(part):
    """J has three rows that differ by a thousandth: of ||J||^2 a millionth is left in J^T A J, in single precision."""
    common, different = randomness.normal(torch.zeros(2, 3, 6, dtype=torch.float64), generator=stream(0, "J"))
    weight = (10 * common[:1] + 0.01 * different).float()
    y = torch.tensor([1])
    model = nn.Linear(6, 3).requires_grad_(False)
    model.weight.copy_(weight)
    field = loss_field(model, y)
    x = torch.zeros(1, 6)
    p = model(x).double().softmax(1)[0]
    rows = weight.double()
    exact = rows.T @ (torch.diag(p) - torch.outer(p, p)) @ rows
    operator = hessian(field, x).only(part)
    found = operator.apply_many(torch.eye(6)[:, None])[:, 0].double()
    assert float((found - exact).norm()) < 1e-3 * float(exact.norm())
    assert_close(
        operator.gauss_newton_matrices(weight[None])[0].double(), exact, rtol=0, atol=1e-3 * float(exact.norm())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 1000), marks=pytest.mark.slow)], ids=str)
def test_an_eigenvalue_lies_within_the_residual_on_a_thousand_random_networks(seeds, dtype):
    """Of the matrix whose products they are."""
    violated = set()
    x = randomness.uniform(torch.zeros(1000, 1, 6, dtype=dtype), 0, 1, generator=stream(0, "inputs"))
    for seed in seeds:
        model, y = random_network(seed).to(dtype), torch.tensor([seed % 3])
        operator = hessian(loss_field(model, y), x[seed])
        assert operator.backend == REPLAYED
        ends = lanczos(operator, operator.gradient, steps=1 + seed % 6, tolerance=0)
        matrix = operator.apply_many(torch.eye(6, dtype=dtype)[:, None]).transpose(0, 1).double()
        exact = torch.linalg.eigvalsh((matrix + matrix.transpose(1, 2)) / 2)
        for value, residual in ((ends.smallest, ends.residual_smallest), (ends.largest, ends.residual_largest)):
            nearest = float((exact - value.double()[:, None]).abs().amin())
            if nearest > float(residual):
                violated.add(seed)
    assert not violated


@pytest.mark.parametrize("build", [lenet5, pytest.param(soft_lenet5, marks=pytest.mark.slow)])
def test_twelve_products_are_enough_for_the_largest_eigenvalue_of_a_real_network(build, data_dir, weights_dir):
    """LeNet5 on MNIST against all 784 eigenvalues: within 1e-3 at every level of confidence."""
    model = public(build, weights_dir / "mnist_lenet5_clntrained.pt")
    few = load("mnist", data_dir=str(data_dir), limits=Limits(train=1, validation=1)).test.take(slice(16))
    field = loss_field(model, few.y)
    x = few.pixels(slice(None))
    operator = hessian(field, x)
    ends = lanczos(operator, operator.gradient, steps=12, tolerance=1e-3)
    assert ends.max_products <= 12
    exact = spectrum(hessian_matrices(field, x)).abs().amax(1)
    assert_close(ends.spectral_norm, exact, rtol=1e-3, atol=0)
