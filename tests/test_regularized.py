"""The penalized loss for training loops of other people: its values, and every way in which such loops run a network."""

import copy

import pytest
import torch
from objectives import X, Y, network, slopes
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import lowcurve as lc
from lowcurve.losses import cross_entropy, margin_loss
from lowcurve.penalties import ELLE, LLR, TRADES, AdaptiveWeight
from lowcurve.randomness import stream, temporary_seed

CURE = lc.CURE(h=0.3)


def perceptron(*last: nn.Module) -> nn.Sequential:
    with temporary_seed(0, "own loops"):
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3), *last)


def singles() -> tuple[torch.Tensor, torch.Tensor]:
    return X.float(), Y


@pytest.mark.parametrize("penalty", [CURE, ELLE(0.3), lc.InputGradientNorm()], ids=lambda one: type(one).__name__)
def test_it_is_the_objective(penalty):
    model = network().train()
    exact = lc.Objective(penalties={"it": lc.Term(penalty, 0.5)}).terms(
        copy.deepcopy(model), X, Y, generator=stream(3, "step", 7)
    )
    loss, logs = lc.regularized(model, X, Y, it=penalty, weight=0.5, seed=3, step=7)
    assert torch.equal(loss, exact["loss"] + exact["it"])
    assert list(logs) == ["loss", "it"]
    assert torch.equal(0.5 * logs["it"], exact["it"].detach())
    assert not any(value.requires_grad for value in logs.values())


def test_several_penalties_and_terms_have_weights_of_their_own():
    model, slope = network(), lc.Term(lc.InputGradientNorm(), 2.0)
    loss, logs = lc.regularized(model, X, Y, curvature=CURE, slope=slope, weight=0.5)
    assert torch.isclose(loss, logs["loss"] + 0.5 * logs["curvature"] + 2.0 * logs["slope"])
    objective = lc.Objective(
        penalties={"curvature": lc.Term(CURE, 0.5), "slope": slope, "chords": lc.Term(ELLE(), AdaptiveWeight(errors=1))}
    )
    _, logs = lc.regularized(network(), X, Y, objective=objective)
    assert list(logs) == ["loss", "curvature", "slope", "chords"]
    assert objective.update(logs).penalties["curvature"] == lc.Term(CURE, 0.5)


def test_each_layer_keeps_its_own_mode():
    model = network().train()
    model[2].eval()
    before = model[2].running_mean.clone()
    lc.regularized(model, X, Y, curvature=CURE, weight=1.0)
    assert model.training
    assert not model[2].training
    assert torch.equal(model[2].running_mean, before)
    model[2].train()
    lc.regularized(model, X, Y, curvature=CURE, weight=1.0)
    assert not torch.equal(model[2].running_mean, before)


def test_the_network_is_checked_once():
    passes = []
    model = perceptron()
    model.register_forward_hook(lambda *_: passes.append(1))
    lc.regularized(model, *singles(), curvature=CURE, weight=1.0)
    assert len(passes) > 2
    for step in range(2):
        passes.clear()
        x, y = singles()
        lc.regularized(
            model, x[:4], y[:4], curvature=lc.CURE(h=0.3), weight=1.0, loss=lambda z, y: cross_entropy(z, y), step=step
        )
    assert len(passes) == 2  # as for every loss that is made anew in every step


def test_accumulated_gradients_are_those_of_the_whole_batch():
    model = perceptron()
    x, y = singles()
    whole = slopes(lc.regularized(model, x, y, curvature=CURE, weight=0.5)[0], model)
    for part in (slice(3), slice(3, 6)):
        (lc.regularized(model, x[part], y[part], curvature=CURE, weight=0.5)[0] / 2).backward()
    for one, parameter in zip(whole, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-6)
    assert torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), 0.1))


