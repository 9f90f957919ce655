"""Results are kept for the data, the network and the radius that they were made with, and for no other."""

import dataclasses
import os

import pytest
import torch
from torch import Tensor, nn

from lowcurve.data import DataSet, Examples, load
from lowcurve.models import Network
from lowcurve.papers.common import context as contexts
from lowcurve.papers.common.context import Context
from lowcurve.randomness import stream
from lowcurve.results import Column, Table
from lowcurve.store import Run, weights_digest
from lowcurve.study import pipeline
from lowcurve.study.settings import Evaluation, Study
from lowcurve.training import Optimization

NETWORK = Network("mlp", (2,), 2, (0.5, 0.5), (0.25, 0.25), "relu", width=None)
QUICK = Optimization(epochs=1, batch_size=8)
STUDY = Study(
    data="here",
    network="mlp",
    width=None,
    methods=("standard",),
    training=QUICK,
    evaluation=Evaluation(drawn=0, audited=0),
)


def data(change: float = 0.0, order: int = 0) -> DataSet:
    x = torch.rand(24, 2, generator=stream(0, "points")).roll(order, 0)
    x[20] += change * (0.5 - x[20])
    parts = Examples(x, torch.arange(24).roll(order) % 2, ("a", "b"))
    return DataSet("here", parts.take(slice(8)), parts.take(slice(8, 16)), parts.take(slice(16, 24)), "Points.")


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """A run with one network, whose results are the number of times that they were made."""
    run, made = Run.create(tmp_path / "run"), iter(range(1, 100))
    run.save_network("standard", NETWORK, NETWORK.build(0), "key")

    def results(*_arguments):
        return {"geometry": Table("t", (Column("network"), Column("n")), (("standard", float(next(made))),))}

    monkeypatch.setattr(pipeline, "curvature_results", results)
    monkeypatch.setattr(pipeline, "attack_results", results)
    return run


def measured(run: Run, study: Study, data: DataSet) -> float:
    pipeline.measure(study, data, run)
    table = run.parts()["curvature-standard"]["geometry"]
    return table.rows[0][1]


def test_other_data_under_the_same_name_is_measured_anew(run):
    assert [measured(run, STUDY, data()), measured(run, STUDY, data())] == [1, 1]
    assert measured(run, STUDY, data(change=1e-6)) == 2
    assert measured(run, STUDY, data(order=1)) == 3
    assert measured(run, STUDY, data()) == 4


def test_other_data_under_the_same_name_is_trained_on_anew(tmp_path):
    run = Run.create(tmp_path / "run")
    keys = []
    for one in (data(), data(), data(change=0.5), data(order=1)):
        pipeline.train(STUDY, one, run)
        keys.append(run.made_by("standard"))
    assert keys[0] == keys[1]
    assert keys[0] == keys[2]  # row 20 is a test row: the networks stay
    assert keys[0] != keys[3]


def test_an_attack_at_another_radius_leaves_no_older_curvature_in_the_report(run):
    pipeline.measure(STUDY, data(), run)
    other = dataclasses.replace(STUDY, radius="0.2")
    pipeline.attack(other, data(), run)
    assert run.parts().keys() == {"attack-standard", "curvature-standard"}
    assert run.parts(pipeline.scope_of(other, run.read_examples())).keys() == {"attack-standard"}
    assert run.parts(pipeline.scope_of(STUDY, run.read_examples())).keys() == {"curvature-standard"}
    pipeline.measure(other, data(), run)
    assert len(run.parts(pipeline.scope_of(other, run.read_examples()))) == 2


def test_an_attack_on_other_data_leaves_no_older_curvature_in_the_report(run):
    pipeline.measure(STUDY, data(), run)
    pipeline.attack(STUDY, data(change=0.1), run)
    assert run.parts(pipeline.scope_of(STUDY, run.read_examples())).keys() == {"attack-standard"}


def test_a_file_with_another_time_holds_the_same_data(tmp_path):
    from test_splits import tree

    root = tree(tmp_path, *(f"{s}/{c}/{k}.png" for s in ("train", "test") for c in "ab" for k in range(3)))
    before = load(root)
    for path in root.rglob("*.png"):
        os.utime(path, (1, 1))
    after = load(root)
    assert [getattr(before, part).digest for part in ("train", "validation", "test")] == [
        getattr(after, part).digest for part in ("train", "validation", "test")
    ]


class Packed(nn.Module):
    """A layer whose state holds a tuple of tensors, as that of a quantized layer does."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def get_extra_state(self) -> tuple[Tensor, None]:
        return torch.full((2,), self.value), None


def test_weights_are_known_by_their_values():
    one, two = NETWORK.build(0), NETWORK.build(0)
    assert weights_digest(one) == weights_digest(two)
    with torch.no_grad():
        next(two.parameters()).view(-1)[0] += 1e-6
    assert weights_digest(one) != weights_digest(two)
    assert weights_digest(one.half()) != weights_digest(one.float())
    packed = [Packed(value) for value in (0.0, 0.0, 1.0)]
    assert weights_digest(packed[0]) == weights_digest(packed[1]) != weights_digest(packed[2])


def test_items_of_papers_are_kept_for_the_same_files_alone(tmp_path, monkeypatch):
    made, digest = [], ["1"]
    monkeypatch.setattr(contexts, "files_digest", lambda *_names: digest[0])
    context = Context("digits", "smoke", Run.create(tmp_path / "run"))

    def make():
        made.append(1)
        return {"t": Table("t", (Column("n"),), ((1.0,),))}

    for value in ("1", "1", "2"):
        digest[0] = value
        context.load_or_compute("item", {"count": 3}, make)
    assert len(made) == 2
