"""Data that is read a part at a time: every form gives the same numbers, in any number of shards, with bounded memory."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, IterableDataset, SequentialSampler

import lowcurve as lc
from lowcurve import evaluation
from lowcurve.data import Limits, Resized, as_examples, as_source, stored
from lowcurve.data.stored import Spool, StoredPixels
from lowcurve.errors import RunError
from lowcurve.evaluation import parts
from lowcurve.evaluation.audit import Budget, audit
from lowcurve.geometry import gradient_norm
from lowcurve.randomness import stream, temporary_seed

X = torch.randint(0, 256, (50, 3, 4, 4), generator=stream(0, "pixels"), dtype=torch.uint8)
METHOD = lc.PGD("linf", 0.05, steps=3)


@pytest.fixture(scope="module")
def model():
    with temporary_seed(0, "network"):
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Softplus(), nn.Linear(16, 3)).eval()


@pytest.fixture(scope="module")
def y(model):
    return model(X / 255).argmax(1)


class Rows(Dataset):
    """Float pixels as `ToTensor` gives them; with a random flip if asked for."""

    def __init__(self, y, flip=False):
        self.y, self.flip, self.read = y, flip, []

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        self.read.append(row)
        draws = (torch.rand(()) + random.random() + np.random.random()) / 3  # noqa: NPY002
        x = X[row].float() / 255
        return x.flip(2) if self.flip and draws < 0.5 else x, int(self.y[row])


class Endless(IterableDataset):
    def __init__(self, y):
        self.y = y

    def __iter__(self):
        for k in range(10**9):
            yield X[k % 50].float() / 255, int(self.y[k % 50])


def batches(y):
    return ((X[k : k + 8], y[k : k + 8]) for k in range(0, 50, 8))


FORMS = {
    "batch sampler": lambda y: DataLoader(Rows(y), batch_sampler=BatchSampler(SequentialSampler(range(50)), 6, False)),
    "generator of batches": batches,
    "generator of dictionaries": lambda y: ({"pixel_values": x, "labels": k} for x, k in zip(X, y, strict=True)),
    "pictures": lambda y: [(Image.fromarray(x.permute(1, 2, 0).numpy()), k) for x, k in zip(X, y, strict=True)],
    "lists of pictures": lambda y: DataLoader(FORMS["pictures"](y), 7, collate_fn=lambda p: list(zip(*p, strict=True))),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_numbers(form, model, y):
    whole = lc.measure(model, X, y, gradient_norm)["gradient norm"]
    assert_close(lc.measure(model, FORMS[form](y), gradient_norm, batch_size=16)["gradient norm"], whole)
    assert torch.equal(as_examples(FORMS[form](y)).pixels(slice(None)), X / 255)
    assert evaluation.correct(model, FORMS[form](y), batch_size=9).all()


def test_random_data_are_the_same_for_every_reader_and_nobody_elses_draws_move(model, y):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    whole = lc.attack(model, Rows(y, flip=True), METHOD)
    data = Rows(y, flip=True)
    again = lc.evaluation.join([lc.attack(model, data, METHOD, shard=(k, 3), batch_size=4) for k in range(3)])
    assert 0 < (whole.inputs - X / 255).abs().amax((1, 2, 3)).gt(0.06).sum() < 50
    assert_close(again.inputs, whole.inputs)
    assert (again.fooled_by == whole.fooled_by).all()
    assert sorted(set(data.read)) == list(range(50))
    assert len(data.read) == 50 + 3 * 5  # each shard looks at the first rows too, for the checks
    shuffled = DataLoader(Rows(y), 7, shuffle=True)
    assert torch.equal(as_examples(shuffled).y, as_examples(shuffled).y)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert (before[2] == after[2]).all()


def test_shards_and_finished_parts_make_the_whole(model, y, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MOST", 8)
    data, norms = Rows(y), {"norm": gradient_norm}
    whole = lc.measure(model, X, y, norms)
    shards = [lc.measure(model, batches(y), norms, batch_size=4, shard=(k, 3), ledger=tmp_path / "m") for k in range(3)]
    data.read.clear()
    again = lc.measure(model, data, norms, batch_size=4, ledger=tmp_path / "n", shard=(1, 2))
    assert_close(lc.evaluation.join(shards)["norm"], whole["norm"])
    assert_close(again["norm"], whole["norm"][1::2])
    radius = lc.smallest_radius(model, X, y, METHOD, largest=0.5, rounds=3)
    found = [
        lc.smallest_radius(
            model, data, METHOD, largest=0.5, rounds=3, shard=(k, 3), ledger=tmp_path / "r", keep_inputs=False
        )
        for k in range(3)
    ]
    assert_close(lc.evaluation.join(found).radius, radius.radius)
    stored_parts = lc.smallest_radius(
        model, data, METHOD, largest=0.5, rounds=3, ledger=tmp_path / "r", keep_inputs=False
    )
    assert_close(stored_parts.radius, radius.radius)
    with pytest.raises(lc.InputError, match=r"a result of smallest_radius\(..., keep_inputs=False\)"):
        _ = stored_parts.inputs
    assert len(list((tmp_path / "m").rglob("*.pt"))) == 8  # 17, 17 and 16 images in parts of 8
    for wrong in (shards[:2], shards[::-1], [shards[0], found[1]], []):
        with pytest.raises(lc.InputError, match="the results of all shards of one call, got"):
            lc.evaluation.join(wrong)
    for shard in ((3, 3), (-1, 2), (0, 0)):
        with pytest.raises(lc.InputError, match=r"shard=\(number, shards\) with a number from 0 to shards - 1"):
            lc.measure(model, data, norms, shard=shard)
    with pytest.raises(lc.InputError, match="at least one example, got none in this shard"):
        lc.measure(model, (X[:2], y[:2]), norms, shard=(2, 3))


def test_the_finished_parts_of_a_process_are_kept_when_another_is_killed(model, y, tmp_path, monkeypatch):
    def lost(_found, _own):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_gather_object", lost)
    fabric = SimpleNamespace(global_rank=1, world_size=2)
    with pytest.raises(RuntimeError, match="closed by peer"):
        lc.attack(model, X, y, METHOD, fabric=fabric, ledger=tmp_path)
    whole = lc.attack(model, X, y, METHOD)
    data, own = Rows(y), parts.open_ledger(tmp_path, model, as_source(X, y), "attack", METHOD, 0, None)
    assert own.get("rows 1 to 49 in steps of 2")["finished"]
    again = lc.attack(model, X, y, METHOD, ledger=tmp_path)
    assert (again.fooled_by == whole.fooled_by).all()
    assert_close(again.inputs, whole.inputs, rtol=0, atol=0)
    assert len(own.keys()) == 2
    assert own.keys()[0].startswith("rows 0 to 48 in steps of 2")
    assert data.read == []


class Constant(nn.Module):
    """A network with a class that its weights do not show."""

    def __init__(self, model, label):
        super().__init__()
        self.model, self.label = model, label

    def forward(self, x):
        return self.model(x) + 100 * torch.eye(3)[self.label]


def test_a_folder_tells_networks_of_the_same_weights_apart(model, y, tmp_path):
    found = [lc.attack(Constant(model, k), X, y, METHOD, ledger=tmp_path).clean.tolist() for k in range(3)]
    assert found == [(y == k).tolist() for k in range(3)]


def test_many_attacked_images_lie_in_a_file(model, y, monkeypatch):
    held = lc.attack(model, X, y, METHOD)
    monkeypatch.setattr(parts, "MOST", 8)
    monkeypatch.setattr(parts, "Spool", lambda: Spool(3000))
    found = lc.attack(model, batches(y), METHOD, batch_size=8)
    assert torch.equal(found.inputs, held.inputs)
    found.inputs[0] = 0  # as one may with any tensor
    spool = Spool(100)
    spool.write(torch.tensor([2, 0]), torch.tensor([[2.0], [0.0]]))
    spool.write(torch.tensor([1, 3]), torch.tensor([[1.0], [3.0]]))
    assert [(places.tolist(), values.tolist()) for places, values in spool.pieces()][1] == ([1, 3], [[1], [3]])
    few = Spool(4)
    few.write(torch.arange(3), torch.arange(3.0)[:, None])
    pixels = few.pixels()
    assert isinstance(pixels, StoredPixels)
    assert pixels.take(slice(1, None))[torch.tensor([1, 0])].tolist() == [[2], [1]]
    assert few.tensor().tolist() == [[0], [1], [2]]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored.tempfile, "TemporaryFile", full)
    with pytest.raises(RunError, match=r"room for images in .*, got no space left on device. Set TMPDIR"):
        Spool(4).write(torch.arange(3), torch.arange(3.0)[:, None])


def test_an_endless_stream_is_audited_on_its_first_images(model, y):
    budget = Budget(
        steps=2, restarts=1, streamed_images=12, landscape_images=5, neighbors=2, apgd_steps=2, queries=4, noise_draws=4,
        spsa_steps=1, spsa_draws=1, spsa_images=2, long_steps=2,
    )  # fmt: skip
    streamed = audit(model, Endless(y), "linf", 0.02, budget=budget)
    assert streamed.conditions["examples"].startswith("12,")
    held = audit(model, X[:12], y[:12], "linf", 0.02, budget=budget)
    assert streamed.conditions == held.conditions
    spread = audit(model, Rows(y), "linf", 0.02, budget=budget)
    rows = torch.linspace(0, 49, 12).round().long()
    assert spread.conditions == audit(model, X[rows], y[rows], "linf", 0.02, budget=budget).conditions


def test_three_shards_of_an_audit_are_the_whole(model, y, tmp_path):
    budget = Budget(
        steps=3, restarts=1, images=20, landscape_images=5, neighbors=2, apgd_steps=3, queries=10, noise_draws=10,
        spsa_steps=2, spsa_draws=2, spsa_images=6, long_steps=3,
    )  # fmt: skip
    whole = audit(model, X[:30], y[:30], "linf", 0.05, budget=budget)
    shards = [
        audit(model, X[:30], y[:30], "linf", 0.05, budget=budget, shard=(k, 3), ledger=tmp_path) for k in range(3)
    ]
    assert shards[0].verdict.startswith("too weak to judge: shard 0 of 3 is finished, and others are not")
    assert not shards[1].reliable
    last = audit(model, X[:30], y[:30], "linf", 0.05, budget=budget, ledger=tmp_path)
    assert last.to_dict() == whole.to_dict()
    assert all((last.robust[name] == whole.robust[name]).all() for name in whole.robust)
    with pytest.raises(lc.InputError, match="a ledger through which the shards of an audit share their attacks"):
        audit(model, X[:30], y[:30], "linf", 0.05, shard=(0, 3))


def test_grey_pictures_among_colored_ones():
    grey, colored = Image.new("L", (4, 4), 10), Image.new("RGB", (4, 4), (10, 20, 30))
    found = as_examples([(grey, 0), (colored, 1), (grey, 0)])
    assert found.shape == (3, 4, 4)
    assert found.x[2].unique().tolist() == [10]


# --- folders


@pytest.fixture
def folder(tmp_path):
    """Two classes of 20 images of several sizes, in two splits."""
    for row in range(40):
        place = tmp_path / "images" / ("train" if row < 30 else "val") / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((10, 8 + row, 3), 6 * row, dtype=np.uint8)).save(place / f"{row:02}.png")
    return tmp_path / "images"


def test_a_folder_of_images_of_several_sizes(folder, monkeypatch):
    held = lc.load(folder, transform=Resized(8), limits=Limits(train=20))
    assert held.train.shape == (3, 8, 8)
    assert [len(part) for part in (held.train, held.validation, held.test)] == [20, 10, 6]
    monkeypatch.setattr(stored, "HELD", 0)
    monkeypatch.setattr("lowcurve.data.tables.HELD", 0)
    monkeypatch.setattr("lowcurve.data.sources.HELD", 0)
    read = lc.load(folder, transform=Resized(8), limits=Limits(train=20))
    assert isinstance(read.train.x, StoredPixels)
    assert torch.equal(read.train.pixels([3, 1]), held.train.pixels([3, 1]))
    assert read.train.take([1, 2]).digest == read.train.take([1, 2]).digest != read.train.take([2, 1]).digest
    assert_close(read.statistics(), held.statistics())
    other = lc.load(folder, transform=Resized(7), limits=Limits(train=20))
    assert other.train.digest != read.train.digest
    grey = [lc.load(folder, transform=lambda _, level=level: torch.full((1, 2, 2), level)) for level in (0.2, 0.4)]
    assert grey[0].test.digest != grey[1].test.digest
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    settings = lc.Optimization(epochs=1, batch_size=4)
    lc.fit(net, lc.Objective(), read.train, settings, validation=read.validation)
    assert_close(
        lc.measure(net, read.test, gradient_norm)["gradient norm"],
        lc.measure(net, held.test, gradient_norm)["gradient norm"],
    )


def test_one_split_of_a_folder(folder):
    val = lc.image_folder(folder, split="val", transform=Resized(8))
    assert (len(val), val.classes, val.y.tolist()) == (10, ("a", "b"), [0] * 5 + [1] * 5)
    assert len(lc.image_folder(folder / "val", transform=Resized(8))) == 10
    with pytest.raises(lc.InputError, match=r"one of the splits train, validation of .*, got none"):
        lc.image_folder(folder)
    with pytest.raises(
        lc.InputError, match=r"images of one size, here .* Write --resize 224, or give load a transform"
    ):
        lc.image_folder(folder, split="val")
    with pytest.raises(lc.InputError, match="a folder of images, got"):
        lc.image_folder(folder / "none")
    with pytest.raises(lc.InputError, match="images of one shape from the transform, got"):
        lc.image_folder(folder, split="val", transform=lambda picture: picture)
    with pytest.raises(lc.InputError, match="images in files to transform, got the data set 'digits'"):
        lc.load("digits", transform=Resized(8))
    with pytest.raises(lc.InputError, match="a side of at least 1 pixel, got 0"):
        Resized(0)
    (folder / "train").rename(folder.parent / "train")
    alone = lc.image_folder(folder, transform=Resized(8))  # "val" is no class
    assert alone.classes == ("a", "b")


REFUSED = {
    "sampler": (
        lambda y: DataLoader(Rows(y), sampler=DistributedSampler(Rows(y), 2, 0)),
        "the same data in every process, got a DataLoader with a DistributedSampler",
    ),
    "sizes": (lambda _: [(X[0], 0), (X[1, :, :3], 0)], r"images of one shape, got \(3, 4, 4\) and \(3, 3, 4\)"),
    "a path": (lambda _: "some/folder", "got the path some/folder"),
    "channels last": (lambda _: [(np.zeros((9, 9, 3), np.uint8), 0)] * 2, "images with the channels first"),
    "levels": (lambda _: [(X[0].float(), 0)] * 2, r"pixels in \[0, 1\], got values from .* to .*ivide by 255"),
    "whole numbers": (lambda _: [(X[0].long(), 0)] * 2, "uint8, or divide by 255"),
    "words": (lambda _: [("cat.png", 0)] * 2, "an image as a tensor, an array or a Pillow image, got str"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused(case, model, y):
    make, message = REFUSED[case]
    with pytest.raises(lc.InputError, match=message):
        lc.attack(model, make(y), METHOD)


def test_an_iterator_is_read_once(y):
    source = as_source(batches(y))
    assert len(as_examples(source)) == 50
    with pytest.raises(lc.InputError, match="data that can be read twice, got an iterator that is at its end"):
        as_examples(source)
