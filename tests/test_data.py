"""Toys and sources: real slices of MNIST, CIFAR-10 and Tiny ImageNet where they are at hand, small files elsewhere."""

import colorsys
import io
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from lowcurve.data import Limits, colored_digits, digits, load, two_moons
from lowcurve.data.toys import _make_moons, _seed_for_numpy
from lowcurve.errors import InputError

REAL = Path(os.environ.get("LOWCURVE_DATA") or Path(__file__).parents[2] / "shared" / "data")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FEW = Limits(train=60, validation=20, test=30)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Nothing of the tests stays in the user's cache, and nothing but the files they name is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.delenv("LOWCURVE_DATA", raising=False)
        datasets.disable_progress_bars()
        yield


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """Every attempt is noted and refused; noted, because `datasets` swallows the refusal of its download counter."""
    attempts = []

    def refuse(*words, **_settings):
        attempts.append(words)
        raise OSError("no network in tests")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    yield attempts
    assert not attempts


def real(name: str) -> Path:
    if not (REAL / name).is_dir():
        pytest.skip(f"{name} is not at hand: set LOWCURVE_DATA to a folder with {name}/*.parquet")
    return REAL


def png(color, size=(32, 32), mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, images: list[bytes], image: str = "image", names=None, **labels) -> Path:
    """A file in the layout of the hub: encoded images, one or several columns of labels."""
    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features({image: datasets.Image()} | dict.fromkeys(labels, label))
    cells = [{"bytes": content, "path": None} for content in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict({image: cells, **labels}, features=features).to_parquet(path)
    return path


def write_folder(root: Path, count: int = 10, modes=("RGB", "RGB"), classes=("cat", "dog")) -> Path:
    for index, (name, mode) in enumerate(zip(classes, modes, strict=True)):
        (root / name).mkdir(parents=True)
        for k in range(count):
            level = 100 * index + k
            color = level if mode == "L" else (level, 0, 255)
            (root / name / f"{k:02}.png").write_bytes(png(color, (8, 6), mode))
    return root


# --- toys


def test_digits_are_real_stratified_and_the_same_for_every_seed():
    data, other = digits(0), load("digits", seed=7)
    assert (len(data.train), len(data.validation), len(data.test)) == (1257, 180, 360)
    torch.testing.assert_close(data.test.x, other.test.x)
    torch.testing.assert_close(data.validation.x, other.validation.x)
    for part in (data.train, data.validation, data.test):
        shares = torch.bincount(part.y, minlength=10) / len(part)
        torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.01, rtol=0)
    assert (data.train.x * 16).frac().abs().max() == 0
    assert data.train.x.max() == 1


def test_digits_are_those_of_scikit_learn_in_its_split():
    """The packaged file is scikit-learn's, the split is the one that it once drew, and so are the moons."""
    from sklearn.datasets import load_digits, make_moons
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    rest, test = train_test_split(
        np.arange(len(y)), test_size=360, stratify=y, random_state=_seed_for_numpy(0, "digits", "test")
    )
    seed = _seed_for_numpy(0, "digits", "validation")
    train, validation = train_test_split(rest, test_size=180, stratify=y[rest], random_state=seed)
    data = digits()
    for part, rows in ((data.train, train), (data.validation, validation), (data.test, test)):
        assert torch.equal(part.x.flatten(1), torch.from_numpy(x[np.sort(rows)]).float() / 16)
        assert part.y.tolist() == y[np.sort(rows)].tolist()
    for ours, theirs in zip(_make_moons(21, 0.1, 3), make_moons(21, noise=0.1, random_state=3), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_missing_library_of_data_is_named_with_its_extra(tmp_path, monkeypatch):
    write_parquet(tmp_path / "train-0.parquet", [png(0, (4, 4), "L")], label=[0])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"the library datasets for named data sets.*pip install 'lowcurve\[hf\]'"):
        load(tmp_path / "train-0.parquet")


