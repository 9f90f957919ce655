"""A Hessian product is right, or there is a sentence: hooks, custom functions, odd calls, and what one check cannot see."""

import pytest
import torch
import torch.nn.functional as F
from replayed_networks import Called
from second_derivatives import CLASSES, DIFFERENTIATED, FEATURES, MIX, REFUSED, REPLAYED, TOP, FromNumpy, Sine, soft
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

import lowcurve as lc
from lowcurve import randomness
from lowcurve.analysis import hessians
from lowcurve.analysis.calculus import Jet, gradient, pullback
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.replay import recording, rules
from lowcurve.analysis.replay.steps import Identity
from lowcurve.errors import InputError
from lowcurve.geometry.boundary import logit_difference
from lowcurve.losses import loss_field
from lowcurve.penalties import CURE, InputGradientNorm
from lowcurve.randomness import stream
from lowcurve.training import Objective, Term

X = randomness.uniform(torch.zeros(4, FEATURES, dtype=torch.float64), 0, 1, generator=stream(0, "x"))
V = randomness.normal(X, generator=stream(0, "v"))
Y = torch.arange(4) % CLASSES


def built(build) -> nn.Module:
    with randomness.temporary_seed(0, "weights"):
        return build().double().eval()


def by_torch(model: nn.Module, rows: slice) -> Tensor:
    """The product by torch's own double backward."""
    with sdpa_kernel(SDPBackend.MATH):
        jet = Jet(loss_field(model, Y[rows]), X[rows])
        return pullback(jet.gradient, jet.x, V[rows])


def by_differences(model: nn.Module, rows: slice) -> Tensor:
    """The product as a difference of gradients, for what torch differentiates only once."""
    field = loss_field(model, Y[rows])
    ends = [gradient(field, X[rows] + sign * 1e-5 * V[rows]) for sign in (1, -1)]
    return (ends[0] - ends[1]) / 2e-5