@pytest.mark.parametrize("penalty", [CURE, lc.CURE(h=0.3, differentiation="first_order")], ids=["exact", "first order"])
def test_penalties_leave_autocast(penalty):
    model = perceptron()
    exact = lc.regularized(model, *singles(), curvature=penalty, weight=0.5)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = lc.regularized(model, *singles(), curvature=penalty, weight=0.5)
        plain, _ = lc.regularized(model, *singles())
        assert torch.is_autocast_enabled("cpu")
        assert torch.equal(plain, cross_entropy(model(X.float()).float(), Y).mean())
    assert torch.equal(loss, exact)
    scaled = slopes(loss * 1024, model)  # as by a GradScaler
    for one, other in zip(scaled, slopes(exact, model), strict=True):
        torch.testing.assert_close(one / 1024, other)


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = perceptron()

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x).float()


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = perceptron(nn.Dropout(0.3)), reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = perceptron()

    def forward(self, x):
        heads = x.flatten(1).view(len(x), 1, 2, 3)
        return self.head(x + F.scaled_dot_product_attention(heads, heads, heads).view_as(x))


@pytest.mark.parametrize("layer", [None, Attention], ids=["dropout", "attention"])
def test_gradient_checkpointing_changes_nothing(layer):
    model = Checkpointed(False)
    model.inner = model.inner if layer is None else layer()
    results = []
    for one in (model, model.inner):
        with temporary_seed(0, "masks"):
            results.append(slopes(lc.regularized(one, *singles(), curvature=CURE, weight=0.5)[0], model))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_compiled_network_runs_as_it_was_before():
    model = perceptron()
    exact = slopes(lc.regularized(model, *singles(), curvature=CURE, weight=0.5)[0], model)
    inside = copy.deepcopy(model)
    inside[1].compile(backend="eager")
    for compiled in (torch.compile(model, backend="aot_eager"), inside):
        loss, _ = lc.regularized(compiled, *singles(), curvature=CURE, weight=0.5)
        for one, other in zip(slopes(loss, compiled), exact, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # by the compiler, of the result
def test_a_compiled_step_leaves_it_out():
    model = perceptron()

    def step(x, y):
        return 2 * lc.regularized(model, x, y, curvature=CURE, weight=0.5)[0]

    assert torch.equal(torch.compile(step, backend="eager")(*singles()), step(*singles()))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_result_has_no_graph(context):
    model = perceptron()
    exact, _ = lc.regularized(model, *singles(), curvature=CURE, weight=0.5)
    with context():
        loss, _ = lc.regularized(model, X.float() * 1, Y * 1, curvature=CURE, weight=0.5)
    assert not loss.requires_grad
    assert torch.equal(loss, exact)


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_distributed_data_parallel_shares_its_buffers_once():
    model = network().train()
    wrapped = DistributedDataParallel(model)
    shared = []
    plain = wrapped._sync_buffers
    wrapped._sync_buffers = lambda: (shared.append(1), plain())
    lc.regularized(wrapped, X, Y, curvature=CURE, weight=0.5)[0].backward()
    assert len(shared) == 1
    assert wrapped.broadcast_buffers
    found = [parameter.grad.clone() for parameter in model.parameters()]
    for one, other in zip(
        found, slopes(lc.regularized(model, X, Y, curvature=CURE, weight=0.5)[0], model), strict=True
    ):
        torch.testing.assert_close(one, other)


def mixed() -> torch.Tensor:
    """Labels of mixup: 0.7 of one class and 0.3 of another, and one example with a single class."""
    p = 0.7 * F.one_hot(Y, 3) + 0.3 * F.one_hot(Y.flip(0), 3)
    return torch.cat([p[:5], F.one_hot(Y[5:], 3)]).double()


def test_cross_entropy_of_probabilities():
    logits = network().eval()(X).detach().requires_grad_()
    for p in (mixed(), 0.9 * F.one_hot(Y, 3) + 0.1 / 3, 2 * mixed()):
        found, exact = cross_entropy(logits, p), F.cross_entropy(logits, p, reduction="none")
        torch.testing.assert_close(found, exact)
        torch.testing.assert_close(*(torch.autograd.grad(one.sum(), logits)[0] for one in (found, exact)))
    assert torch.equal(cross_entropy(logits, F.one_hot(Y, 3).double()), cross_entropy(logits, Y))
    confident = torch.tensor([[40.0, 0.0]], requires_grad=True)  # torch's own derivative is 0 here
    (slope,) = torch.autograd.grad(cross_entropy(confident, torch.tensor([[1.0, 0.0]])), confident)
    assert slope[0, 1] == pytest.approx(4.2484e-18, rel=1e-3)


NEAR = lc.Ball("linf", 0.1)
PENALTIES = [CURE, lc.InputGradientNorm(), ELLE(0.1), LLR(NEAR, steps=2), TRADES(NEAR, steps=2)]


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda one: type(one).__name__)
def test_penalties_take_probabilities(penalty):
    model = network().eval()
    with torch.no_grad():
        hard = lc.regularized(model, X, Y, it=penalty, weight=0.5)[0]
        soft = lc.regularized(model, X, F.one_hot(Y, 3).double(), it=penalty, weight=0.5)[0]
    torch.testing.assert_close(soft, hard)
    loss = lc.regularized(model, X, mixed(), it=penalty, weight=0.5)[0]
    assert all(bool(slope.any()) for slope in slopes(loss, model)[:-1])