def test_colored_digits_have_the_hue_of_their_class():
    data, plain = colored_digits(), digits()
    torch.testing.assert_close(data.test.x.amax(1, keepdim=True), plain.test.x)
    bright = data.train.x.flatten(2).amax(2)  # a color an image
    torch.testing.assert_close(bright.amin(1), 0.2 * bright.amax(1))  # the saturation
    hues = torch.tensor([colorsys.rgb_to_hsv(*color)[0] * 360 for color in bright.tolist()])
    away = (hues - 36 * data.train.y + 180) % 360 - 180
    assert away.abs().max() <= 12.01
    assert away.abs().max() > 11
    assert not torch.equal(data.train.x, load("colored-digits", seed=1).train.x)


def test_two_moons_differ_by_seed_and_fill_the_square():
    data, again, other = two_moons(0), load("two-moons"), load("two-moons", seed=1)
    assert (len(data.train), len(data.validation), len(data.test)) == (1300, 200, 500)
    assert data.shape == (2,)
    torch.testing.assert_close(data.train.x, again.train.x)
    assert not torch.equal(data.train.x, other.train.x)
    assert set(data.train.y.tolist()) == {0, 1}
    assert two_moons(noise=3.0).train.x.max() == 1  # clipped


def test_toys_leave_the_global_random_state_of_numpy_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    digits()
    colored_digits()
    two_moons()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(
    ("settings", "message"), [({"count": 3}, "at least 20 points, got 3"), ({"noise": -1.0}, "noise of 0 or more")]
)
def test_moons_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        two_moons(**settings)


def test_limits_keep_the_test_set_whatever_the_seed():
    one, two = (load("digits", limits=FEW, seed=seed) for seed in (0, 1))
    assert (len(one.train), len(one.validation), len(one.test)) == (60, 20, 30)
    torch.testing.assert_close(one.test.x, two.test.x)
    torch.testing.assert_close(one.validation.x, two.validation.x)
    assert not torch.equal(one.train.x, two.train.x)
    with pytest.raises(InputError, match="a limit of at least 1 for test, got 0"):
        Limits(test=0)


# --- real data


def test_mnist():
    data = load("mnist", data_dir=real("mnist"), limits=FEW)
    assert data.shape == (1, 28, 28)
    assert data.train.x.dtype == torch.uint8
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.validation), len(data.test)) == (60, 20, 30)
    assert data.train.x.max() == 255
    assert 0.1 < data.statistics()[0][0] < 0.16  # the mean of MNIST is 0.1307
    assert "of 60,000 training rows the last (5,000 in all)" in data.note


def test_cifar10_holds_out_the_training_rows_from_45000_on():
    folder = real("cifar10")
    data = load("cifar10", data_dir=folder, limits=Limits(train=40, test=40))
    assert (data.shape, data.classes) == ((3, 32, 32), CIFAR10)
    assert (len(data.train), len(data.validation)) == (40, 5000)
    raw = datasets.Dataset.from_parquet([str(f) for f in sorted((folder / "cifar10").glob("train-*"))])
    torch.testing.assert_close(data.validation.y, torch.tensor(raw["label"][45_000:]))
    for k in (0, 1, 4999):
        oracle = torch.from_numpy(np.array(raw[45_000 + k]["img"])).permute(2, 0, 1)
        torch.testing.assert_close(data.validation.x[k], oracle)


def test_tiny_imagenet_is_all_rgb_and_its_validation_split_is_the_test_set(monkeypatch):
    monkeypatch.setenv("LOWCURVE_DATA", str(real("tiny-imagenet")))
    data = load("tiny-imagenet", limits=Limits(train=400))
    assert (data.shape, len(data.classes)) == ((3, 64, 64), 200)
    assert (len(data.train), len(data.validation), len(data.test)) == (400, 800, 2000)
    assert set(torch.bincount(data.validation.y, minlength=200).tolist()) == {4}  # 40 sorted images a class
    grey = (data.test.x[:, 0] == data.test.x[:, 1]).flatten(1).all(1)
    assert int(grey.sum()) >= 31


