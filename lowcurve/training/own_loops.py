"""The loss with its penalties for training loops of other people: plain PyTorch, Lightning, Hugging Face's Trainer."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from lowcurve.analysis.calculus import require_inputs
from lowcurve.analysis.double_backward import autocast_of
from lowcurve.analysis.norms import Ball
from lowcurve.analysis.second_derivatives import repeat_math_attention
from lowcurve.attacks.acceptance import region_of
from lowcurve.errors import InputError, describe
from lowcurve.losses import cross_entropy
from lowcurve.models.modes import keep_buffers, set_training
from lowcurve.network_calls import call, gradients_enabled, precision_of, require_module, without_inference
from lowcurve.penalties import AdaptiveWeight, Penalty
from lowcurve.randomness import stream
from lowcurve.training.alignment import PERT_ALIGN, CollapseWatch
from lowcurve.training.hardware import match_precision, require_precise_weights
from lowcurve.training.objective import Objective
from lowcurve.training.terms import Term, TermValue
from lowcurve.types import Inputs, Labels, Loss

HALF = (torch.float16, torch.bfloat16)
_CHECKED: "WeakKeyDictionary[nn.Module, set[Any]]" = WeakKeyDictionary()
"""What has been checked of each network: objectives by their parts, with the shape of the inputs."""
_FOLLOWED: "WeakKeyDictionary[nn.Module, tuple[TermValue, CollapseWatch]]" = WeakKeyDictionary()
"""The last step of each network that is trained with a one-step attack."""


@_disable_dynamo  # in a compiled step it runs as plain code between two compiled parts
def regularized(
    model: nn.Module,
    x: Inputs,
    y: Labels,
    *,
    weight: float | None = None,
    loss: Loss | None = None,
    objective: Objective | None = None,
    seed: int = 0,
    step: int = 0,
    progress: float = 1.0,
    **penalties: Penalty | Term,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return mean_i l_i + sum_k weight_k mean_i penalty_k,i for a training loop of your own, and its parts.

    Call `backward` on the first result, divided by the number of batches if you accumulate gradients, and clip them as you
    like. The values are those of an `Objective`, except that each layer keeps the mode in which you have put it.

    * Attacks, and losses that share nothing with a penalty, run under autocast. Penalties leave it, since half precision
      loses small differences. Exact gradient norms have no differences and stay in autocast to bfloat16, unless another
      penalty needs float32 in the same step.
    * Penalties that differentiate twice run a network of `torch.compile` as it was before. In a compiled step this function
      is left out of the compiled code.
    * Gradient checkpointing needs use_reentrant=False.
    * In DistributedDataParallel buffers are shared once a step, at the first forward pass.
    * Without gradients, as in a validation step, the result has no graph.

    Args:
        model: Network that returns logits. For one that returns an object with logits, give `wrap` of it.
        x: Inputs, shape (batch, ...). The scale h of a penalty is a length in their units. Attacks and penalties within a
            ball need pixels in [0, 1].
        y: Labels, shape (batch,), or probabilities, shape (batch, classes), or what your own loss takes.
        weight: Weight of the penalties, except for those that come as a `Term`.
        loss: Loss, one number per example. Default: `losses.cross_entropy`.
        objective: All of this as an `Objective`, which may have attacks, schedules and adaptive weights. Give
            statistics="own" in it, unless all layers are to have one mode. For adaptive weights and `SORA` write
            `objective = objective.update(logs, step=step)` after each step.
        seed: Seed of the random numbers of penalties and attacks.
        step: Number of the step. Random penalties draw other numbers in every step.
        progress: Share of training done, for schedules.
        **penalties: Penalties by the names that they have in the logs.

    Returns:
        The scalar to minimize, and the mean of the loss, named "loss", and of each penalty without its weight: scalars
        without a graph. An objective with a one-step attack (`OneStep`) adds "PertAlign" of the step before, whose backward
        pass has run; a warning is logged once it predicts catastrophic overfitting. `SORA` adds "slope left" for `update`.

    Raises:
        InputError: If an argument is wrong, or if a penalty is not possible for the network. The latter is checked once for
            a network, a shape and the penalties.

    Cost: that of the penalties. Once: up to ten forward passes.

    Example:
        >>> from lowcurve.penalties import CURE
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 3))
        >>> x, y = torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])
        >>> loss, logs = regularized(model, x, y, curvature=CURE(h=1.0), weight=0.03)
        >>> loss.backward()
        >>> list(logs), bool(torch.isclose(loss, logs["loss"] + 0.03 * logs["curvature"]))
        (['loss', 'curvature'], True)
    """
    objective = _as_objective(objective, loss, weight, penalties)
    wants_graph = torch.is_grad_enabled()
    require_module(model)
    with gradients_enabled():
        x, y = without_inference(x), without_inference(y)
        _require_inputs_without_graph(x)
        x = match_precision(x, model)
        device, dtype = x.device.type, autocast_of(x)
        inside: AbstractContextManager[object] = torch.autocast(device, dtype=dtype) if dtype else nullcontext()
        with torch.autocast(device, enabled=False) if dtype else nullcontext():
            _check_once(model, objective, x, y)
            generator = stream(seed, "step", step)
            with _shared_once(model):
                values = objective.term_values(
                    model, x, y, generator=generator, progress=progress, step=step, autocast=lambda: inside
                )
            total = torch.stack([value.weight * value.mean for value in values.values()]).sum()
    means = {name: value.mean.detach() for name, value in values.items()}
    if wants_graph and values["loss"].alignment is not None:
        means |= _follow_alignment(model, values["loss"], step)
    return repeat_math_attention(total) if wants_graph else total.detach(), means


