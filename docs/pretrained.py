"""Put the networks of a run into the package, with their cards: python docs/pretrained.py RUN GROUP

The run is one of `lowcurve study`, so its numbers are those of these weights. The cost of training is counted in operations,
so it does not depend on what else the machine did.
"""

import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from math import ceil
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks")]

from training_step import Operations  # noqa: E402

import lowcurve as lc  # noqa: E402
from lowcurve.cli.requests import open_run  # noqa: E402
from lowcurve.data import DataSet, Examples  # noqa: E402
from lowcurve.models import update_norms  # noqa: E402
from lowcurve.randomness import stream  # noqa: E402
from lowcurve.results import Column, Table, load  # noqa: E402
from lowcurve.store.pretrained import CARDS, FOLDER  # noqa: E402
from lowcurve.study.findings import shorten_verdicts  # noqa: E402
from lowcurve.study.methods import method_of, objective_of  # noqa: E402
from lowcurve.study.pipeline import load_data, optimization_of, source_of  # noqa: E402
from lowcurve.study.settings import Study  # noqa: E402

FIRST = 64
"""Test images of which the card has numbers of its own, which a test computes again."""
TRAINING = Column("training", "Floating-point operations of its training, relative to standard training.", ".1f")


def publish(place: str, group: str) -> None:
    """Write the folder of a group."""
    run, study = open_run(place)
    content = run.read_json("study.json")
    audits = load(content["results"]["audit"])
    table = load(content["results"]["comparison"])
    assert isinstance(table, Table)
    table = shorten_verdicts(table, audits if isinstance(audits, Table) else None)
    # A column without a number for any network, such as an accuracy that was not verified, is left out.
    kept = [k for k in range(1, len(table.columns)) if any(row[k] is not None for row in table.rows)]
    columns, data = [TRAINING, *(table.columns[k] for k in kept)], load_data(study)
    folder = FOLDER / group
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "networks").mkdir(parents=True)
    cards = {}
    for row in table.rows:
        method = str(row[0])
        file = folder / "networks" / f"{method}.safetensors"
        shutil.copy(run.folder / "networks" / file.name, file)
        model = run.load_network(method)
        cost = operations(method, study, data) / operations("standard", study, data)
        name = re.sub(r"[^a-z0-9]+", "-", f"{method} {study.network} {study.data}".lower()).strip("-")
        cards[name] = {
            "method": method,
            "sha256": sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
            "measured": {c.heading: cell for c, cell in zip(columns, (cost, *(row[k] for k in kept)), strict=True)},
            "first images": first_images(data.test, model),
            "gray image": gray_image(data.test.shape, model),
        }
    facts = {key: content["facts"][key] for key in ("lowcurve", "torch", "Python", "machine", "written")}
    shared = {
        "data": study.data,
        "licence": "MIT",
        "columns": {c.heading: {"meaning": c.meaning, "form": c.form} for c in columns},
        "conditions": dict(table.conditions),
        "made": facts,
        "networks": cards,
    }
    (folder / CARDS).write_text(json.dumps(shared, indent=1, ensure_ascii=False) + "\n")
    run_there = type(run)(folder)
    run_there.write_settings(replace(study, data_dir=None, accelerator="auto"))
    shutil.rmtree(folder / ".digests", ignore_errors=True)


def operations(method: str, study: Study, data: DataSet) -> float:
    """Return the floating-point operations of a method's training, with those of the network that it starts from."""
    _, std = data.statistics()
    chosen, optimization = method_of(method, study), optimization_of(method, study)
    before = operations(chosen.previous, study, data) if chosen.previous else 0.0
    model = source_of(study, data, method).build(study.seed).train()
    examples = data.train.take(slice(optimization.batch_size))
    x, y = examples.pixels(slice(None)), examples.y
    objective = objective_of(method, study, std, model)
    rounds = max((term.every for term in objective.penalties.values()), default=1)
    last = optimization.epochs * ceil(len(data.train) / optimization.batch_size)
    with Operations() as counter:
        for step in range(last - last % rounds, last - last % rounds + rounds):
            values = objective.term_values(model, x, y, generator=stream(0, step), step=step)
            torch.stack([value.weight * value.mean for value in values.values()]).sum().backward()
            update_norms(model)
    return before + last * counter.count / rounds


def first_images(test: Examples, model: nn.Module) -> dict[str, float]:
    """Return clean accuracy and curvature on the first test images."""
    few = test.take(slice(FIRST))
    found = lc.measure(model, few, lc.Curvature(), progress=False)
    norms = {name: float(found[name].mean()) for name in ("gradient norm", "Hessian norm")}
    return {"images": len(few), "clean": lc.accuracy(model, few).value, **norms}


def gray_image(shape: Sequence[int], model: nn.Module) -> dict[str, list[float]]:
    """Return the logits of a gray image, which can be computed again where the data are not."""
    with torch.no_grad():
        return {"shape": [*shape], "logits": model(torch.full((1, *shape), 0.5))[0].tolist()}


if __name__ == "__main__":
    publish(*sys.argv[1:])