def test_a_folder_with_the_files_themselves_serves_as_well():
    assert len(load("mnist", data_dir=real("mnist") / "mnist", limits=FEW).train) == 60


# --- files in the layout of the hub


def test_cifar100_reads_the_fine_labels(tmp_path):
    names = [f"class {k}" for k in range(100)]
    for split, count in (("train", 40), ("test", 10)):
        labels = {"fine_label": [99 - k for k in range(count)], "coarse_label": [0] * count}
        images = [png((k, 0, 0)) for k in range(count)]
        write_parquet(tmp_path / f"cifar100/{split}-00000-of-00001.parquet", images, "img", names, **labels)
    data = load("cifar100", data_dir=tmp_path)
    assert (data.shape, data.classes[99]) == ((3, 32, 32), "class 99")
    assert data.validation.x[:, 0, 0, 0].tolist() == [36, 37, 38, 39]  # the last tenth of a small training set
    assert data.validation.y.tolist() == [63, 62, 61, 60]
    assert data.test.y.tolist() == list(range(99, 89, -1))


def test_svhn_reads_the_cropped_digits_of_a_copy_of_the_whole_repository(tmp_path):
    for config, color in (("cropped_digits", (0, 0, 7)), ("full_numbers", (9, 9, 9))):
        for split in ("train", "test", "extra"):
            path = tmp_path / f"svhn/{config}/{split}-00000-of-00001.parquet"
            write_parquet(path, [png(color)] * 20, names="0123456789", label=[k % 10 for k in range(20)])
    data = load("svhn", data_dir=tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 20)
    assert data.train.x[:, 2].unique().tolist() == [7]