def _follow_alignment(network: nn.Module, loss: TermValue, step: int) -> dict[str, Tensor]:
    """Return what the last backward pass has shown of a one-step attack, and keep this step's gradients for the next call."""
    last, watch = _FOLLOWED.get(network, (None, CollapseWatch()))
    _FOLLOWED[network] = (loss._replace(mean=loss.mean.detach()), watch)
    found = {} if last is None else last.measures()
    if last is not None and last.alignment is not None and found:
        watch.add(found[PERT_ALIGN], last.mean, last.alignment.classes)
        if last.mean.device.type == "cpu" or step % 50 == 0:  # reading a value makes a GPU wait
            watch.warn_once()
    return found


def _as_objective(
    objective: Objective | None, loss: Loss | None, weight: float | None, penalties: Mapping[str, Penalty | Term]
) -> Objective:
    """Return the objective, or make it of the other arguments."""
    if objective is not None:
        _require_objective(objective)
        if loss is not None or weight is not None or penalties:
            raise InputError("an objective alone", "an objective and a loss, a weight or penalties", "put them in it")
        return objective
    bare = {name: penalty for name, penalty in penalties.items() if not isinstance(penalty, Term)}
    for name, penalty in bare.items():
        _require_penalty(name, penalty)
    if bare and weight is None:
        raise InputError(f"a weight for {', '.join(bare)}", "none", "write weight=0.03, or give a Term")
    if weight is not None and not bare:
        raise InputError("a penalty for the weight", "none without its own", "write curvature=lc.CURE(h=1.0)")
    if any(isinstance(term.weight, AdaptiveWeight) for term in penalties.values() if isinstance(term, Term)):
        hint = "give objective=, and write objective = objective.update(logs, step=step) after each step"
        raise InputError("weights that stay from step to step", "an AdaptiveWeight", hint)
    terms = {name: p if isinstance(p, Term) else Term(p, weight or 0.0) for name, p in penalties.items()}
    return Objective(loss=loss or cross_entropy, penalties=terms, statistics="own")


def _require_objective(objective: object) -> None:
    if not isinstance(objective, Objective):
        hint = "write lc.Objective(penalties={'curvature': lc.Term(lc.CURE(h=1.0), 0.03)}, statistics='own')"
        raise InputError("an Objective as objective", describe(objective), hint)


def _require_penalty(name: str, penalty: object) -> None:
    if not isinstance(penalty, Penalty):
        raise InputError(f"a penalty or a Term as {name}", describe(penalty), "write curvature=lc.CURE(h=1.0)")


def _require_inputs_without_graph(x: Inputs) -> None:
    """Refuse an empty batch, and inputs that other layers have made: those would be trained by nothing."""
    require_inputs(x)
    if not len(x):
        raise InputError("at least one example in the batch", "none", "leave out empty batches")
    if x.grad_fn is not None:
        hint = "put the layers that made them into the model, or write x.detach()"
        raise InputError("inputs that no parameters have made", f"the result of {x.grad_fn.name()}", hint)


def _distributed(model: nn.Module) -> list[DistributedDataParallel]:
    return [module for module in model.modules() if isinstance(module, DistributedDataParallel)]


