"""Splits by name: as the Hugging Face library finds them, and never a test image among the training images."""

import io
import os
import unicodedata
from pathlib import Path

import datasets
import pytest
from datasets import data_files
from PIL import Image

from lowcurve.data import image_folder, load
from lowcurve.data.splits import SEPARATORS, SPLIT_WORDS, split_files, split_images
from lowcurve.errors import InputError


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def encoded(color=(1, 2, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(buffer, "PNG")
    return buffer.getvalue()


PNG = encoded()


def tree(root: Path, *names: str) -> Path:
    """A folder with a small image under each of these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def found(root: Path) -> dict[str, list[str]]:
    """Class/name of each image by split."""
    splits = split_images(root)
    pairs = {s: list(zip(splits.classes[s], splits.files[s], strict=True)) for s in splits.files}
    return {s: [f"{label}:{file.name}" for label, file in pair] for s, pair in pairs.items()}


def parquet_splits(*names: str) -> dict[str, list[str]]:
    root = Path("/data")
    splits = split_files(root, [root / name for name in names]).files
    return {split: [file.relative_to(root).as_posix() for file in files] for split, files in splits.items()}


def test_words_and_separators_are_those_of_the_library():
    words = {word: str(split) for split, known in data_files.SPLIT_KEYWORDS.items() for word in known}
    assert words == SPLIT_WORDS
    assert data_files.NON_WORDS_CHARS == SEPARATORS


FORMS = ["{}-00000-of-00003", "mnist_{}", "my-{}", "cifar.{}", "{}2017", "a {} b", "x/{}/0", "X_{}_1/0"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    "form", ["{}-00000-of-00003", "mnist_{}", "my-{}", "cifar.{}", "{}2017", "a {} b", "x/{}/0", "X_{}_1/0"]
)
def test_each_word_between_separators_names_its_split(split, form):
    for word, meaning in SPLIT_WORDS.items():
        if meaning == split:
            for written in (word, word.upper(), word.title()):
                name = f"{form.format(written)}.parquet"
                other = "training.parquet" if split != "train" else "test.parquet"
                assert parquet_splits(name, other)[split] == [name]


def test_the_library_finds_the_same_splits(tmp_path):
    names = ["data_train.parquet", "my-test.parquet", "x/eval/0.parquet", "part.valid.parquet"]
    for name in (names[0], names[1], names[3]):  # the library takes either names of folders or names of files
        (tmp_path / name).write_bytes(b"")
    theirs = data_files.get_data_patterns(str(tmp_path))
    ours = split_files(tmp_path, [tmp_path / name for name in (names[0], names[1], names[3])]).files
    assert set(ours) == {str(split) for split in theirs}
    for split, files in ours.items():
        matched = {f for p in theirs[split] for f in _resolved(p, tmp_path)}
        assert {str(file) for file in files} == matched


def _resolved(pattern: str, root: Path) -> list[str]:
    try:
        return data_files.resolve_pattern(pattern, str(root))
    except FileNotFoundError:
        return []


@pytest.mark.parametrize(
    "name",
    [
        "mnisttest.parquet",
        "TestSet/0.parquet",
        "valset.parquet",
        "evaluations.parquet",
        "train-test.parquet",
        "Xtrain.parquet",
    ],
)
def test_a_name_that_cannot_be_placed_is_refused(name):
    for others in (["train.parquet"], ["part-0.parquet"]):
        with pytest.raises(
            InputError, match=r"names that say to which split files belong, got .*\. Rename it with one"
        ):
            parquet_splits(name, *others)


def test_files_without_a_split_are_training_files_unless_others_name_one():
    assert parquet_splits("a.parquet", "b.parquet") == {"train": ["a.parquet", "b.parquet"]}
    assert parquet_splits("train.parquet", "extra.parquet") == {"train": ["train.parquet"]}
    root = Path("/data")
    note = split_files(
        root, [root / name for name in ("train.parquet", *(f"extra-{k}.parquet" for k in range(5)))]
    ).note
    assert note == "; left out, as no split: extra-0.parquet, extra-1.parquet, extra-2.parquet and 2 more"
    assert parquet_splits("latest.parquet") == {"train": ["latest.parquet"]}
    assert split_files(root / "my_test.parquet", [root / "my_test.parquet"]).files.keys() == {"train"}


LAYOUTS = {
    "split above class": ("Train/a/1.png", "Test/a/2.png", "Test/b/3.png"),
    "training_set": ("training_set/a/1.png", "test_set/a/2.png", "test_set/b/3.png"),
    "eval": ("train/a/1.png", "eval/a/2.png", "evaluation/b/3.png"),
    "below one folder": ("images/train/a/1.png", "images/test/a/2.png", "images/test/b/3.png"),
    "below two folders": ("x/images/train/a/1.png", "x/images/test/a/2.png", "x/images/test/b/3.png"),
    "class above split": ("a/train/1.png", "a/test/2.png", "b/test/3.png"),
    "repeated": ("seg_train/seg_train/a/1.png", "seg_test/seg_test/a/2.png", "seg_test/seg_test/b/3.png"),
    "file names": ("a/train_1.png", "a/test-2.png", "b/x.test.3.png"),
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_image_folders(tmp_path, names):
    splits = split_images(tree(tmp_path, *names))
    assert {split: len(files) for split, files in splits.files.items()} == {"train": 1, "test": 2}
    assert splits.classes == {"train": ["a"], "test": ["a", "b"]}


def test_one_split_alone_keeps_its_classes(tmp_path):
    root = tree(tmp_path, *(f"val/{label}/{k}.png" for label in "ab" for k in range(6)))
    assert found(root).keys() == {"validation"}
    assert set(split_images(root).classes["validation"]) == {"a", "b"}
    with pytest.raises(
        InputError, match=r"training examples, got only validation in .*give the path of the split itself"
    ):
        load(root)
    assert load(root / "val").classes == ("a", "b")


def test_an_empty_class_folder_keeps_its_number(tmp_path):
    """Else the classes after it would have other numbers than those with which a network was trained."""
    tree(tmp_path, "val/a/1.png", "val/c/2.png", "val/e/3.png")
    (tmp_path / "val" / "b" / "more").mkdir(parents=True)
    (tmp_path / "val" / "d").mkdir()
    (tmp_path / "val" / "d" / "boxes.xml").write_text("")  # no folder of images, so no class
    for root in (tmp_path, tmp_path / "val"):
        examples = image_folder(root)
        assert (examples.classes, examples.y.tolist()) == (("a", "b", "c", "e"), [0, 2, 3])
    tree(tmp_path, "train/a/1.png", "train/b/2.png", "train/c/2.png", "train/e/2.png")
    assert image_folder(tmp_path, split="val").classes == ("a", "b", "c", "e")


@pytest.mark.parametrize(("content", "word"), [(b"", "an empty file"), (b"hello", "no format that Pillow knows")])
def test_what_is_no_image_is_told_in_words(tmp_path, content, word):
    tree(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b" / "2.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"a readable image, got .*2.png \({word}\)"):
        image_folder(tmp_path)


def test_a_wrapper_folder_is_no_class(tmp_path):
    root = tree(tmp_path, *(f"PetImages/{label}/{k}.png" for label in ("Cat", "Dog") for k in range(6)))
    assert load(root).classes == ("Cat", "Dog")


def test_several_folders_of_a_split_are_joined(tmp_path):
    root = tree(tmp_path, "train/a/1.png", "valid/a/2.png", "dev/a/3.png")
    assert found(root) == {"train": ["a:1.png"], "validation": ["a:3.png", "a:2.png"]}


@pytest.mark.parametrize(
    "names",
    [
        ("trainset/a/1.png", "testset/a/2.png"),
        ("train/a/1.png", "mytest/a/2.png"),
        ("train/a/1.png", "train-test/a/2.png"),
        ("train/a/test/1.png", "train/b/2.png"),
        ("a/x/train/1.png", "a/x/test/2.png", "b/3.png"),
        ("a/train/1.png", "a/2.png", "b/3.png"),
        ("a/trainset/1.png", "a/testset/2.png", "b/3.png"),
        ("a/train_1.png", "a/test_2.png", "b/3.png"),
    ],
)
def test_image_folders_with_unclear_names_are_refused(tmp_path, names):
    with pytest.raises(InputError, match="names that say to which split files belong"):
        split_images(tree(tmp_path, *names))


@pytest.mark.parametrize(
    "names", [("train/1.png", "test/2.png"), ("trainset/1.png", "b/2.png"), ("train/1.png", "dev/2.png", "c/3.png")]
)
def test_splits_without_class_folders_are_no_classes(tmp_path, names):
    with pytest.raises(
        InputError, match=r"class folders in .*, got folders named as splits: .*\. Put one folder of images"
    ):
        split_images(tree(tmp_path, *names))


def test_classes_may_sound_like_splits(tmp_path):
    classes = ("bus", "carnival", "chevalier", "latest", "strain", "test-tube", "valley")
    assert set(split_images(tree(tmp_path / "flat", *(f"{c}/1.png" for c in classes))).classes["train"]) == {*classes}
    classes = ("bus", "train")
    root = tree(tmp_path / "split", *(f"{split}/{c}/train_1.png" for c in classes for split in ("train", "test")))
    assert found(root) == {split: ["bus:train_1.png", "train:train_1.png"] for split in ("test", "train")}
    assert found(tree(tmp_path / "names", "a/ILSVRC_val_1.png", "b/ILSVRC_val_2.png")).keys() == {"train"}


def test_hidden_files_and_folders_are_skipped(tmp_path):
    root = tree(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png")
    tree(
        root, ".ipynb_checkpoints/1.png", "train/.ipynb_checkpoints/1.png", "train/a/.ipynb_checkpoints/1.png",
        "__MACOSX/train/a/._1.png", "train/a/._1.png", "train/a/.DS_Store", "test/.hidden/a.png", ".test/a/9.png",
    )  # fmt: skip
    (root / "train" / "a" / "Thumbs.db").write_bytes(b"x")
    (root / "train" / "a" / "scan.pdf").write_bytes(b"%PDF-1.4")
    assert found(root) == {"test": ["a:3.png"], "train": ["a:1.png", "b:2.png"]}
    rows = datasets.Dataset.from_dict({"image": [{"bytes": PNG, "path": None}] * 6, "label": [0, 1] * 3})
    for name in ("train.parquet", ".test.parquet", ".cache/test.parquet", "__MACOSX/._test.parquet"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / "p" / name)
    assert len(load(tmp_path / "p").test) == 1


def test_other_folders_beside_the_splits_are_left_out_and_named(tmp_path):
    root = tree(
        tmp_path, *(f"{s}/{c}/{k}.png" for s in ("train", "test") for c in "ab" for k in range(3)), "c/1.png", "x.png"
    )
    data = load(root)
    assert data.classes == ("a", "b")
    assert "left out, as no split: c/, x.png." in data.note


def test_links_are_followed_but_not_in_circles_and_a_broken_one_is_named(tmp_path):
    tree(tmp_path / "real", *(f"{k}.png" for k in range(3)))
    root = tree(tmp_path / "root", "a/1.png", "b/2.png")
    (root / "a" / "more").symlink_to(tmp_path / "real")
    (root / "b" / "up").symlink_to(root)
    assert len(split_images(root).files["train"]) == 5
    (root / "b" / "gone.png").symlink_to("/nowhere")
    with pytest.raises(InputError, match=r"a readable image, got .*gone.png"):
        load(root)


def test_one_class_in_two_spellings_of_unicode(tmp_path):
    one, two = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert one != two
    root = tree(tmp_path, *(f"train/{one}/{k}.png" for k in range(3)), f"train/b/{one}.png", f"test/{two}/1.png")
    assert load(root).classes == ("b", "é")


def test_test_images_that_are_also_trained_on_are_counted(tmp_path):
    root = tree(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png")
    (root / "test" / "b" / "4.png").write_bytes(encoded((9, 9, 9)))
    assert load(root).note.endswith("1 of the 2 test images are among the training images too.")


def test_another_file_with_the_same_time_is_read_anew(tmp_path):
    path = tmp_path / "a.parquet"
    for level in (1, 2):
        cells = [{"bytes": encoded((level,) * 3), "path": None}] * 10
        rows = datasets.Dataset.from_dict({"image": cells, "label": [0, 1] * 5})
        rows.cast_column("image", datasets.Image()).to_parquet(path)
        os.utime(path, (1, 1))
        assert load(path).train.x.unique().tolist() == [level]