def test_labels_without_names_are_named_by_number(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", [png(0, (28, 28), "L")] * 10, label=list(range(10)))
    assert load("mnist", data_dir=tmp_path).classes == tuple("0123456789")


def test_the_hub_is_asked_for_the_named_configuration(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", [png((1, 2, 3))] * 10, names="0123456789", label=list(range(10)))
    table, asked = datasets.Dataset.from_parquet(str(path)), []
    monkeypatch.setattr(datasets, "load_dataset", lambda *words: asked.append(words) or {"train": table, "test": table})
    data = load("svhn")
    assert asked == [("ufldl-stanford/svhn", "cropped_digits")]
    assert data.test.x[0, :, 0, 0].tolist() == [1, 2, 3]


# --- unnamed folders and files


def test_a_parquet_file_is_split_by_fixed_and_seeded_streams(tmp_path):
    images = [png((k, k, 0), (5, 4)) for k in range(50)]
    path = write_parquet(tmp_path / "odd [name] 1.parquet", images, label=[k % 3 for k in range(50)])
    one, two = load(path), load(path, seed=1)
    assert (one.name, one.shape, one.classes) == ("odd [name] 1", (3, 4, 5), ("0", "1", "2"))
    assert (len(one.train), len(one.validation), len(one.test)) == (36, 4, 10)
    rows = [part.x[:, 0, 0, 0].tolist() for part in (one.train, one.validation, one.test)]
    assert sorted(rows[0] + rows[1] + rows[2]) == list(range(50))
    torch.testing.assert_close(one.test.x, two.test.x)
    assert not torch.equal(one.validation.x, two.validation.x)
    assert "test a random 20 % held out" in one.note


def test_a_folder_of_parquet_files_keeps_its_splits(tmp_path):
    for split, count in (("train", 30), ("valid", 4), ("test", 6)):
        write_parquet(
            tmp_path / f"{split}-00000.parquet", [png(count, (4, 4), "L")] * count, labels=[0, 1] * (count // 2)
        )
    data = load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 4, 6)
    assert data.shape == (1, 4, 4)
    assert data.validation.x.unique().tolist() == [4]


def test_loading_leaves_the_global_random_states_alone(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [png(0, (4, 4), "L")] * 10, label=[0, 1] * 5)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    load(path, limits=Limits(train=3))
    torch.testing.assert_close(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_a_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "a.parquet"
    for level in (1, 2):
        write_parquet(path, [png(level, (4, 4), "L")] * 10, label=[0, 1] * 5)
        os.utime(path, (level, level))
        assert load(path).train.x.unique().tolist() == [level]


def test_an_image_folder_without_splits(tmp_path):
    data = load(write_folder(tmp_path / "pets"))
    assert (data.name, data.shape, data.classes) == ("pets", (3, 6, 8), ("cat", "dog"))
    assert (len(data.train), len(data.validation), len(data.test)) == (15, 1, 4)
    torch.testing.assert_close(data.train.y, (data.train.x[:, 0, 0, 0] >= 100).long())


def test_an_image_folder_with_splits_and_a_class_called_test(tmp_path):
    for split, count in (("train", 10), ("test", 3)):
        write_folder(tmp_path / "lab" / split, count, classes=("blank", "test"))
    data = load(tmp_path / "lab")
    assert data.classes == ("blank", "test")
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 6)
    assert load(tmp_path / "lab" / "train").classes == ("blank", "test")


@pytest.mark.parametrize(("modes", "channels"), [(("L", "L"), 1), (("L", "RGB"), 3)])
def test_one_channel_only_if_every_image_is_grey(tmp_path, modes, channels):
    assert load(write_folder(tmp_path / "some", modes=modes)).shape == (channels, 6, 8)


# --- what is refused


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"one of digits, colored-digits, two-moons, mnist.*got 'cifar-10'\. Write 'cifar10'"
    ):
        load("cifar-10")
    with pytest.raises(InputError, match=r"got '/no/such/folder'\. Check the spelling of the name or path"):
        load("/no/such/folder")


def test_a_missing_folder_or_split_is_named_with_the_expected_layout(tmp_path):
    with pytest.raises(InputError, match=r"Expected train-\*.parquet below .*nowhere/mnist or in .*nowhere, got no"):
        load("mnist", data_dir=tmp_path / "nowhere")
    write_parquet(tmp_path / "mnist/train-0.parquet", [png(0, (28, 28), "L")], label=[0])
    with pytest.raises(InputError, match=r"Expected test-\*.parquet below"):
        load("mnist", data_dir=tmp_path)


def test_a_hub_out_of_reach_is_answered_with_the_local_way(monkeypatch):
    def unreachable(*_words):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError, match=r"got Couldn't reach the Hub\. Pass --data-dir DIR or set LOWCURVE_DATA"):
        load("cifar10")


def test_corrupt_parquet_is_named(tmp_path):
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 this is not parquet")
    with pytest.raises(InputError, match=r"Expected a parquet file, got .*broken.parquet .*\. Replace the file"):
        load(path)


def test_parquet_damaged_inside_is_named(tmp_path):
    path = write_parquet(tmp_path / "damaged.parquet", [os.urandom(5000) for _ in range(20)], label=[0, 1] * 10)
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged.parquet"):
        load(path)


def test_foreign_parquet_is_answered_with_its_columns(tmp_path):
    path = tmp_path / "foreign.parquet"
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(path)
    with pytest.raises(InputError, match=r"an image column image/img .* got text, label\. Rename the columns"):
        load(path)
    datasets.Dataset.from_dict({"image": [1.5], "label": [0]}).to_parquet(path)
    with pytest.raises(InputError, match="a column of encoded images"):
        load(path)
    datasets.Dataset.from_dict({"image": [b""], "label": ["cat"]}).to_parquet(path)
    with pytest.raises(InputError, match=r"whole numbers as label of foreign.parquet, got 1 of type string"):
        load(path)