@pytest.mark.parametrize("name", REPLAYED)
@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 4)], ids=["one", "four"])  # a batch of one passes for any axis
def test_odd_forms_of_a_call_are_replayed_rightly(name, rows):
    model = built(REPLAYED[name])
    operator = hessian(loss_field(model, Y[rows]), X[rows])
    assert operator.backend == hessians.REPLAYED
    if "hardsigmoid" in name:
        assert_close(operator(V[rows]), by_differences(model, rows), rtol=1e-6, atol=1e-8)
    else:
        assert_close(operator(V[rows]), by_torch(model, rows), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:This overload of add is deprecated")
@pytest.mark.parametrize("name", DIFFERENTIATED)
@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 4)], ids=["one", "four"])
def test_what_no_step_shows_is_differentiated_twice(name, rows):
    build, reason = DIFFERENTIATED[name]
    model = built(build)
    operator = hessian(loss_field(model, Y[rows]), X[rows])
    assert operator.backend.startswith("differentiated twice: ")
    if rows.stop > 1:
        assert reason in operator.backend
    assert_close(operator(V[rows]), by_torch(model, rows), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("replay", [True, False])
def test_where_no_way_is_right_there_is_a_sentence(name, replay):
    build, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        hessian(loss_field(built(build), Y), X, replay=replay)


def test_single_precision_is_checked_by_a_copy_in_double():
    for function, right in ((Sine, True), (FromNumpy, False)):
        model = Called(
            lambda x, function=function: function.apply(soft(x.double()).relu()).to(x.dtype) @ TOP.to(x.dtype)
        )
        field, x = loss_field(model.eval(), Y), X.float()
        if right:
            assert_close(hessian(field, x)(V.float()).double(), hessian(field, X)(V), rtol=1e-3, atol=1e-5)
        else:
            with pytest.raises(InputError, match="got another one through FromNumpy"):
                hessian(field, x)


def test_curvature_that_is_zero_is_held_against_a_difference():
    """The other function's backward is a constant: no second derivative, and no word of it."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx, g):
            return g * 2 * ctx.saved_tensors[0].detach()

    hidden = built(lambda: Called(lambda x: Square.apply(x) @ TOP))
    with pytest.raises(
        InputError, match=r"the limit of differences of gradients, got another one through Square\. Write"
    ):
        hessian(logit_difference(hidden, Y, (Y + 1) % CLASSES), X)
    linear = built(lambda: Called(lambda x: F.layer_norm(x, (6,)).detach() + x))
    assert hessian(lambda x: linear(x).sum(1), X)(V).abs().max() == 0


def test_a_wrong_rule_is_found(monkeypatch):
    monkeypatch.setattr(rules, "RULES", {**rules.RULES, "tanh": lambda _: Identity()})
    model = built(lambda: Called(lambda x: (x @ MIX).tanh() @ TOP))
    operator = hessian(loss_field(model, Y), X)
    assert operator.backend == "differentiated twice: its replayed product is not that of torch"
    assert_close(operator(V), by_torch(model, slice(0, 4)))


def test_exhausted_memory_is_no_reason_to_differentiate_twice(monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(rules, "RULES", {**rules.RULES, "tanh": exhausted})
    monkeypatch.setitem(recording.COMPOSITIONS, "lerp", exhausted)
    for network in (lambda x: x.tanh() @ TOP, lambda x: x.lerp(x.sin(), 0.3) @ TOP):
        with pytest.raises(torch.OutOfMemoryError):
            hessian(loss_field(built(lambda network=network: Called(network)), Y), X)


def test_the_check_is_made_once_for_each_network_program_and_loss(monkeypatch):
    made = []
    check = hessians.replay_is_right
    monkeypatch.setattr(hessians, "replay_is_right", lambda *args: made.append(1) or check(*args))
    branches = {True: torch.tanh, False: F.softplus}
    model = built(lambda: Called(lambda x: branches[bool(x.detach()[0, 0] > 2)](x.view(len(x), -1) @ MIX) @ TOP))
    for _ in range(3):
        hessian(loss_field(model, Y), X)
    assert len(made) == 1
    hessian(loss_field(model, Y.repeat(2)), X.repeat(2, 1))  # another size of the batch is the same program
    assert len(made) == 1
    hessian(loss_field(model, Y), X + 2)  # another branch
    hessian(logit_difference(model, Y, (Y + 1) % CLASSES), X)  # another field
    assert len(made) == 3
    for method in (model.forward, model.forward):  # a bound method stands for its network
        hessian(loss_field(method, Y), X)
    assert len(made) == 3


def test_penalties_train_a_network_that_takes_a_derivative_itself():
    """Its own layers need a third derivative, which only those of torch have."""
    x, y = torch.rand(4, 5, dtype=torch.double), torch.tensor([0, 1, 2, 0])
    with randomness.temporary_seed(0, "energy"):
        first, last = nn.Linear(5, 6).double(), nn.Linear(5, 3).double()

    def force(x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.clone().requires_grad_()
            return last(torch.autograd.grad(F.softplus(first(x)).sum(), x, create_graph=True)[0].sin())

    model = Called(force)
    model.parts = nn.ModuleList([first, last])
    loss, logs = lc.regularized(model, x, y, slope=InputGradientNorm(), weight=3.0)
    found = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
    x.requires_grad_()
    values = F.cross_entropy(
        ((first(x).sigmoid() @ first.weight).sin() @ last.weight.T + last.bias), y, reduction="none"
    )
    slopes = torch.autograd.grad(values.sum(), x, create_graph=True)[0].square().sum(1)
    assert_close(logs["slope"], slopes.mean().detach())
    for one, right in zip(
        found, torch.autograd.grad(values.mean() + 3 * slopes.mean(), [*model.parameters()]), strict=True
    ):
        assert_close(one, right)


@pytest.mark.parametrize("penalty", [CURE(h=0.5), InputGradientNorm()], ids=lambda p: type(p).__name__)
def test_penalties_train_on_attention_and_refuse_a_hidden_curvature(penalty):
    objective = Objective(penalties={"curvature": Term(penalty, 1.0)})
    attention = built(REPLAYED["a layer of attention"])
    objective.check_network(attention, X, Y)
    terms = objective.terms(attention, X, Y)
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attention.parameters())
    assert sum(float(p.grad.norm()) for p in attention.parameters()) > 0
    alone = penalty(Jet(loss_field(attention, Y), X), generator=stream(0, "step")).mean()
    alone.backward()
    for name, words in (("numpy", "through FromNumpy"), ("cdist", "_cdist_backward")):
        with pytest.raises(InputError, match=words):
            objective.check_network(built(REFUSED[name][0]), X, Y)
