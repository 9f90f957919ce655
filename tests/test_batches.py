"""Laws of examples and batches: what is seen depends on (seed, epoch, batch number) alone."""

import numpy as np
import pytest
import torch

from lowcurve.data import Augmentation, DataSet, Examples, augment, ordered_batches, shuffled_batches, steps_per_epoch
from lowcurve.errors import InputError
from lowcurve.randomness import stream

CROP_AND_FLIP = Augmentation(crop_padding=2, flip=True)


@pytest.fixture
def images() -> Examples:
    x = torch.randint(0, 256, (22, 3, 6, 6), dtype=torch.uint8, generator=stream(0, "test"))
    return Examples(x, torch.arange(22), tuple(map(str, range(22))))


def joined(batches) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


# --- Examples


def test_uint8_pixels_are_divided_by_255_and_floats_are_left_alone(images):
    x = images.pixels(slice(0, 4))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, images.x[:4] / 255)
    floats = Examples(x, images.y[:4], images.classes)
    torch.testing.assert_close(floats.pixels([2, 0]), x[[2, 0]])


def test_pixels_are_a_copy():
    part = Examples(torch.full((2, 3), 0.5), torch.zeros(2, dtype=torch.int64), ("a",))
    part.pixels(slice(None)).zero_()
    torch.testing.assert_close(part.x, torch.full((2, 3), 0.5))


@pytest.mark.parametrize("rows", [slice(3, 5), [3, 4], torch.tensor([3, 4])])
def test_take_keeps_inputs_and_labels_together(images, rows):
    part = images.take(rows)
    assert part.y.tolist() == [3, 4]
    assert part.shape == (3, 6, 6)
    torch.testing.assert_close(part.x, images.x[3:5])


ONE = torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 3), ONE, "one label for each input, got 1 for 2"),
        (torch.tensor([[0.0, float("nan")]]), ONE, "Expected finite pixels, got NaN or infinite ones"),
        (torch.tensor([[0.0, float("inf")]]), ONE, "Expected finite pixels"),
        (torch.tensor([[0.0, 255.0]]), ONE, "in \\[0, 1\\], got values from 0 to 255. Divide by 255"),
        (torch.tensor([[-1.0, 1.0]]), ONE, "values from -1 to 1"),
        (torch.zeros(1, 3, dtype=torch.int64), ONE, "as uint8 or floating point, got torch.int64"),
        (torch.zeros(1), ONE, "inputs x \\[N, ...\\]"),
        (torch.zeros(1, 3), torch.tensor([2]), "labels from 0 to 1 for 2 classes, got 2"),
        (torch.zeros(1, 3), torch.tensor([-1]), "labels from 0 to 1 for 2 classes, got -1"),
        (torch.zeros(1, 3), torch.tensor([[0]]), "labels y \\[N\\] of type int64"),
        (torch.zeros(1, 3), torch.tensor([0.0]), "got torch.float32"),
    ],
)
def test_what_cannot_be_examples_is_refused(x, y, message):
    with pytest.raises(InputError, match=message):
        Examples(x, y, ("a", "b"))


def test_only_the_validation_part_may_be_empty(images):
    empty = images.take(slice(0, 0))
    assert len(DataSet("some", images, empty, images, "").validation) == 0
    for parts in ((empty, images, images), (images, images, empty)):
        with pytest.raises(InputError, match="examples to train on and to test on"):
            DataSet("some", *parts, "")


def test_parts_of_different_shapes_are_refused(images):
    grey = Examples(images.x[:, :1], images.y, images.classes)
    with pytest.raises(InputError, match="one shape and the same classes"):
        DataSet("some", images, images, grey, "")


