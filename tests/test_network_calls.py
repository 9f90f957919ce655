"""What a network of the user may do: write into its input, draw, mix its batch, fail, train in eval mode."""

import copy
import functools
import logging
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import lowcurve as lc
from lowcurve import evaluation
from lowcurve.analysis.calculus import Jet, gradient
from lowcurve.analysis.hessians import hessian
from lowcurve.attacks import APGD, FGSM, SPSA, DeepFool, OneStep, Square
from lowcurve.errors import InputError
from lowcurve.evaluation.audit.budget import Budget
from lowcurve.evaluation.independence import find_dependence
from lowcurve.geometry import SecantCurvature, gradient_norm
from lowcurve.losses import cross_entropy, loss_field
from lowcurve.network_calls import NetworkError, call
from lowcurve.penalties import CURE, ELLE, LLR, TRADES, GradAlign
from lowcurve.randomness import stream, temporary_seed
from lowcurve.training import Objective, Optimization, Term, fit

BALL = lc.Ball("linf", 0.1)
TINY = Budget(
    steps=4, restarts=1, images=4, landscape_images=4, neighbors=4, apgd_steps=4, queries=10, noise_draws=4, spsa_steps=2,
    spsa_draws=2, spsa_images=2, long_steps=4,
)  # fmt: skip
X = torch.rand(12, 1, 4, 4, generator=stream(0, "x"))
Y = torch.arange(12) % 3


def images(x=X):
    return lc.data.Examples(x, Y[: len(x)], ("a", "b", "c"))


class Net(nn.Module):
    """Two layers with something of the test's between them, and before them."""

    def __init__(self, between=None, before=None):
        super().__init__()
        with temporary_seed(0, "weights"):
            self.first, self.second = nn.Linear(16, 8), nn.Linear(8, 3)
        self.between, self.before = between, before

    def forward(self, x):
        x = x if self.before is None else self.before(x)
        h = F.softplus(self.first(x.flatten(1)))
        return self.second(h if self.between is None else self.between(h))


# --- writing into the input


def assign(x):
    x[:] = (x - 0.3) / 0.35
    return x


def through_data(x):
    x.data.sub_(0.3)
    return x


def when_positive(x):
    return x.sub_(0.3) if x.sum() > 0 else x


WRITERS = {
    "sub_ and div_": (lambda x: x.sub_(0.3).div_(0.35), lambda x: (x - 0.3) / 0.35),
    "relu": (lambda x: F.relu(x.sub_(0.4), inplace=True), lambda x: F.relu(x - 0.4)),
    "a view": (lambda x: x.view(len(x), -1).sub_(0.3), lambda x: x - 0.3),
    "assignment": (assign, lambda x: (x - 0.3) / 0.35),
    "data": (through_data, lambda x: x - 0.3),
    "sometimes": (when_positive, lambda x: x - 0.3),
}


@pytest.mark.parametrize(("writes", "reads"), WRITERS.values(), ids=WRITERS)
def test_a_network_that_writes_into_its_input_gets_a_copy(writes, reads):
    writing, plain, x = Net(before=writes).eval(), Net(before=reads).eval(), X.clone()
    measures = {"g": gradient_norm, "c": lc.Curvature(), "s": SecantCurvature(0.3)}
    found, expected = (evaluation.measure(m, images(x), measures) for m in (writing, plain))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, err_msg=name)
    for method in (lc.PGD(BALL, steps=3), Square(BALL, queries=30), DeepFool("l2"), APGD(BALL, steps=3)):
        points = [method(m, x, Y) for m in (writing, plain)]
        assert_close(*points)
    result = evaluation.attack(writing, images(x), Square(BALL, queries=30))
    assert result.distance.max() <= 0.1 + 1e-6
    term = Objective(penalties={"c": Term(CURE(h=0.5), 1.0)})
    assert_close(*(term.terms(m, x, Y)["c"] for m in (writing, plain)))
    assert torch.equal(x, X)


# --- strides