def mixing(z, _):
    return 0.7 * F.cross_entropy(z, Y, reduction="none") + 0.3 * F.cross_entropy(z, Y.flip(0), reduction="none")


BOTH = (0.7 * F.one_hot(Y, 3) + 0.3 * F.one_hot(Y.flip(0), 3)).double()
LOSSES = {
    "smoothed": (nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1), Y, (0.9 * F.one_hot(Y, 3) + 0.1 / 3).double()),
    "mixup of its own": (mixing, Y, BOTH),
    "torch's of probabilities": (nn.CrossEntropyLoss(reduction="none"), BOTH, BOTH),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_the_user_have_the_curvature_of_the_same_loss(name):
    loss, y, p = LOSSES[name]
    model = network().eval()
    found, exact = (
        lc.regularized(model, X, y, loss=loss, curvature=CURE, weight=0.5)[0],
        lc.regularized(model, X, p, curvature=CURE, weight=0.5)[0],
    )
    torch.testing.assert_close(found, exact)


def test_losses_of_other_tasks():
    model = network().eval()
    several = torch.randint(2, (6, 3), generator=stream(0)).double()
    for loss, y in (
        (lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none").mean(1), several),
        (lambda z, y: (z[:, 0] - y).square(), several[:, 0]),
    ):
        total, logs = lc.regularized(model, X, y, loss=loss, curvature=CURE, weight=0.5)
        torch.testing.assert_close(logs["loss"], loss(model(X), y).mean().detach())
        assert logs["curvature"] > 0
        assert bool(slopes(total, model)[0].any())


def test_outputs_of_other_tasks():
    """Logits of each pixel and one number an example, with a loss of the user."""
    with temporary_seed(0, "tasks"):
        pixels, number = nn.Conv2d(1, 3, 3, padding=1).double(), nn.Linear(1, 1).double()
    x, classes = torch.rand(4, 1, 2, 3, dtype=torch.double), torch.randint(3, (4, 2, 3), generator=stream(0))
    tasks = (
        (pixels, x, classes, lambda z, y: F.cross_entropy(z, y, reduction="none").mean((1, 2))),
        (lc.wrap(number), x[:, :, 0, 0], classes[:, 0, 0].double(), lambda z, y: (z[:, 1] - y).square()),
        (nn.Sequential(number, nn.Flatten(0)), x[:, :, 0, 0], classes[:, 0, 0].double(), lambda z, y: (z - y).square()),
    )
    for model, images, y, loss in tasks:
        _, logs = lc.regularized(model, images, y, loss=loss, slope=lc.InputGradientNorm(), weight=0.5)
        leaf = images.clone().requires_grad_()
        exact = torch.autograd.grad(loss(model(leaf), y).sum(), leaf)[0].flatten(1).square().sum(1).mean()
        torch.testing.assert_close(logs["slope"], exact)


def sharded() -> nn.Module:
    model = perceptron()
    model.__class__ = type("FSDPSequential", (nn.Sequential, type("FSDPModule", (), {})), {})
    return model


SOFT = F.one_hot(Y, 3).float()
PGD = lc.PGD("linf", 0.1, steps=1)
FIRST = lc.CURE(h=1.0, differentiation="first_order")
GOOD = {"curvature": CURE, "weight": 1.0}
REFUSED = [
    (lambda m, x, y: lc.regularized(m, x, y, curvature=CURE), "a weight for curvature, got none"),
    (lambda m, x, y: lc.regularized(m, x, y, weight=1.0), "a penalty for the weight"),
    (lambda m, x, y: lc.regularized(m, x, y, curvature=0.3, weight=1.0), "a penalty or a Term as curvature, got 0.3"),
    (lambda m, x, y: lc.regularized(m, x, y, objective=lc.Objective(), weight=1.0), "an objective alone"),
    (lambda m, x, y: lc.regularized(m, x, y, objective=CURE), "an Objective as objective, got CURE"),
    (lambda m, x, y: lc.regularized(m, x, y, a=lc.Term(ELLE(), AdaptiveWeight(errors=1))), "weights that stay from step"),
    (lambda m, x, y: lc.regularized(m, m[1].bias[0] + x, y, **GOOD), "inputs that no parameters have made"),
    (lambda m, x, y: lc.regularized(m, (x * 255).byte(), y, **GOOD), "floating-point inputs"),
    (lambda m, x, y: lc.regularized(m, x[:0], y[:0], **GOOD), "at least one example in the batch"),
    (lambda m, x, y: lc.regularized(m, 3 * x, y, near=TRADES(), weight=1.0), "pixels in .0, 1., got inputs from .*lc.wrap"),
    (lambda m, x, y: lc.regularized(m, 3 * x, y, objective=lc.Objective(attack=PGD)), "pixels in .0, 1., got inputs"),
    (lambda m, x, y: lc.regularized(m.bfloat16(), x, y, **GOOD), "float32 weights for penalties"),
    (lambda _, x, y: lc.regularized(Autocast(), x, y, **GOOD), "a network that computes in float32 for penalties"),
    (lambda _, x, y: lc.regularized(Checkpointed(True), x, y, **GOOD), "use_reentrant=False"),
    (lambda _, x, y: lc.regularized(sharded(), x, y, **GOOD), "whole parameters for penalties .* got FSDPModule"),
    (lambda m, x, _: lc.regularized(m, x, SOFT, objective=lc.Objective(attack=PGD)), "one class number for each example"),
    (lambda m, x, y: lc.regularized(m, x, y.int(), **GOOD), "class numbers of type torch.int64, got torch.int32"),
    (lambda m, x, _: lc.regularized(m, x, SOFT, loss=margin_loss, **GOOD), "labels.argmax.1."),
    (lambda m, x, _: lc.regularized(m, x, SOFT[:, :2], **GOOD), "probabilities of shape .6, 3., got torch.float32"),
    (lambda m, x, y: lc.regularized(m, x, y, loss=nn.CrossEntropyLoss(), **GOOD), "a loss with one number per example"),
    (lambda m, x, y: lc.regularized(m.append(nn.Dropout()), x, y, a=lc.Term(FIRST, 1.0)), "model.eval.. in your own loop"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of reentrant checkpoints
@pytest.mark.parametrize(("wrong", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_does_not_work_says_so(wrong, message):
    with pytest.raises(lc.InputError, match=message):
        wrong(perceptron(), *singles())
