"""The calls a user makes: every kind of data gives the same numbers, results print well, wrong arguments fail at once."""

import json
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from known_margins import EXAMPLES, linear, perceptron
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import lowcurve as lc
from lowcurve import progress
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.evaluation import AttackResult, Columns
from lowcurve.randomness import temporary_seed

BYTES = (EXAMPLES.x * 255).round().to(torch.uint8)
X, Y = BYTES.float() / 255, EXAMPLES.y
PGD = lc.PGD(Ball(LINF, 0.05))


class Pairs(Dataset):
    """A torch data set of (image, label), the image as `make` gives it."""

    classes = ("one", "two", "three")

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(Y)

    def __getitem__(self, k):
        return self.make(k)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def picture(k):
    return Image.fromarray(BYTES[k].permute(1, 2, 0).numpy())


def hugging_face(**columns):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["one", "two", "three"])}
    )
    made = {"image": [picture(k) for k in range(50)], "label": Y.tolist(), **columns}
    return datasets.Dataset.from_dict(made, features=features)


KINDS = {
    "tensors": lambda: (X, Y),
    "bytes": lambda: (BYTES, Y),
    "double precision": lambda: (X.double(), Y.int()),
    "with a gradient": lambda: (X.clone().requires_grad_(), Y),
    "numpy": lambda: (X.numpy(), Y.numpy()),
    "numpy bytes": lambda: (BYTES.numpy(), Y.numpy().astype(np.uint8)),
    "a list of labels": lambda: (X, Y.tolist()),
    "labels in a column": lambda: (X, Y[:, None]),
    "a list of images": lambda: (list(X), list(Y)),
    "a list of PIL images": lambda: ([picture(k) for k in range(50)], Y),
    "a pair": lambda: ((X, Y),),
    "Examples": lambda: (lc.Examples(X, Y, ("a", "b", "c")),),
    "TensorDataset": lambda: (TensorDataset(X, Y),),
    "Subset": lambda: (Subset(Pairs(lambda k: (X[k], int(Y[k]))), range(50)),),
    "PIL images": lambda: (Pairs(lambda k: (picture(k), int(Y[k]))),),
    "dictionaries": lambda: (Pairs(lambda k: {"image": X[k], "label": Y[k]}),),
    "IterableDataset": lambda: (Stream(),),
    "DataLoader": lambda: (DataLoader(TensorDataset(X, Y), batch_size=16),),
    "DataLoader without batches": lambda: (DataLoader(TensorDataset(X, Y), batch_size=None),),
    "DataLoader of dictionaries": lambda: (DataLoader(Pairs(lambda k: {"image": X[k], "label": Y[k]}), batch_size=16),),
    "a list of batches": lambda: (list(zip(X, Y, strict=True)),),
    "Hugging Face": lambda: (hugging_face(),),
    "Hugging Face in torch format": lambda: (hugging_face().with_format("torch"),),
    "Hugging Face, selected": lambda: (hugging_face().select(range(49, -1, -1)).select(range(49, -1, -1)),),
    "Hugging Face, streamed": lambda: (hugging_face().to_iterable_dataset(),),
    "Hugging Face with a transform": lambda: (
        hugging_face().with_transform(lambda rows: {"image": [np.asarray(i).transpose(2, 0, 1) for i in rows["image"]],
                                                    "label": rows["label"]}),
    ),
    "Hugging Face arrays": lambda: (
        datasets.Dataset.from_dict({"image": X.tolist(), "label": Y.tolist()}).cast_column(
            "image", datasets.Array3D((3, 2, 2), "float32")),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def expected():
    model = perceptron()
    return lc.measure(model, lc.Examples(X, Y, ("a", "b", "c")), lc.Curvature())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_the_same_numbers(kind, expected):
    data, model = KINDS[kind](), perceptron()
    columns = lc.measure(model, *data, lc.Curvature())
    assert list(columns) == list(expected)
    for name, values in columns.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-7)
    assert lc.accuracy(model, *data).successes == int((model(X).argmax(1) == Y).sum())


def test_all_functions_take_images_and_labels():
    model, examples = linear(), lc.Examples(X, Y, ("a", "b", "c"))
    whole, parts = lc.attack(model, examples, PGD), lc.attack(model, X.numpy(), Y.tolist(), PGD)
    assert (whole.robust == parts.robust).all()
    assert (lc.attack(model, (X, Y), method=PGD).robust == whole.robust).all()
    first, second = lc.smallest_radius(model, examples, PGD), lc.smallest_radius(model, X, Y, PGD)
    assert (first.radius == second.radius).all()
    assert first.radius[np.isfinite(first.radius)].max() <= 0.05 * (1 + 1e-5)  # the attack's own radius
    budget = lc.evaluation.Budget(
        steps=3, restarts=1, images=5, landscape_images=3, neighbors=2, apgd_steps=2, queries=4, noise_draws=4, spsa_steps=1,
        spsa_draws=1, spsa_images=2, long_steps=3,
    )  # fmt: skip
    calls = (
        (examples, Ball(LINF, 0.05)), (examples, "linf", 0.05), (X, Y, "l_inf", 0.05), ((X, Y), "linf", 0.05),
        (X.numpy(), Y.tolist(), Ball(LINF, 0.05)),
    )  # fmt: skip
    audits = [lc.audit(model, *call, budget=budget) for call in calls]
    assert len({repr(found) for found in audits}) == 1
    assert repr(lc.audit(model, (X, Y), norm="linf", radius=0.05, budget=budget)) == repr(audits[0])
    failed = ", ".join(finding.name for finding in audits[0].failed)
    first = repr(audits[0]).splitlines()[0]
    assert (
        first
        == f"Audit of 50 images: {'upper bound, evaluation unreliable: ' * bool(failed)}{failed or audits[0].verdict}"
    )
    transfer, loss = lc.evaluation.transfer, lc.evaluation.adversarial_loss
    assert (transfer({"m": model}, X, Y, PGD) == transfer({"m": model}, examples, PGD)).all()
    np.testing.assert_allclose(loss(model, X, Y, PGD), loss(model, examples, PGD))


def test_a_loader_that_shuffles_moves_no_global_random_state():
    before = torch.get_rng_state()
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    first, again = lc.data.as_examples(loader), lc.data.as_examples(loader)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, X)