def test_images_of_one_channel_with_other_strides_may_be_flattened_by_view():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 4, 3), nn.Linear(16, 3)

        def forward(self, x):
            return self.out(F.softplus(self.conv(x)).view(len(x), -1))

    strange = X.reshape(12, 4, 4, 1).permute(0, 3, 1, 2)
    assert strange.is_contiguous()
    assert strange.stride() != X.stride()
    model = Flat().eval()
    assert_close(call(model, strange), call(model, X))
    evaluation.measure(model, images(strange), [gradient_norm, lc.Curvature()])
    evaluation.attack(model, images(strange), APGD(BALL, steps=3))
    lc.PGD(BALL, steps=2)(model, strange, Y)
    fit(model, Objective(), images(strange), Optimization(epochs=1, batch_size=4))
    message = r"in layer '1' \(View\): view size is not compatible.* Write reshape instead of view"
    with pytest.raises(InputError, match=message):
        call(nn.Sequential(nn.Conv2d(1, 4, 3), View()), X)


class View(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1).view(len(x), -1)


# --- reduced losses

REDUCED = {
    "mean": F.cross_entropy,
    "module": nn.CrossEntropyLoss(),
    "sum": functools.partial(F.cross_entropy, reduction="sum"),
    "column": lambda z, y: F.cross_entropy(z, y, reduction="none")[:, None],
    "each class": lambda z, y: F.one_hot(y, 3) * z,
    "mean, repeated": lambda z, y: F.cross_entropy(z, y).expand(len(y)),
    "divided by the batch": lambda z, y: F.cross_entropy(z, y, reduction="none") / len(y),
    "centered": lambda z, y: cross_entropy(z - z.mean(0), y),
    "a float": lambda z, y: F.cross_entropy(z, y).item(),
}
USES = {
    "measure": lambda loss, x: evaluation.measure(Net().eval(), images(x), gradient_norm, loss=loss),
    "objective": lambda loss, x: Objective(loss=loss).terms(Net(), x, Y[: len(x)]),
    "training": lambda loss, x: fit(Net(), Objective(loss=loss), images(x), Optimization(epochs=1, batch_size=len(x))),
    "penalty": lambda loss, x: lc.InputGradientNorm(of=loss)(Jet(loss_field(Net().eval(), Y[: len(x)]), x)),
    "PGD": lambda loss, x: lc.PGD(BALL, steps=1, loss=loss)(Net(), x, Y[: len(x)]),
    "APGD": lambda loss, x: APGD(BALL, steps=2, loss=loss)(Net(), x, Y[: len(x)]),
    "one step": lambda loss, x: OneStep(BALL, loss=loss)(Net(), x, Y[: len(x)]),
    "SPSA": lambda loss, x: SPSA(BALL, steps=1, draws=2, loss=loss)(Net(), x, Y[: len(x)]),
    "radius": lambda loss, x: lc.smallest_radius(
        Net(), x, Net()(x).argmax(1), lc.PGD(BALL, steps=1, loss=loss), rounds=1
    ),
    "loss of attacked images": lambda loss, x: evaluation.adversarial_loss(Net(), images(x), FGSM(BALL), loss=loss),
    "hessian": lambda loss, x: hessian(loss_field(Net().eval(), Y[: len(x)], loss), x),
}


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("loss", REDUCED.values(), ids=REDUCED)
def test_a_reduced_loss_is_refused_wherever_it_is_given(loss, count):
    for use in USES.values():
        with pytest.raises(InputError, match=r"a loss with one number per example|a loss of each example alone"):
            use(loss, X[:count])


KEPT = {
    "function": functools.partial(F.cross_entropy, reduction="none"),
    "module": nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1),
    "classes": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), reduction="none"),
    "targets of this batch": lambda z, _: (z - F.one_hot(Y[:5], 3)).square().sum(1),
    "temperature": lc.losses.TemperatureCrossEntropy(3.0),
}


@pytest.mark.parametrize("loss", KEPT.values(), ids=KEPT)
def test_a_loss_of_each_example_is_accepted(loss):
    for use in ("measure", "objective", "penalty", "hessian", "PGD"):
        USES[use](loss, X[:5])


def test_a_field_of_the_user_that_is_reduced_is_refused():
    for use in (gradient, gradient_norm, lambda f, x: CURE(h=0.1)(Jet(f, x))):
        with pytest.raises(InputError, match="one number per example from the field"):
            use(lambda x: x.square().mean(), X)