def test_statistics_agree_with_numpy_across_chunks():
    x = torch.randint(0, 256, (2500, 3, 4, 4), dtype=torch.uint8, generator=stream(0, "test"))
    part = Examples(x, torch.zeros(2500, dtype=torch.int64), ("a",))
    mean, deviation = DataSet("some", part, part, part, "").statistics()
    oracle = x.numpy() / 255
    np.testing.assert_allclose(mean, oracle.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(deviation, oracle.std((0, 2, 3)), rtol=1e-6)


# --- batches


def test_in_order_gives_everything_once(images):
    x, y = joined(ordered_batches(images, 5))
    assert y.tolist() == list(range(22))
    torch.testing.assert_close(x, images.x / 255)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_ranks_together_see_what_one_process_sees(images, ranks):
    settings = {"seed": 3, "epoch": 1, "augmentation": CROP_AND_FLIP}
    alone = list(shuffled_batches(images, 8, **settings))
    shares = [list(shuffled_batches(images, 8, **settings, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert all(len(y) == 8 // ranks for share in shares for _, y in share)
    for (x, y), *batches in zip(alone, *shares, strict=True):
        together = joined(batches)
        torch.testing.assert_close(together[0], x, rtol=0, atol=0)
        torch.testing.assert_close(together[1], y)


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_an_epoch_begun_at_batch_k_is_the_epoch_from_batch_k_on(images, start):
    settings = {"seed": 0, "epoch": 2, "augmentation": CROP_AND_FLIP}
    skipped = list(shuffled_batches(images, 5, **settings))[start:]
    resumed = list(shuffled_batches(images, 5, **settings, start=start))
    for (x, y), (x_resumed, y_resumed) in zip(skipped, resumed, strict=True):
        torch.testing.assert_close(x, x_resumed, rtol=0, atol=0)
        torch.testing.assert_close(y, y_resumed)


def test_every_example_is_seen_at_most_once_in_an_epoch_and_epochs_differ(images):
    orders = [joined(shuffled_batches(images, 5, seed=0, epoch=epoch))[1].tolist() for epoch in (0, 1)]
    assert all(len(order) == len(set(order)) == 20 for order in orders)
    assert orders[0] != orders[1]


def test_labels_follow_their_inputs(images):
    for x, y in shuffled_batches(images, 5, seed=0, epoch=0):
        torch.testing.assert_close(x, images.pixels(y))


def test_a_batch_larger_than_the_examples_holds_them_all(images):
    assert steps_per_epoch(images, 64) == 1
    _, y = joined(shuffled_batches(images, 64, seed=0, epoch=0))
    assert sorted(y.tolist()) == list(range(22))


def test_the_global_random_state_is_untouched(images):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(shuffled_batches(images, 5, seed=0, epoch=0, augmentation=CROP_AND_FLIP))
    torch.testing.assert_close(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "a batch size of at least 1, got 0"),
        ({"size": 5, "ranks": 2}, "a batch that the ranks can share equally, got 5 examples for 2 ranks"),
        ({"size": 64, "ranks": 4}, "got 22 examples for 4 ranks"),
        ({"size": 8, "rank": 2, "ranks": 2}, "a rank from 0 to ranks - 1, got rank 2 of 2"),
        ({"size": 5, "start": 5}, "a start from 0 to 4, got 5"),
    ],
)
def test_epochs_that_cannot_be_are_refused_at_once(images, settings, message):
    with pytest.raises(InputError, match=message):
        shuffled_batches(images, seed=0, epoch=0, **settings)


def test_nothing_to_train_on_is_refused(images):
    with pytest.raises(InputError, match="at least one example"):
        steps_per_epoch(images.take(slice(0, 0)), 4)


# --- augmentation


def test_every_augmented_image_is_a_window_of_the_padded_image_or_its_mirror_image():
    x = torch.arange(1.0, 7.0).view(1, 1, 2, 3).expand(400, 1, 2, 3)
    padded = torch.tensor([[0, 0, 0, 0, 0], [0, 1, 2, 3, 0], [0, 4, 5, 6, 0], [0, 0, 0, 0, 0]])
    windows = [padded[r : r + 2, c : c + 3] for r in range(3) for c in range(3)]
    allowed = {tuple(w.flatten().tolist()) for window in windows for w in (window, window.flip(1))}
    seen = augment(x, Augmentation(crop_padding=1, flip=True), generator=stream(0, "test"))
    assert set(map(tuple, seen.flatten(1).tolist())) == allowed  # 18 windows, 400 images: each is drawn


def test_all_channels_of_an_image_move_together():
    x = torch.rand(32, 1, 5, 5, generator=stream(0, "test")).expand(32, 3, 5, 5)
    seen = augment(x, CROP_AND_FLIP, generator=stream(1, "test"))
    torch.testing.assert_close(seen, seen[:, :1].expand_as(seen))


def test_switching_on_the_flip_leaves_the_crops_alone(images):
    x = images.pixels(slice(None))
    crops = augment(x, Augmentation(crop_padding=2), generator=stream(0, "test"))
    both = augment(x, CROP_AND_FLIP, generator=stream(0, "test"))
    same, mirrored = ((both == other).flatten(1).all(1) for other in (crops, crops.flip(3)))
    assert bool((same | mirrored).all())
    assert 0 < int(mirrored.sum()) < 22


def test_augmentation_that_is_off_changes_nothing_and_takes_points():
    x = torch.rand(4, 2, generator=stream(0, "test"))
    torch.testing.assert_close(augment(x, Augmentation(), generator=stream(1, "test")), x)


def test_points_cannot_be_augmented():
    part = Examples(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), ("a",))
    with pytest.raises(InputError, match="images \\[batch, channels, height, width\\], got \\(4, 2\\)"):
        augment(part.x, CROP_AND_FLIP, generator=stream(0, "test"))
    with pytest.raises(InputError, match="images to augment"):
        shuffled_batches(part, 2, seed=0, epoch=0, augmentation=CROP_AND_FLIP)
    with pytest.raises(InputError, match="a crop padding of 0 pixels or more, got -1"):
        Augmentation(crop_padding=-1)
