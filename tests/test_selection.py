"""Which rows of a data set are used: said as it is, taken in order where asked, and noticed when their content changes."""

import dataclasses

import torch
from torch import nn

from lowcurve.analysis.norms import LINF, Ball
from lowcurve.data import DataSet, Examples, Limits, Origin, load
from lowcurve.figures.regions import wide_sections
from lowcurve.figures.same_images import select_images
from lowcurve.results.cells import count_examples
from lowcurve.study.pipeline import load_data
from lowcurve.study.robustness_results import _galleries
from lowcurve.study.settings import Evaluation, Study

SHORT = Limits(test=50)


def test_limited_examples_are_said_to_be_random_with_their_seed():
    whole, short = load("digits"), load("digits", limits=SHORT, seed=3)
    assert count_examples(whole.test, "test") == {"examples": "all 360 of the test set"}
    assert whole.test.take(slice(20)).describe("test") == "the first 20 of the test set"
    assert short.test.take(slice(20)).describe("test") == "a random 20 of the test set, seed 0"
    train = load("digits", limits=Limits(train=9), seed=3).train
    assert train.describe("training") == "a random 9 of the training set, seed 3"
    torch.testing.assert_close(short.test.x, whole.test.x[short.test.numbers])
    assert (
        Examples(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), ("a",)).describe("test") == "2 of the test set"
    )


def test_the_first_are_taken_where_asked():
    whole, short = load("digits"), load("digits", limits=SHORT, first=True)
    torch.testing.assert_close(short.test.x, whole.test.x[:50])
    assert short.test.describe("test") == "the first 50 of the test set"
    study = Study(limits=SHORT, evaluation=Evaluation(first=True))
    assert load_data(study).test.numbers.tolist() == list(range(50))
    assert load_data(dataclasses.replace(study, evaluation=Evaluation())).test.numbers.tolist() != list(range(50))


def test_pictures_name_the_rows_of_the_whole_test_set():
    data = load("digits", limits=SHORT)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    shown = select_images(data, {"one": network}, 3, Ball(LINF, 0.1))
    whole = load("digits").test
    torch.testing.assert_close(shown.examples.x, whole.x[list(shown.numbers)])


def test_a_digest_changes_with_content_and_order_alone():
    x, y = torch.rand(6, 1, 2, 2), torch.arange(6) % 2
    part = Examples(x, y, ("a", "b"))
    same = [
        Examples(x.clone(), y, ("a", "b")),
        part.take(slice(None)),
        Examples(x, y, ("a", "b"), Origin(torch.arange(6), 9)),
    ]
    same.append(Examples(x.contiguous(memory_format=torch.channels_last), y, ("a", "b")))
    assert {other.digest for other in same} == {part.digest}
    moved = x.clone()
    moved[3, 0, 1, 1] += 1e-7
    others = [
        Examples(moved, y, ("a", "b")), Examples(x, 1 - y, ("a", "b")), Examples(x, y, ("b", "a")), part.take(slice(5)),
        Examples(x.double(), y, ("a", "b")), Examples(x.view(6, 2, 2), y, ("a", "b")), part.take([1, 0, 2, 3, 4, 5]),
    ]  # fmt: skip
    assert len({part.digest, *(other.digest for other in others)}) == len(others) + 1
    assert DataSet("a", part, part.take([]), part, "").validation.digest == part.take([]).digest


def test_logits_beyond_the_classes_are_named_by_number():
    data = load("digits", limits=SHORT)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 13)).eval()
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor([1.0] + [0.0] * 10 + [0.9, 0.0]))
    shown = select_images(data, {"many": network}, 2, Ball(LINF, 0.1), points=5)
    assert shown.examples.classes[9:] == ("9", "class 10", "class 11", "class 12")
    found = _galleries(Study(evaluation=Evaluation(steps=2)), data, "many", network)
    assert len(found["gallery"].notes[0]) == 5
    assert wide_sections(shown)["classes 1"].classes[12] == "class 12"