# --- the same draws in all passes of a step


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, h):
        return h * torch.rand(h.shape, generator=self.generator)


CHANCE = {
    "dropout": nn.Dropout(0.5),
    "drop-path": lambda h: h * (torch.rand(len(h), 1) > 0.3),
    "noise": lambda h: h + 0.3 * torch.randn_like(h),
    "python's": lambda h: h * random.random(),
    "a generator of its own": Own(),
}
PENALTIES = {
    "CURE": CURE(h=1e-3),
    "GradAlign": GradAlign(1e-3),
    "ELLE": ELLE(1e-3),
    "LLR": LLR(lc.Ball("linf", 1e-3, (-1.0, 2.0)), steps=2, tilt=0.0),
    "TRADES": TRADES(lc.Ball("linf", 1e-3, (-1.0, 2.0)), steps=2),
}


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("chance", CHANCE.values(), ids=CHANCE)
def test_all_passes_of_a_step_draw_the_same_numbers(chance, penalty):
    """At a scale of 1e-3 a smooth network has nearly no curvature; other masks in the second pass would be all there is."""
    model = Net(chance).double().train()
    for frozen in ("batch", "frozen"):
        objective = Objective(penalties={"p": Term(penalty, 1.0)}, statistics=frozen)
        value = objective.terms(model, X.double(), Y)["p"].item()
        assert 0 <= value < 1e-4
    assert penalty(Jet(loss_field(model, Y, batch_statistics=True), X.double())).mean().item() < 1e-4


SPECTRAL = {"a parametrization": nn.utils.parametrizations.spectral_norm, "hooks": nn.utils.spectral_norm}


@pytest.mark.parametrize("normalize", SPECTRAL.values(), ids=SPECTRAL)
def test_all_passes_of_a_step_have_the_weights_of_one_power_iteration(normalize):
    """In training mode spectral normalization changes its weights in every pass."""
    with temporary_seed(0, "spectral"):
        model = nn.Sequential(nn.Flatten(), normalize(nn.Linear(4, 8)), nn.Tanh(), normalize(nn.Linear(8, 3))).double()
    other = copy.deepcopy(model)
    x, y = torch.rand(5, 4, dtype=torch.double), torch.tensor([0, 1, 2, 0, 1])
    lc.regularized(model, x, y, curvature=CURE(h=0.5), weight=2.0)[0].backward()
    other(x)
    other.eval()  # the weights of one pass in training mode, as a plain step has them

    def slopes(x):
        x = x.requires_grad_()
        return torch.autograd.grad(F.cross_entropy(other(x), y, reduction="sum"), x, create_graph=True)[0]

    clean = slopes(x.clone())
    z = clean.detach().sign()
    change = slopes(x + 0.5 * z / z.norm(dim=1, keepdim=True)) - clean
    (F.cross_entropy(other(x), y) + 2 * change.square().sum(1).mean()).backward()
    for (name, found), right in zip(model.named_parameters(), other.parameters(), strict=True):
        assert_close(found.grad, right.grad, msg=name)
    for (name, found), right in zip(model.named_buffers(), other.buffers(), strict=True):
        assert_close(found, right, msg=name)


def test_steps_draw_anew_and_the_random_state_goes_on_as_after_one_pass():
    model, objective = Net(nn.Dropout(0.5)), Objective(penalties={"p": Term(CURE(h=0.1), 1.0)})
    torch.manual_seed(0)
    plain = [Objective().terms(model, X, Y)["loss"].item() for _ in range(3)]
    torch.manual_seed(0)
    assert [objective.terms(model, X, Y)["loss"].item() for _ in range(3)] == plain
    assert len(set(plain)) == 3


# --- chance and company in eval mode


class HandMade(nn.Module):
    def forward(self, h):
        return h - h.mean(0)


def attention_over_the_batch(h):
    return h + (h @ h.T).softmax(1) @ h


RANDOM = {name: CHANCE[name] for name in ("drop-path", "noise", "a generator of its own")} | {
    "functional dropout": lambda h: F.dropout(h, 0.5)
}
COUPLED = {
    "mean": HandMade(),
    "BatchNorm without statistics": nn.BatchNorm1d(8, track_running_stats=False),
    "attention": attention_over_the_batch,
    "rank in the batch": lambda h: h * torch.arange(1.0, len(h) + 1)[:, None],
}


