"""The robustness of a network: accuracies with their audit, accuracy against radius, perturbed images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import evaluation
from lowcurve.attacks import PGD, Suite, minimum_norm
from lowcurve.data import DataSet, Examples
from lowcurve.evaluation.attack_result import said_of_undefined
from lowcurve.geometry import Curvature
from lowcurve.network_calls import call, input_like
from lowcurve.results import Cell, Column, Curves, Gallery, Line, Points, Result, Scatter, Table, describe, proportion
from lowcurve.results.cells import NETWORK
from lowcurve.store import Run
from lowcurve.study.audit_results import audit_attacked, audit_table
from lowcurve.study.certified_results import bracket_results, certify_attacked
from lowcurve.study.measured_network import launch_fabric
from lowcurve.study.optional import OptionalSteps, reason_of
from lowcurve.study.robustness_row import conditions_of, robustness_row, tried_suite
from lowcurve.study.settings import Study
from lowcurve.types import Measure, Progress


def attack_results(
    study: Study, data: DataSet, name: str, model: nn.Module, progress: Progress[int], run: Run
) -> dict[str, Result]:
    """Attack and audit one network.

    Args:
        study: Settings.
        data: Data set.
        name: Name of the network.
        model: The network.
        progress: Progress display.
        run: Run that holds the ledger of the attacks and the adversarial inputs.

    Returns:
        Results by kind: accuracies with the audit's verdict, each attack of the suite, each test of the audit, accuracy
        against radius, certified and attacked, and perturbed images. What cannot be computed is listed in "missing".
    """
    optional = OptionalSteps(name)
    examples = data.test.take(slice(study.evaluation.examples))
    certified = _certify(study, name, model, examples, progress, optional)
    suite = optional.run(
        "attacks", lambda: _suite_results(study, name, model, examples, progress, run, optional, certified)
    )
    results, known = ({}, []) if suite is None else (suite[0], [suite[1]])
    groups: dict[str, Callable[[], dict[str, Result]]] = {
        "accuracy against radius": lambda: _against_radius(
            study, name, model, examples, known, progress, optional, certified
        ),
    }
    if len(data.shape) == 3 and study.evaluation.gallery:
        groups["gallery"] = lambda: _galleries(study, data, name, model)
    for what, group in groups.items():
        results |= optional.run(what, group) or {}
    return results | optional.table()


def _certify(
    study: Study, name: str, model: nn.Module, examples: Examples, progress: Progress[int], optional: OptionalSteps
) -> evaluation.Certified | None:
    """Certify the first examples, or note why the network cannot be certified, which is no fault of the network."""
    if not study.evaluation.certified:
        return None
    try:
        return certify_attacked(study, name, model, examples, progress)
    except Exception as error:  # a network of the user's own may raise anything
        optional.missing["verified accuracy"] = reason_of(error)
        return None


def _suite_results(
    study: Study,
    name: str,
    model: nn.Module,
    examples: Examples,
    progress: Progress[int],
    run: Run,
    optional: OptionalSteps,
    certified: evaluation.Certified | None,
) -> tuple[dict[str, Result], evaluation.AttackResult]:
    """Attack one network with the suite, and audit the result, which is returned with the suite's own."""
    settings, suite = study.evaluation, tried_suite(study)
    key = describe((suite, study.data, examples.digest, study.seed, run.made_by(name)))
    ledger = run.ledger(name, key, shared=True)
    attacked = evaluation.attack(
        model,
        examples,
        suite,
        seed=study.seed,
        progress=progress,
        heading=f"attacking {name}",
        ledger=ledger,
        fabric=launch_fabric(study.hardware),
    )
    verdict = None
    if settings.audited:
        verdict = optional.run(
            "audit", lambda: audit_attacked(study, name, model, examples, attacked, progress, certified)
        )
    if settings.save_inputs:
        robust = torch.from_numpy(attacked.robust)
        run.save_inputs(name, {"inputs": attacked.inputs, "labels": examples.y, "robust": robust})
    conditions = conditions_of(study, examples, suite)
    if attacked.undefined.any():
        conditions["not finite"] = said_of_undefined(attacked.undefined)
    exactly = "; ".join(f"{key} = {describe(value)}" for key, value in suite.members)
    results: dict[str, Result] = {
        "robustness": robustness_row(study, name, attacked, suite, verdict, conditions, certified),
        "attacks": _attacks_row(study, name, attacked, suite, conditions | {"attacks": exactly}),
    }
    if verdict is not None:
        results["audit"] = audit_table(name, verdict)
    return results, attacked