@contextmanager
def _shared_once(model: nn.Module) -> Iterator[None]:
    """Let DistributedDataParallel share its buffers in the first pass only.

    A second time, it would write into buffers that the backward pass still needs.
    """

    def stop(module: Any, *_: object) -> None:
        module.broadcast_buffers = False

    sharing = [module for module in _distributed(model) if module.broadcast_buffers]
    hooks = [module.register_forward_hook(stop) for module in sharing]
    try:
        yield
    finally:
        for module, hook in zip(sharing, hooks, strict=True):
            hook.remove()
            module.broadcast_buffers = True


@contextmanager
def _one_process(model: nn.Module) -> Iterator[None]:
    """Run the module inside DistributedDataParallel, which expects a backward pass after each of its own."""
    wrappers = _distributed(model)
    for wrapper in wrappers:
        vars(wrapper)["forward"] = wrapper.module
    try:
        yield
    finally:
        for wrapper in wrappers:
            del vars(wrapper)["forward"]


def _check_once(network: nn.Module, objective: Objective, x: Inputs, y: Labels) -> None:
    """Check a network and its first batch, once for each objective and shape of the inputs."""
    kinds = tuple((name, term.penalty) for name, term in objective.penalties.items())
    loss: Any = getattr(objective.loss, "__code__", objective.loss)  # a lambda of every step has the same code
    region = None if objective.attack is None else region_of(objective.attack)  # the attack itself may change each step
    key = (kinds, loss, region, objective.statistics, x.shape[1:], x.dtype, y.ndim, network.training)
    known = _CHECKED.setdefault(network, set())
    try:
        if key in known:
            return
        known.add(key)
    except TypeError:  # a penalty or a loss without a hash is checked at every step
        pass
    try:
        with _one_process(network):
            _check(network, objective, x, y)
    except BaseException:
        known.discard(key)
        raise


def _check(network: nn.Module, objective: Objective, x: Inputs, y: Labels) -> None:
    _require_whole_parameters(network, objective)
    require_precise_weights(precision_of(network), objective, "")
    _require_pixels(objective, x)
    if objective.penalties:
        _require_precise_passes(network, x)
        objective.check_network(network, x, y)


def _require_whole_parameters(network: nn.Module, objective: Objective) -> None:
    """Refuse sharded parameters, whose derivatives of an input gradient are wrong without an error."""
    if not objective.differentiates_twice:
        return
    sharded = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine")
    found = {base.__name__ for module in network.modules() for base in type(module).__mro__} & {*sharded}
    if found or any(hasattr(parameter, "ds_id") for parameter in network.parameters()):
        received = next(iter(found), "DeepSpeed's ZeRO stage 3")
        hint = 'use DistributedDataParallel, or penalties with differentiation="first_order"'
        raise InputError("whole parameters for penalties on an input gradient", received, hint)


def _require_pixels(objective: Objective, x: Inputs) -> None:
    """Refuse inputs outside the pixel box for attacks and penalties that stay inside it."""
    balls = [getattr(term.penalty, "ball", None) for term in objective.penalties.values()]
    boxes = [ball.box for ball in balls if isinstance(ball, Ball)]
    if objective.attack is not None:
        box = region_of(objective.attack).box
        boxes += [box] if box is not None else []
    low, high = float(x.min()), float(x.max())
    for box in boxes:
        if low < box[0] - 1e-4 or high > box[1] + 1e-4:
            hint = "leave the normalization out of the data, and write lc.wrap(model, mean=..., std=...)"
            raise InputError(f"pixels in [{box[0]:g}, {box[1]:g}]", f"inputs from {low:.3g} to {high:.3g}", hint)


class _HalfPrecision(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records whether an operation returns numbers of half precision."""

    found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.found = self.found or (isinstance(result, Tensor) and result.dtype in HALF)
        return result


def _require_precise_passes(network: nn.Module, x: Inputs) -> None:
    """Refuse a network that switches to half precision by itself, such as one whose forward method has autocast."""
    with set_training(network, training=False), keep_buffers(network), torch.no_grad():
        seen = _HalfPrecision()  # type: ignore[no-untyped-call]
        with seen:
            call(network, x[:2])
    if seen.found:
        hint = "take autocast out of the network's forward method, and put it around the training step"
        raise InputError("a network that computes in float32 for penalties", "half precision inside it", hint)