@pytest.mark.parametrize("between", [*RANDOM.values(), *COUPLED.values()], ids=[*RANDOM, *COUPLED])
def test_a_measure_refuses_chance_and_company(between):
    kind = "random logits" if between in RANDOM.values() else "mixed images"
    with pytest.raises(InputError, match=f"depend on that image alone, got {kind}"):
        evaluation.measure(Net(between).eval(), images(), gradient_norm)


@pytest.mark.parametrize("between", [*RANDOM.values(), *COUPLED.values()], ids=[*RANDOM, *COUPLED])
def test_accuracies_and_attacks_of_such_a_network_come_with_a_sentence(between, caplog):
    kind = "random logits" if between in RANDOM.values() else "mixed images"
    for act in (
        evaluation.correct,
        lambda m, d: evaluation.attack(m, d, FGSM(BALL)),
        lambda m, d: evaluation.transfer({"it": m}, d, FGSM(BALL)),
    ):
        model = Net(between).eval()
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="lowcurve"):
            act(model, images())
            act(model, images())
        assert [r.getMessage().startswith(f"The network has {kind}") for r in caplog.records] == [True]


class LostAlone(torch.autograd.Function):
    """Keeps its values, and loses the gradient of a batch of one."""

    @staticmethod
    def forward(_ctx, h):
        return h.clone()

    @staticmethod
    def backward(_ctx, g):
        return g if len(g) > 1 else 0 * g


