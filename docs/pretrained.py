"""Put the networks of a run into the package, with their cards: python docs/pretrained.py RUN GROUP

The run is one of `lowcurve study`, so its numbers are those of these weights.
"""

import json
import re
import shutil
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FIRST = 64
"""Test images of which the card has numbers of its own, which a test computes again."""


def publish(place: str, group: str) -> None:
    """Write the folder of a group."""
    from lowcurve.cli.requests import open_run
    from lowcurve.results import Table, load
    from lowcurve.store.pretrained import CARDS, FOLDER
    from lowcurve.study.findings import shorten_verdicts

    run, study = open_run(place)
    content = run.read_json("study.json")
    audits = load(content["results"]["audit"])
    table = load(content["results"]["comparison"])
    assert isinstance(table, Table)
    table = shorten_verdicts(table, audits if isinstance(audits, Table) else None)
    log = (run.folder / "log.txt").read_text()
    folder = FOLDER / group
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "networks").mkdir(parents=True)
    cards = {}
    for row in table.rows:
        method = str(row[0])
        file = folder / "networks" / f"{method}.safetensors"
        shutil.copy(run.folder / "networks" / file.name, file)
        seconds = re.findall(rf"train {re.escape(method)} took ([\d.]+) s", log)
        name = re.sub(r"[^a-z0-9]+", "-", f"{method} {study.network} {study.data}".lower()).strip("-")
        cards[name] = {
            "method": method,
            "sha256": sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
            "training seconds": float(seconds[-1]) if seconds else None,
            "measured": {c.heading: cell for c, cell in zip(table.columns[1:], row[1:], strict=True)},
            "first images": first_images(study, run.load_network(method)),
        }
    facts = {key: content["facts"][key] for key in ("lowcurve", "torch", "Python", "machine", "written")}
    shared = {
        "data": study.data,
        "licence": "MIT",
        "columns": {c.heading: {"meaning": c.meaning, "form": c.form} for c in table.columns[1:]},
        "conditions": dict(table.conditions),
        "made": facts,
        "networks": cards,
    }
    (folder / CARDS).write_text(json.dumps(shared, indent=1, ensure_ascii=False) + "\n")
    run_there = type(run)(folder)
    run_there.write_settings(replace(study, data_dir=None, accelerator="auto"))
    shutil.rmtree(folder / ".digests", ignore_errors=True)


def first_images(study: Any, model: Any) -> dict[str, float]:
    """Return clean accuracy and curvature on the first test images."""
    import lowcurve as lc
    from lowcurve.study.pipeline import load_data

    few = load_data(study).test.take(slice(FIRST))
    found = lc.measure(model, few, lc.Curvature(), progress=False)
    norms = {name: float(found[name].mean()) for name in ("gradient norm", "Hessian norm")}
    return {"images": len(few), "clean": lc.accuracy(model, few).value, **norms}


if __name__ == "__main__":
    publish(*sys.argv[1:])