def _attacks_row(
    study: Study, name: str, attacked: evaluation.AttackResult, suite: Suite, conditions: Mapping[str, str]
) -> Table:
    names = [member for member, _ in suite.members]
    shares = [
        proportion(int(attacked.robust_to(*names[:k]).sum()), len(attacked.robust)) for k in range(len(names) + 1)
    ]
    headings = [Column("clean", "Accuracy on unperturbed test examples.", ".1%")]
    headings += [Column(f"then {member}", f"Accuracy after {member} in addition.", ".1%") for member in names]
    row: tuple[Cell, ...] = (name, *((s.value, s.low, s.high) for s in shares))
    caption = "Each attack is tried on the examples that are still classified correctly."
    return Table(f"The suite {study.suite}, attack by attack", (NETWORK, *headings), (row,), caption, conditions)


def _against_radius(
    study: Study,
    name: str,
    model: nn.Module,
    examples: Examples,
    known: Sequence[evaluation.AttackResult],
    progress: Progress[int],
    optional: OptionalSteps,
    certified: evaluation.Certified | None,
) -> dict[str, Result]:
    """Measure the accuracy at every radius, the bracket, and each example's smallest successful radius and curvature."""
    radii = [study.ball(multiple).radius for multiple in study.evaluation.radii]
    attack = minimum_norm(study.ball().norm, effort=study.evaluation.effort, box=study.ball().box)
    found = evaluation.smallest_radius(
        model, examples, attack, known=known, seed=study.seed,
        progress=progress, heading=f"attacking {name} at every radius", fabric=launch_fabric(study.hardware),
    )  # fmt: skip
    shares = [proportion(int(row.sum()), len(row)) for row in found.robust_at(radii)]
    band = Line(*(tuple(getattr(s, part) for s in shares) for part in ("value", "low", "high")))
    conditions = {
        "examples": examples.describe("test"),
        "attack": f"minimum norm, {attack.steps} steps, {attack.restarts} further runs from noise; "
        f"and the suite {study.attacks}",
    }
    curves = Curves(
        "Accuracy against radius",
        f"radius ({study.norm}, pixel units)",
        "robust accuracy, with 95 % interval",
        tuple(radii),
        {name: band},
        caption="From the length of the shortest perturbation of each example that fooled the network: of a minimum-norm "
        f"attack and of the suite {study.suite} at its radius. The value at radius 0 is the clean accuracy.",
        conditions=conditions,
    )
    measures: dict[str, Measure] = {"curvature": Curvature(study.evaluation.lanczos_steps)}
    heading, launched = f"measuring {name}", launch_fabric(study.hardware)
    ratio = optional.run(
        "curvature and robustness",
        lambda: evaluation.measure(model, examples, measures, progress=progress, heading=heading, fabric=launched),
    )
    results: dict[str, Result] = {"against radius": curves}
    if certified is not None:
        results |= bracket_results(study, name, certified, found, conditions)
    if ratio is None:
        return results
    # Skip images that are misclassified without an attack or were never fooled.
    found_one = np.isfinite(found.radius) & (found.radius > 0)
    scatter = Scatter(
        "Curvature and robustness, for each image",
        "normalized curvature C = ‖H‖ / ‖g‖ at the image",
        f"smallest radius found ({study.norm}, pixel units)",
        {name: Points(_or_none(ratio["normalized curvature"], found_one), _or_none(found.radius, found_one))},
        caption="One point for each correctly classified image with a successful attack. C is local: it is the relative change "
        "of the gradient per length and says nothing about the size of the margin.",
        conditions={**conditions, "Hessian": f"exact, at most {study.evaluation.lanczos_steps} Lanczos steps"},
        x_logarithmic=True,
    )
    return results | {"curvature and robustness": scatter}