class Tokens(nn.Module):
    """BatchNorm, then a transpose: torch 2.13 returns a wrong gradient for one image on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 4)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([0.5, -2.0, 1.5]))
            self.norm.running_mean.copy_(torch.tensor([0.1, 0.4, 0.7]))

    def forward(self, x):
        return self.head(self.norm(x).flatten(2).transpose(1, 2)).square().sum(1)


def test_gradients_of_one_image_alone_that_are_wrong_are_noticed(caplog):
    with pytest.raises(InputError, match=r"got another gradient for one image alone.* Write \.contiguous\(\) behind"):
        evaluation.measure(Net(LostAlone.apply).eval(), images(), gradient_norm)
    with caplog.at_level(logging.WARNING, logger="lowcurve"):
        evaluation.attack(Net(LostAlone.apply).eval(), images(), FGSM(BALL))
    assert caplog.records[0].getMessage().startswith("The network has another gradient for one image alone")
    x = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with temporary_seed(0, "weights"):
        tokens = Tokens().eval().requires_grad_(False)  # with gradients of the weights, torch is right
    beside, alone = (gradient(lambda z: tokens(z).square().sum(1), rows)[-1] for rows in (x, x[-1:]))
    wrong = float((beside - alone).abs().max()) > 0.25 * float(beside.abs().max())
    assert (find_dependence(tokens, x) is not None) == wrong


def test_the_check_leaves_the_random_state_and_finds_nothing_in_an_ordinary_network(caplog):
    state = torch.get_rng_state()
    evaluation.measure(Net(nn.Dropout(0.5)).eval(), images(X[:1]), gradient_norm)
    evaluation.attack(Net(nn.BatchNorm1d(8)).eval().half().float(), images(), FGSM(BALL))
    evaluation.correct(Net(lambda h: h.squeeze()).eval(), images())
    assert torch.equal(state, torch.get_rng_state())
    assert caplog.text == ""


def test_the_audit_sees_logits_that_depend_on_the_batch():
    found = lc.audit(Net(HandMade()).eval(), images(), BALL, budget=TINY)
    # A flag, since the robust accuracy is 0 here and so cannot be too high.
    assert next(f for f in found.findings if f.check.number == 2).outcome == "flag"


# --- errors inside a network


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # noqa: ARG004
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):  # noqa: ARG004
        return g


class Layer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FAULTS = {
    "size": (nn.Linear(9, 8), r"in layer 'between' \(Linear\): mat1 and mat2 .* Give the data"),
    "precision": (nn.Linear(8, 8).double(), r"in layer 'between' \(Linear\).*dtype.* Convert the whole network to one"),
    "value": (lambda h: [][len(h)], r"an error in the forward method of Net: list index out of range"),
    "key": (lambda _: {}["weights"], r"an error in the forward method of Net: KeyError: 'weights'"),
    "nothing": (lambda _: None, r"an error in layer 'second' \(Linear\)"),
}


@pytest.mark.parametrize(("between", "message"), FAULTS.values(), ids=FAULTS)
def test_an_error_inside_a_network_names_the_layer(between, message):
    for act in (
        lambda m: evaluation.measure(m, images(), gradient_norm),
        lambda m: evaluation.attack(m, images(), FGSM(BALL)),
        lambda m: evaluation.correct(m, images()),
        lambda m: lc.audit(m, images(), BALL),
        lambda m: fit(m, Objective(), images(), Optimization(epochs=1)),
        lambda m: lc.PGD(BALL)(m, X, Y),
        lambda m: loss_field(m.eval(), Y)(X),
    ):
        with pytest.raises(NetworkError, match="a network for inputs of shape \\(1, 4, 4\\), got.*" + message):
            act(Net(between))


@pytest.mark.parametrize(
    "pack", [lambda z: (z, z), lambda z: {"logits": z}, lambda _: None], ids=["tuple", "dict", "none"]
)
def test_a_network_that_returns_no_tensor(pack):
    class Packed(Net):
        def forward(self, x):
            return pack(super().forward(x))

    for act in (
        lambda m: evaluation.measure(m.eval(), images(), gradient_norm),
        lambda m: fit(m, Objective(), images(), Optimization(epochs=1)),
        lambda m: lc.PGD(BALL)(m, X, Y),
    ):
        with pytest.raises(InputError, match=r"logits of shape \(\d+, classes\).* got (tuple|dict|NoneType)"):
            act(Packed())


class Squeezed(Net):
    def forward(self, x):
        return super().forward(x).squeeze()


def test_a_network_may_squeeze_a_batch_of_one():
    net = Net(nn.Tanh()).eval()
    squeezing = [Squeezed(nn.Tanh()).eval(), lc.wrap(lambda x: net(x).squeeze())]
    for model in squeezing:
        for rows in (slice(1), slice(None)):
            assert_close(call(model, X[rows]), net(X[rows]))
    one = lc.wrap(lambda x: net(x)[:, 0].squeeze())
    assert_close(call(one, X[:1]), call(one, X)[:1])
    suite = lc.attacks.strong("linf", 0.1, effort=lc.attacks.Effort(3, 1, 10))
    found = evaluation.attack(squeezing[0], images(), suite)
    assert found.robust.tolist() == evaluation.attack(net, images(), suite).robust.tolist()


def test_a_derivative_that_torch_cannot_take_is_told():
    model = Net(nn.Sequential(nn.Tanh(), Layer(Once.apply)))
    with pytest.raises(
        InputError, match=r"(once_differentiable|differences of gradients, got another one through Once)"
    ):
        fit(model, Objective(penalties={"p": Term(CURE(h=0.1), 1.0)}), images(), Optimization(epochs=1))


class Detached(Net):
    def forward(self, x):
        return super().forward(x).detach().requires_grad_()


def test_a_loss_that_no_weight_changes_is_told():
    with pytest.raises(InputError, match="a loss whose derivative reaches the weights, got none"):
        fit(Detached(), Objective(), images(), Optimization(epochs=1))


def test_a_scripted_network_is_evaluated_and_keeps_its_buffers():
    with pytest.warns(DeprecationWarning, match=r"jit\.script"):
        model = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for act in EVALUATIONS.values():
        act(model.eval())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_batchnorm_over_one_value_is_told():
    with pytest.raises(InputError, match=r"in layer 'between' \(BatchNorm1d\): Expected more than 1.*Write model.eval"):
        fit(Net(nn.BatchNorm1d(8)), Objective(), images(), Optimization(epochs=1, batch_size=1))


def test_a_network_on_the_meta_device_is_told():
    with pytest.raises(InputError, match=r"weights with values, got '1.weight' on the meta device"):
        evaluation.correct(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to("meta"), images())


def test_a_lazy_network_is_told():
    with pytest.raises(InputError, match=r"a network with all its weights, got the lazy layer of '1.weight'"):
        evaluation.correct(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), images())


# --- inference mode


def outside(model):
    with torch.inference_mode(False):
        return copy.deepcopy(model)


ENTRIES = {
    "measure": lambda m, x, y: evaluation.measure(m, x, y, [gradient_norm, lc.Curvature()]),
    "attack": lambda m, x, y: evaluation.attack(m, x, y, APGD(BALL, steps=3)),
    "correct": lambda m, x, y: evaluation.correct(m, x, y),
    "radius": lambda m, x, y: lc.smallest_radius(m, x, y, lc.PGD(BALL, steps=2), rounds=1),
    "transfer": lambda m, x, y: evaluation.transfer({"m": m}, x, y, FGSM(BALL)),
    "PGD": lambda m, x, y: lc.PGD(BALL, steps=2)(m, x, y),
    "gradient": lambda m, x, y: gradient_norm(loss_field(m, y), x),
    "hessian": lambda m, x, y: hessian(loss_field(m, y), x)(torch.ones_like(x)),
    "penalty": lambda m, x, y: CURE(h=0.1)(Jet(loss_field(m, y), x)),
    "fit": lambda m, x, y: fit(outside(m), Objective(), (x, y), Optimization(epochs=1, batch_size=4)),
    "audit": lambda m, x, y: lc.audit(m, x[:4], y[:4], BALL, budget=TINY).verdict,
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad], ids=["inference", "no gradient"])
def test_inference_mode_changes_nothing(entry, mode):
    model = Net().eval()
    expected = entry(model, X, Y)
    with mode():
        x, y = X.clone(), Y.clone()
        found = entry(model, x, y)
    again = entry(model, x, y)  # tensors of inference mode, used outside
    for other in (found, again):
        if isinstance(expected, torch.Tensor):
            assert_close(other, expected)
        else:
            assert repr(other) == repr(expected)


def test_weights_of_inference_mode_are_told():
    with torch.inference_mode():
        model = Net().eval()
    for act in (ENTRIES["measure"], ENTRIES["attack"], ENTRIES["PGD"], ENTRIES["correct"]):
        with pytest.raises(
            InputError, match=r"weights that autograd accepts, got weights made under torch\.inference_mode"
        ):
            act(model, X, Y)
    assert evaluation.correct(copy.deepcopy(model), images()).shape == (12,)


# --- modes and statistics


class Stubborn(Net):
    """Keeps its BatchNorm in training mode, whatever is asked."""

    def train(self, mode=True):
        super().train(mode)
        self.between.training = True
        return self


class Counts(nn.Module):
    """Counts its passes and moves an average, in eval mode, too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, h):
        self.count = self.count + 1
        self.mean.lerp_(h.detach().mean(0), 0.1)
        return h