def test_names_of_classes():
    assert lc.data.as_examples(X, Y).classes == ("0", "1", "2")
    assert lc.data.as_examples(X, Y, ["x", "y", "z"]).classes == ("x", "y", "z")
    assert lc.data.as_examples(Subset(Pairs(picture_and_label), range(3))).classes == ("one", "two", "three")
    assert lc.data.as_examples(hugging_face()).classes == ("one", "two", "three")


def picture_and_label(k):
    return picture(k), int(Y[k])


def test_grey_pictures_have_one_channel():
    grey = Pairs(lambda k: (picture(k).convert("L"), int(Y[k])))
    assert lc.data.as_examples(grey).shape == (1, 2, 2)


REFUSED = {
    "normalized": (
        lambda: lc.accuracy(linear(), X * 4 - 2, Y),
        "pixels in .0, 1., got .* make lc.Normalize",
    ),
    "0 to 255": (lambda: lc.accuracy(linear(), X * 255, Y), r"pixels in \[0, 1\], got .* Divide by 255"),
    "no labels": (lambda: lc.accuracy(linear(), X), "labels for the images, got none"),
    "a network for images": (
        lambda: lc.accuracy(linear(), linear(), Y),
        "images as a tensor or an array beside the labels",
    ),
    "a network alone": (lambda: lc.accuracy(linear(), linear()), "images, or a data set, got the network Sequential"),
    "swapped": (
        lambda: lc.attack(X, linear(), Y, PGD),
        "a torch.nn.Module as the model, got Tensor. Put the model first",
    ),
    "a whole data set": (
        lambda: lc.accuracy(linear(), lc.load("two-moons")),
        "one part of a data set, .* Write data.test",
    ),
    "a dictionary": (
        lambda: lc.accuracy(linear(), {"train": 1}),
        "images with labels: arrays, .* got a dictionary of train",
    ),
    "a number": (lambda: lc.accuracy(linear(), 3), "images with labels: arrays, .* got int"),
    "an empty data set": (lambda: lc.accuracy(linear(), []), "at least one example, got none"),
    "several shapes": (lambda: lc.accuracy(linear(), [(X[0], 0), (X[0, :1], 1)]), "images of one shape, got"),
    "triples": (lambda: lc.accuracy(linear(), [(X[0], 0, 1)]), r"\(image, label\) from the data set, got tuple"),
    "other columns": (lambda: lc.accuracy(linear(), [{"x": X[0]}]), r"\(image, label\) from the .* a dictionary of x"),
    "deep pictures": (
        lambda: lc.accuracy(linear(), [Image.new("I", (2, 2))], [0]),
        "8-bit images, got mode I in a PIL image",
    ),
    "channels last": (
        lambda: lc.accuracy(linear(), np.zeros((5, 8, 8, 3), dtype=np.uint8), [0] * 5),
        "images with the channels first, got images of shape",
    ),
    "objects": (lambda: lc.accuracy(linear(), np.array(["a", "b"]), [0, 1]), "an array of numbers as images, got <U1"),
    "words": (lambda: lc.accuracy(linear(), X, ["cat"] * 50), "whole numbers as labels"),
    "fractions": (lambda: lc.accuracy(linear(), X, Y / 2), "whole numbers as labels, got torch.float32"),
    "soft labels": (
        lambda: lc.accuracy(linear(), X, 0.9 * torch.eye(3)[Y]),
        "one label for each image",
    ),
    "no attack": (lambda: lc.attack(linear(), X, Y), "an attack, got none"),
    "a word as attack": (lambda: lc.attack(linear(), X, Y, "pgd"), "an attack, got 'pgd'"),
    "a class as attack": (lambda: lc.attack(linear(), X, Y, lc.PGD), "an attack, got the class PGD itself"),
    "a measure as attack": (lambda: lc.attack(linear(), X, Y, lc.Curvature()), "an attack, got Curvature"),
    "no measure": (lambda: lc.measure(linear(), X, Y), "a measure, got none"),
    "a word as measure": (lambda: lc.measure(linear(), X, Y, "curvature"), "a measure, got 'curvature'"),
    "an attack as measure": (lambda: lc.measure(linear(), X, Y, PGD), "a measure, got PGD"),
    "no measures": (lambda: lc.measure(linear(), X, Y, []), "a measure, got none"),
    "two of a kind": (
        lambda: lc.measure(linear(), X, Y, [lc.Curvature(), lc.Curvature(5)]),
        "measures of different kinds",
    ),
    "two norms": (
        lambda: lc.attack(linear(), X, Y, lc.attacks.Suite((("a", PGD), ("b", lc.PGD(Ball(L2, 0.1)))))),
        "a suite of attacks in one norm, got l_inf, l_2",
    ),
    "no norm": (lambda: lc.audit(linear(), X, Y), "a norm and a radius, or a Ball, got none"),
    "no radius": (lambda: lc.audit(linear(), X, Y, "linf"), "a radius, got none"),
    "an attack as norm": (lambda: lc.audit(linear(), X, Y, PGD), "one of the norms l_1, l_2, l_inf, got PGD. Write"),
    "a suite as measure": (lambda: lc.measure(linear(), X, Y, lc.strong("linf", 0.1)), "a measure, got Suite. Write"),
    "negative labels": (lambda: lc.accuracy(linear(), X, Y - 5), "labels of at least 0, got -[345]. Leave out"),
    "a penalty without a weight": (
        lambda: lc.Objective(penalties={"curvature": lc.CURE(h=1.0)}),
        "penalties with their weights, each a Term, got CURE. Write lc.Term",
    ),
    "a word to train on": (lambda: lc.Objective(attack="pgd"), "an attack to train on, got 'pgd'. Write lc.PGD"),
    "a class to train on": (
        lambda: lc.Objective(attack=lc.PGD),
        "an attack to train on, got the class PGD itself. Write",
    ),
    "one mean": (lambda: lc.Normalize(0.5, 0.25), "one mean and one standard deviation for each channel, got"),
    "a word as h": (lambda: lc.CURE("1"), "a scale h > 0 in pixel units .* got '1'. Write"),
    "no network to convert": (
        lambda: lc.convert(X, example=X),
        "a torch.nn.Module to convert, got Tensor. Put the model first",
    ),
    "a norm that is none": (lambda: lc.audit(linear(), X, Y, "l7", 0.1), "one of the norms"),
    "no networks": (
        lambda: lc.evaluation.transfer(linear(), X, Y, PGD),
        "at least one network, by name, got Sequential",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_fail_at_once(case):
    act, message = REFUSED[case]
    with pytest.raises(lc.InputError, match=message):
        act()


def test_training_takes_images_and_labels_too():
    def train(data):
        model = perceptron()
        lc.fit(model, lc.Objective(), data, lc.Optimization(epochs=1, batch_size=16), validation=data)
        return torch.cat([p.flatten() for p in model.parameters()])

    whole = train(lc.Examples(X, Y, ("a", "b", "c")))
    for data in ((X.numpy(), Y.tolist()), DataLoader(TensorDataset(X, Y), batch_size=7)):
        assert torch.equal(train(data), whole)


# --- results


def test_columns_print_a_table_and_become_a_data_frame():
    columns = lc.measure(linear(), X, Y, [lc.Curvature(), lc.geometry.gradient_norm])
    assert isinstance(columns, Columns)
    lines = repr(columns).splitlines()
    assert lines[0].split() == ["50", "images", "mean", "median", "10", "%", "90", "%"]
    assert lines[1:] != []
    assert {line.split("  ")[0] for line in lines[1:]} == set(columns)
    frame = columns.to_pandas()
    assert list(frame.columns) == list(columns)
    assert len(frame) == 50
    np.testing.assert_array_equal(frame["gradient norm"], columns["gradient norm"])
    wide = Columns({"spectrum": np.zeros((4, 3))})
    assert "spectrum  numbers of shape (4, 3)" in repr(wide)
    assert wide.to_pandas()["spectrum"][0].tolist() == [0, 0, 0]


def test_measures_by_their_own_names_or_given_ones():
    norm = lc.geometry.gradient_norm
    assert list(lc.measure(linear(), X, Y, norm)) == ["gradient norm"]
    assert list(lc.measure(linear(), X, Y, {"slope": norm})) == ["slope"]
    assert list(lc.measure(linear(), (X, Y), measures=norm)) == ["gradient norm"]


def test_the_result_of_an_attack_reads_well():
    result = lc.attack(linear(), X, Y, PGD)
    assert isinstance(result, AttackResult)
    right, robust = int(result.clean.sum()), int(result.robust.sum())
    assert 0 < robust < right < 50
    lines = repr(result).splitlines()
    assert lines[0] == "Attack on 50 images"
    assert lines[1].startswith(f"clean accuracy   {right / 50:.1%} (95% CI ")
    assert lines[2].endswith(f"%, {robust} of 50)")
    assert lines[3] == f"fooled by        PGD: {right - robust}"
    assert float(result.robust_accuracy) == robust / 50
    assert f"{result.robust_accuracy:.0%}" == f"{robust / 50:.0%}"
    assert f"{result.robust_accuracy}" == repr(result.robust_accuracy)
    found = json.loads(json.dumps(result.to_dict()))
    assert found["norm"] == "l_inf"
    assert found["robust_accuracy"] == robust / 50
    assert found["fooled_by"] == result.fooled_by.tolist()
    frame = result.to_pandas()
    assert list(frame.columns) == ["clean", "robust", "fooled_by", "distance", "forward_passes"]
    assert frame["robust"].mean() == robust / 50


def test_data_and_results_print_their_sizes_and_not_their_tensors():
    assert repr(lc.Examples(X, Y, ("a", "b", "c"))) == "50 examples of shape (3, 2, 2) in 3 classes"
    assert repr(lc.load("two-moons")).splitlines()[0].startswith("two-moons: ")
    found = lc.smallest_radius(linear(), X, Y, PGD)
    assert repr(found).splitlines()[0] == "Smallest radius on 50 images"
    assert "tensor" not in repr(found)
    frame = found.to_pandas()
    assert list(frame.columns) == ["radius", "fooled"]
    np.testing.assert_array_equal(frame["radius"], found.radius)
    np.testing.assert_array_equal(
        lc.certify(linear(), X, Y, "linf").to_pandas()["radius"] > 0, lc.attack(linear(), X, Y, PGD).clean
    )
    with temporary_seed(0, "network"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    layers = lc.inspect_layers(net, X[:2])
    assert repr(layers) == str(layers)


def test_numbers_print_without_their_types():
    share = lc.proportion(np.int64(285), np.int64(360))
    assert repr(share) == "79.2% (95% CI 74.7-83.0%, 285 of 360)"
    assert "np." not in repr(lc.summarize(np.arange(5.0)))
    assert repr(lc.summarize([1.0, 2.0, 3.0])) == "mean 2 ± 0.58, median 2, 10 % to 90 %: 1.2 to 2.8, 3 values"


# --- random numbers


def test_every_public_call_that_draws_has_a_seed():
    """No user needs a generator: without one, the same seed gives the same numbers."""
    model, search = linear(), lc.geometry.PathSearch(lc.geometry.RegionProjection(lc.attacks.DeepFool("l2")))
    jet = lc.analysis.Jet(lc.loss_field(model, Y), X)
    points = lc.geometry.LabeledPoints(X, Y, torch.arange(len(X)))
    inside = torch.nonzero(model(X).argmax(1) == Y).flatten()
    first = inside[Y[inside] == Y[inside][0]]
    half = len(first) // 2
    ends = X[first[:half]], X[first[half : 2 * half]], Y[first[:half]]
    calls = {
        "attack": lambda **words: lc.attacks.Noise("linf", 0.1)(model, X, Y, **words),
        "penalty": lambda **words: lc.penalties.ELLE(0.1)(jet, **words),
        "objective": lambda **words: lc.Objective(attack=lc.PGD("linf", 0.1)).terms(model, X, Y, **words)["loss"],
        "paths": lambda **words: search(model, *ends, **words).anchors,
        "pairs": lambda **words: lc.geometry.pair_points(points, **words).start_index,
        "interval": lambda **words: torch.tensor(lc.geometry.bootstrap_interval(X.flatten(), **words).low),
    }
    for name, call in calls.items():
        assert torch.equal(call(), call(seed=0)), name
    for name in ("attack", "penalty", "pairs", "interval"):
        assert not torch.equal(calls[name](), calls[name](seed=1)), name


# --- the list of names


def test_all_names_at_the_top_are_there():
    for name in lc.__all__:
        assert getattr(lc, name) is not None
    assert len([name for name in lc.__all__ if not isinstance(getattr(lc, name), type(sys))]) <= 34


def test_importing_loads_no_torch():
    program = "import lowcurve, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- progress


def test_quick_work_shows_no_bar(capsys):
    lc.measure(linear(), X, Y, lc.Curvature(), progress=True)
    assert capsys.readouterr().err == ""


def test_slow_work_shows_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    lc.attack(linear(), X, Y, PGD, progress=True)
    assert "attacking" in capsys.readouterr().err


def test_a_bar_is_shown_only_where_somebody_sees_it(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert progress.choose_progress(None) is progress.silent
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert progress.choose_progress(None) is progress.progress_bar
    assert progress.choose_progress(False) is progress.silent
    with progress.no_other_bars():
        assert progress.choose_progress(None) is progress.silent
        assert progress.choose_progress(True) is progress.progress_bar


def test_the_second_process_shows_no_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    second = type("Fabric", (), {"global_rank": 1})()
    assert progress.choose_progress(None, second) is progress.silent


def test_a_notebook_shows_bars_without_widgets(monkeypatch):
    assert progress.choose_progress(None) is progress.silent
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert progress.choose_progress(None) is progress.progress_bar


def test_a_network_with_dropout_is_evaluated_in_eval_mode():
    with temporary_seed(0, "network"):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
    assert (lc.attack(model, X, Y, PGD).robust == lc.attack(model, X, Y, PGD).robust).all()
    assert model[1].training