def _or_none(values: np.ndarray, known: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(v) if k else None for v, k in zip(values, known, strict=True))


def _galleries(study: Study, data: DataSet, name: str, model: nn.Module) -> dict[str, Result]:
    """Show the same test images for every network: clean, perturbed, and the perturbation, black for −, white for +."""
    examples = data.test.take(_first_of_each_class(data, study.evaluation.gallery))
    attack = PGD(study.ball(), steps=study.evaluation.steps)
    found = evaluation.attack(model, examples, attack, seed=study.seed)
    clean = examples.pixels(slice(None))
    change = found.inputs - clean
    scale = float(change.abs().max()) or 1.0
    with torch.no_grad():
        like = input_like(model)
        logits = call(model, found.inputs.to(like))
        classes = examples.name_classes(logits.shape[1]).classes
        predicted = [classes[int(k)] for k in logits.argmax(1)]
    labels = tuple(f"{data.classes[int(k)]}" for k in examples.y)
    blank = Gallery(
        "Perturbed images", (), labels, torch.empty(0, len(labels), *data.shape).numpy(), (),
        caption="One test image of each class after the attack, with the predicted class; below it the "
        "perturbation, grey for none. Misclassified images are not attacked, and an attack ends when it succeeds.",
        conditions={"ball": f"{study.norm}, radius {study.radius}", "attack": f"PGD-{study.evaluation.steps}"},
    )  # fmt: skip

    def gallery(rows: tuple[str, ...], pixels: list[Tensor], notes: tuple[tuple[str, ...], ...]) -> Gallery:
        return replace(blank, row_labels=rows, pixels=torch.stack(pixels).double().numpy(), notes=notes)

    perturbed = gallery(
        (name, f"{name}: perturbation"),
        [found.inputs, 0.5 + change / (2 * scale)],
        (tuple(f"predicted {c}" for c in predicted), tuple(f"at most {float(a.abs().max()):.3f}" for a in change)),
    )
    return {"clean images": gallery(("clean",), [clean], (tuple("" for _ in labels),)), "gallery": perturbed}


def transfer_results(
    study: Study, data: DataSet, models: Mapping[str, nn.Module], progress: Progress[int]
) -> dict[str, Result]:
    """Attack each network and evaluate the adversarial images on all networks.

    Args:
        study: Settings.
        data: Data set.
        models: Networks by name.
        progress: Progress display.

    Returns:
        "transfer": one row per source network, one column per target network.
    """
    examples = data.test.take(slice(study.evaluation.examples))
    attack = PGD(study.ball(), steps=study.evaluation.steps)
    launched = launch_fabric(study.hardware)
    robust = evaluation.transfer(models, examples, attack, seed=study.seed, progress=progress, fabric=launched)
    headings = [Column(f"on {name}", f"Accuracy of {name} on those images.", ".1%") for name in models]
    rows: list[tuple[Cell, ...]] = []
    for name, row in zip(models, robust, strict=True):
        shares = [proportion(int(column.sum()), len(column)) for column in row]
        rows.append((f"from {name}", *((s.value, s.low, s.high) for s in shares)))
    caption = (
        "Adversarial images of one network, evaluated on all. If images from another network lower the accuracy of a network "
        "more than its own do, its own gradients are misleading."
    )
    conditions = {
        "ball": f"{study.norm}, radius {study.radius} in pixel units",
        "attack": f"PGD-{study.evaluation.steps}, to its end on every example",
        "examples": examples.describe("test"),
    }
    columns = (Column("images", "The attacked network."), *headings)
    return {"transfer": Table("Transfer between networks", columns, tuple(rows), caption, conditions)}


def _first_of_each_class(data: DataSet, count: int) -> torch.Tensor:
    """Return the row of one test example, the first here, of each of the first classes."""
    labels = data.test.y
    firsts = [int(rows[0]) for k in range(len(data.classes)) if len(rows := torch.nonzero(labels == k).flatten())]
    return torch.tensor(firsts[:count])