EVALUATIONS = {
    "measure": lambda m: evaluation.measure(m, images(), gradient_norm),
    "attack": lambda m: evaluation.attack(m, images(), FGSM(BALL)),
    "correct": lambda m: evaluation.correct(m, images()),
    "PGD": lambda m: lc.PGD(BALL, steps=1)(m, X, Y),
}


@pytest.mark.parametrize("act", EVALUATIONS.values(), ids=EVALUATIONS)
def test_evaluations_move_no_statistics_and_give_every_mode_back(act):
    stubborn, counting = Stubborn(nn.BatchNorm1d(8)).eval(), Net(Counts()).eval()
    for model in (stubborn, counting):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        if not (model is stubborn and act is EVALUATIONS["measure"]):  # measure refuses a BatchNorm in training mode
            act(model)
            act(model)
        assert [module.training for module in model.modules()] == modes
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_correct_evaluates_in_eval_mode_and_gives_the_mode_back():
    model = Net(nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5), nn.RReLU())).train()
    model.between[0].eval()
    modes = [module.training for module in model.modules()]
    found = [evaluation.correct(model, images()) for _ in range(2)]
    assert [module.training for module in model.modules()] == modes
    assert (found[0] == found[1]).all()
    assert (found[0] == evaluation.correct(model.eval(), images())).all()
