"""RobustBench both ways: its networks here, and this package's numbers in the form of its leaderboard."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lowcurve.analysis.norms import Ball, pixels
from lowcurve.errors import InputError, nearest
from lowcurve.evaluation.attack_result import AttackResult
from lowcurve.evaluation.audit import Audit
from lowcurve.libraries import require_library
from lowcurve.store.files import write_bytes

THREATS = {"linf": "Linf", "l_inf": "Linf", "l2": "L2", "l_2": "L2"}
"""Names of norms here, and RobustBench's threat models."""


def robustbench(
    name: str, threat_model: str = "Linf", *, dataset: str = "cifar10", model_dir: str | Path = "models"
) -> nn.Module:
    """Load a network of RobustBench's model zoo, in eval mode. It maps pixels in [0, 1] to logits, as networks here do.

    RobustBench downloads the weights on first use.

    Args:
        name: Name in the zoo, such as "Carmon2019Unlabeled".
        threat_model: "Linf", "L2" or "corruptions".
        dataset: "cifar10", "cifar100" or "imagenet".
        model_dir: Folder for the weights.

    Returns:
        The network.

    Raises:
        InputError: If robustbench is not installed, or has no such network.

    Example:
        >>> model = robustbench("Carmon2019Unlabeled", "Linf")  # doctest: +SKIP
        >>> lc.audit(model, images, labels, "linf", 8 / 255)  # doctest: +SKIP

    Reference: Croce et al. 2021 (RobustBench).
    """
    require_library("robustbench", install="robustbench")
    enums, zoo = (importlib.import_module(f"robustbench.model_zoo{part}") for part in (".enums", ""))
    threat = THREATS.get(threat_model.lower(), threat_model)
    threats, datasets = ([one.value for one in kind] for kind in (enums.ThreatModel, enums.BenchmarkDataset))
    if threat not in threats:
        hint = nearest(threat, threats, 'write "Linf"')
        raise InputError(f"a threat model among {', '.join(threats)}", repr(threat_model), hint)
    if dataset not in datasets:
        hint = nearest(dataset, datasets, 'write "cifar10"')
        raise InputError(f"a data set among {', '.join(datasets)}", repr(dataset), hint)
    networks = zoo.model_dicts[enums.BenchmarkDataset(dataset)].get(enums.ThreatModel(threat), {})
    if name not in networks:
        hint = nearest(name, networks, "see RobustBench's model zoo")
        raise InputError(f"a network of RobustBench for {dataset} and {threat}", repr(name), hint)
    utils = importlib.import_module("robustbench.utils")
    model: nn.Module = utils.load_model(name, model_dir=str(model_dir), dataset=dataset, threat_model=threat)
    return model


def model_info(
    ball: Ball,
    attacked: AttackResult,
    *,
    autoattack: AttackResult | None = None,
    audit: Audit | None = None,
    dataset: str,
    name: str = "",
    authors: str = "",
    venue: str = "Unpublished",
    link: str = "",
    architecture: str = "",
    additional_data: bool = False,
    reported: float | None = None,
) -> dict[str, Any]:
    """Return a network's entry for RobustBench's leaderboard, as its folder model_info holds them.

    `external` is the robust accuracy in the worst case over all attacks here, and `autoattack_acc` that under AutoAttack, both
    in percent. RobustBench ranks by `external` where there is one. `unreliable` is set where the audit failed.

    Args:
        ball: Norm and radius.
        attacked: Result of `lc.attack` with the suite that judges the network.
        autoattack: Result of `lc.attack` with `attacks.AutoAttack`, if it was run.
        audit: Result of `lc.audit`, if it was made. Its verdict is the footnote, and its worst case counts for its images.
        dataset: "cifar10", "cifar100" or "imagenet".
        name: Title of the paper.
        authors: Its authors.
        venue: Where it appeared.
        link: Its address.
        architecture: Architecture of the network.
        additional_data: Whether more than the data set was used in training.
        reported: Robust accuracy that the paper reports, in percent.

    Returns:
        A dictionary that JSON can hold.

    Raises:
        InputError: If the results are not those of the same images.

    Example:
        >>> import lowcurve as lc, torch
        >>> ball = Ball("linf", 8 / 255)
        >>> attacked = lc.attack(torch.nn.Identity(), torch.tensor([[0.8, 0.3], [0.5, 0.49]]), [0, 0], lc.PGD(ball))
        >>> found = model_info(ball, attacked, dataset="cifar10", architecture="identity")
        >>> found["eps"], found["clean_acc"], found["external"]
        ('8/255', '100.00', '50.00')

    Reference: Croce et al. 2021 (RobustBench).
    """
    worst = attacked.robust
    if autoattack is not None:
        if len(autoattack.robust) != len(worst):
            sizes = f"{len(worst)} and {len(autoattack.robust)}"
            raise InputError("both attacks on the same images", sizes, "attack the same images with both")
        worst = worst & autoattack.robust
    if audit is not None and len(audit.robust.get("worst case", ())) == len(worst):
        worst = worst & audit.robust["worst case"]
    tried = f"external: worst case over {', '.join(name for name, _ in attacked.members)} of lowcurve"
    verdict = "" if audit is None else f"; its audit: {audit.summary}"
    return {
        "link": link,
        "name": name,
        "authors": authors,
        "additional_data": additional_data,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": venue,
        "architecture": architecture,
        "eps": _fraction(ball.radius),
        "clean_acc": _percent(attacked.clean),
        **({} if reported is None else {"reported": f"{reported:.2f}"}),
        **({} if autoattack is None else {"autoattack_acc": _percent(autoattack.robust)}),
        "external": _percent(worst),
        "unreliable": audit is not None and not audit.reliable,
        "footnote": f"{tried}, on {len(worst)} images{verdict}",
    }


def write_model_info(info: dict[str, Any], ball: Ball, identifier: str, folder: str | Path = "model_info") -> Path:
    """Write an entry where RobustBench looks for it: FOLDER/DATASET/THREAT/IDENTIFIER.json.

    Args:
        info: What `model_info` returned.
        ball: Norm and radius.
        identifier: Name of the entry, by RobustBench's custom author, year and first word, such as "Moosavi2019Robustness".
        folder: The folder model_info.

    Returns:
        The file.
    """
    path = Path(folder) / info["dataset"] / THREATS[ball.norm.name] / f"{identifier}.json"
    return write_bytes(path, (json.dumps(info, indent=2) + "\n").encode())


def _percent(values: np.ndarray) -> str:
    return f"{100 * float(np.mean(values)):.2f}"


def _fraction(radius: float) -> str:
    """Return a radius as RobustBench writes it: 8/255, or a decimal."""
    steps = radius / pixels(1)
    return f"{steps:.0f}/{1 / pixels(1):.0f}" if abs(steps - round(steps)) < 1e-6 else f"{radius:g}"