def test_files_of_another_data_set_are_refused(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", [png((0, 0, 0))] * 10, names=["a", "b"], label=[0, 1] * 5)
    with pytest.raises(InputError, match="the 10 classes of svhn, got 2"):
        load("svhn", data_dir=tmp_path)


@pytest.mark.parametrize("content", [b"not an image", png(3, (4, 4), "L")[:-20], b""])
def test_an_unreadable_image_is_named(tmp_path, content):
    images = [png(k, (4, 4), "L") for k in range(11)] + [content]
    path = write_parquet(tmp_path / "a.parquet", images, label=[0] * 12)
    with pytest.raises(InputError, match=r"a readable image, got row 11 of a.parquet"):
        load(path)


def test_an_unreadable_image_file_is_named(tmp_path):
    (write_folder(tmp_path / "pets") / "cat" / "03.png").write_text("no image")
    with pytest.raises(InputError, match=r"a readable image, got .*cat/03.png"):
        load(tmp_path / "pets")


def test_images_of_several_sizes_are_refused_naming_two(tmp_path):
    (write_folder(tmp_path / "pets") / "dog" / "07.png").write_bytes(png((0, 0, 0), (9, 7)))
    with pytest.raises(InputError, match=r"images of one size, here 6 x 8, got 7 x 9 in .*dog/07.png"):
        load(tmp_path / "pets")


@pytest.mark.parametrize(("mode", "message"), [("I;16", "mode I;16 in row 0"), ("RGB", "mode RGB in row 0")])
def test_images_that_would_be_changed_beyond_recognition_are_refused(tmp_path, mode, message):
    color = (1, 2, 3) if mode == "RGB" else 1000
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", [png(color, (28, 28), mode)] * 10, label=list(range(10)))
    with pytest.raises(InputError, match=f"Expected 8-bit grey images, got {message}.*. Save it as an 8-bit grey"):
        load("mnist", data_dir=tmp_path)


def test_labels_out_of_range_are_refused(tmp_path):
    for split, last in (("train", 1), ("test", 2)):
        write_parquet(tmp_path / f"{split}-0.parquet", [png(0, (4, 4), "L")] * 10, label=[0] * 9 + [last])
    with pytest.raises(InputError, match="labels from 0 to 1 for 2 classes, got 2"):
        load(tmp_path)


def test_splits_that_number_their_classes_differently_are_refused(tmp_path):
    for split, names in (("train", "ab"), ("test", "ba")):
        write_parquet(tmp_path / f"{split}-0.parquet", [png(0, (4, 4), "L")] * 10, names=names, label=[0, 1] * 5)
    with pytest.raises(InputError, match="the same classes in train and test"):
        load(tmp_path)
    write_folder(tmp_path / "pets" / "train")
    write_folder(tmp_path / "pets" / "test", classes=("cat", "wolf"))
    with pytest.raises(InputError, match=r"the class folders of train.*got wolf"):
        load(tmp_path / "pets")


def test_folders_without_training_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="images in class folders, or parquet files, got none in"):
        load(tmp_path)
    write_parquet(tmp_path / "test-0.parquet", [png(0, (4, 4), "L")], label=[0])
    with pytest.raises(InputError, match="training examples, got only test in"):
        load(tmp_path)


def test_importing_the_package_imports_nothing_slow_that_only_some_need():
    """Compilers of torch among it, which take as long as torch itself."""
    slow = {"datasets", "sklearn", "matplotlib", "lightning_fabric", "torch._dynamo"}
    code = f"import sys, lowcurve.study.pipeline; sys.exit(str({slow} & set(sys.modules) or ''))"
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.stderr.strip() == ""


def test_the_watch_over_the_network_sees_the_download_counter_of_datasets(network, tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [png(0, (4, 4), "L")], label=[0])
    datasets.load_dataset("parquet", data_files=str(path))
    assert network
    network.clear()
