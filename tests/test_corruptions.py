"""Common corruptions: their formulas by other libraries, their distributions, and the reader of the official files."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch.testing import assert_close

from lowcurve.attacks import CORRUPTIONS, corrupt
from lowcurve.data import load_corrupted
from lowcurve.errors import InputError
from lowcurve.randomness import stream


def pictures(count: int = 4, side: int = 32) -> torch.Tensor:
    """Color images of whole grey levels whose detail falls with its size, as that of photographs does."""
    like, detail = torch.zeros(count, 3, side, side, dtype=torch.float64), [4, 8, 16, 32]
    for cells in detail:
        coarse = torch.rand(count, 3, cells, cells, generator=stream(0, "pictures", cells), dtype=torch.float64)
        like += torch.nn.functional.interpolate(coarse, size=side, mode="bilinear") / cells
    return (like / sum(1 / cells for cells in detail) * 255).round() / 255


X = pictures()
each = pytest.mark.parametrize("kind", CORRUPTIONS)


def distortion(kind: str, severity: int) -> float:
    return (corrupt(X, kind, severity, stream(0)) - X).square().mean().sqrt().item()


@each
def test_corruptions_stay_in_the_box_and_repeat_themselves(kind):
    state = torch.get_rng_state()
    for severity in (1, 5):
        found = corrupt(X.float(), kind, severity, stream(1))
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        assert found.shape == X.shape
        assert torch.equal(found, corrupt(X.float(), kind, severity, stream(1)))
    assert torch.equal(state, torch.get_rng_state())


@each
def test_a_corrupted_image_does_not_mind_company(kind):
    found = corrupt(X, kind, 3, stream(1))
    rows = torch.tensor([2, 0])
    assert_close(corrupt(X[rows], kind, 3, stream(1)), found[rows], rtol=0, atol=1e-12)
    assert corrupt(X[:0], kind, 3, stream(1)).shape == X[:0].shape


@pytest.mark.parametrize("kind", sorted(set(CORRUPTIONS) - {"saturate"}))
def test_higher_severities_distort_more(kind):
    sizes = [distortion(kind, severity) for severity in range(1, 6)]
    assert sizes == sorted(sizes)
    assert sizes[0] > 1e-3


def test_saturate_takes_color_away_and_then_adds_it():
    less, more = [distortion("saturate", k) for k in (1, 2)], [distortion("saturate", k) for k in (3, 4, 5)]
    assert (less, more) == (sorted(less), sorted(more))
    spread = X.amax(1) - X.amin(1)
    for severity, side in ((1, -1), (2, -1), (3, 1), (4, 1), (5, 1)):
        found = corrupt(X, "saturate", severity, stream(0))
        assert float(side * ((found.amax(1) - found.amin(1)) - spread).min()) >= -1e-12


@pytest.mark.parametrize(("kind", "law"), [("gaussian noise", 0.08), ("speckle noise", 0.12 * 0.5)])
def test_noise_is_normal(kind, law):
    flat = torch.full((1, 3, 60, 60), 0.5, dtype=torch.float64)
    drawn = ((corrupt(flat, kind, 3, stream(0)) - 0.5) / law).flatten().numpy()
    assert stats.kstest(drawn, "norm").pvalue > 0.01


def test_shot_noise_counts_photons():
    for severity, photons in ((1, 500), (5, 50)):
        flat = torch.full((1, 3, 60, 60), 0.3, dtype=torch.float64)
        counts = (corrupt(flat, "shot noise", severity, stream(0)) * photons).flatten().numpy()
        assert_close(counts, counts.round(), rtol=0, atol=1e-9)
        below, above = stats.poisson.ppf([0.25, 0.75], 0.3 * photons)
        seen = np.array([(counts <= below).sum(), ((counts > below) & (counts <= above)).sum(), (counts > above).sum()])
        cumulative = stats.poisson.cdf([below, above], 0.3 * photons)
        expected = np.diff([0, *cumulative, 1]) * len(counts)
        assert stats.chisquare(seen, expected).pvalue > 0.01
    black = torch.zeros(1, 3, 4, 4)
    assert torch.equal(corrupt(black, "shot noise", 5, stream(0)), black)


def test_impulses_are_salt_and_pepper():
    flat = torch.full((1, 3, 60, 60), 0.3, dtype=torch.float64)
    found = corrupt(flat, "impulse noise", 5, stream(0)).flatten()
    hit = found[found != 0.3]
    assert set(hit.tolist()) == {0.0, 1.0}
    assert stats.binomtest(len(hit), found.numel(), 0.07).pvalue > 0.01
    assert stats.binomtest(int(hit.sum()), len(hit), 0.5).pvalue > 0.01


@pytest.mark.parametrize(("severity", "width"), [(1, 0.4), (5, 1.0)])
def test_a_gaussian_blur_is_that_of_another_library(severity, width):
    expected = ndimage.gaussian_filter(X.numpy(), (0, 0, width, width), mode="nearest", truncate=4.0)
    assert_close(corrupt(X, "gaussian blur", severity, stream(0)), torch.from_numpy(expected))


def test_a_defocused_point_becomes_a_soft_disk():
    point = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    point[..., 4, 4] = 1
    found = corrupt(point, "defocus blur", 5, stream(0))
    assert_close(found.sum(), torch.tensor(1.0, dtype=torch.float64))
    # Of radius 1.5: the nine pixels around the center, of which the softening by a width of 0.1 leaves 1 / 9 each.
    assert_close(found[..., 3:6, 3:6], torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64), rtol=0, atol=1e-9)
    cross = torch.zeros(9, 9)
    cross[4, 3:6] = cross[3:6, 4] = 1
    bell = np.exp(-np.array([1, 0, 1]) / (2 * 0.2**2))
    soft = ndimage.convolve((cross / 5).double().numpy(), np.outer(bell, bell) / bell.sum() ** 2, mode="constant")
    assert_close(corrupt(point, "defocus blur", 4, stream(0))[0, 0], torch.from_numpy(soft))


def test_brightness_raises_the_value_and_contrast_shrinks_around_the_mean():
    brighter = corrupt(X, "brightness", 3, stream(0))
    value = X.amax(1)
    assert_close(brighter.amax(1), (value + 0.15).clamp(0, 1))
    saturation = 1 - X.amin(1) / value
    assert_close(1 - brighter.amin(1) / brighter.amax(1), saturation)
    black = torch.zeros(1, 3, 2, 2)
    assert_close(corrupt(black, "brightness", 3, stream(0)), torch.full_like(black, 0.15))
    mean = X.mean((2, 3), keepdim=True)
    assert_close(corrupt(X, "contrast", 4, stream(0)), 0.3 * X + 0.7 * mean)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.95), (2, 0.9), (3, 0.85), (4, 0.75), (5, 0.65)])
def test_pixelate_is_that_of_another_library(severity, share):
    x = pictures(2, 32)
    found = corrupt(x, "pixelate", severity, stream(0))
    for image, expected in zip(x, found, strict=True):
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        small = picture.resize((int(32 * share),) * 2, Image.Resampling.BOX)
        back = torch.from_numpy(np.array(small.resize((32, 32), Image.Resampling.BOX))).permute(2, 0, 1)
        assert_close(expected * 255, back.double(), rtol=0, atol=1.01)  # Pillow rounds twice, to whole levels


def test_jpeg_compression_is_pillows():
    found = corrupt(X, "jpeg compression", 2, stream(0))
    file = io.BytesIO()
    Image.fromarray((X[1] * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=65)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    assert_close(found[1], expected.double() / 255)


def test_grey_images_are_corrupted_too():
    for kind in set(CORRUPTIONS) - {"saturate"}:
        assert corrupt(X[:, :1], kind, 2, stream(0)).shape == (4, 1, 32, 32)
    with pytest.raises(InputError, match="color images of shape"):
        corrupt(X[:, :1], "saturate", 2, stream(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "frost"}, "one of the corruptions gaussian noise, .* got 'frost'"),
        ({"severity": 0}, "a severity from 1 to 5, got 0"),
        ({"severity": 6}, "a severity from 1 to 5"),
        ({"x": X[0]}, "images of shape"),
        ({"x": X * 2}, "inputs inside the pixel box"),
        ({"x": X[:, :, :1, :1], "kind": "pixelate"}, "images that can be made smaller"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        corrupt(**{"x": X, "kind": "contrast", "severity": 3, "generator": stream(0)} | change)


@pytest.fixture
def archive(tmp_path) -> Path:
    """CIFAR-10-C with three images."""
    x = np.arange(15 * 4 * 4 * 3, dtype=np.uint64).reshape(15, 4, 4, 3).astype(np.uint8)
    np.save(tmp_path / "gaussian_noise.npy", x)
    np.save(tmp_path / "labels.npy", np.tile(np.array([3, 0, 9], dtype=np.uint8), 5))
    return tmp_path


def test_the_official_files_are_read(archive):
    found = load_corrupted(archive, "gaussian noise", 4)
    expected = np.load(archive / "gaussian_noise.npy")[9:12].transpose(0, 3, 1, 2)
    assert_close(found.x, torch.from_numpy(expected.copy()))
    assert found.y.tolist() == [3, 0, 9]
    assert found.classes[found.y[0]] == "cat"
    assert found.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("frost", None, "a file frost.npy in .*, got gaussian_noise, labels"),
        ("fog", b"nothing of the kind", "an array of numpy in fog.npy"),
        ("fog", np.zeros((15, 4, 4, 3)), "bytes of shape"),
        ("fog", np.zeros((14, 4, 4, 3), dtype=np.uint8), "bytes of shape"),
        ("fog", np.zeros((10, 4, 4, 3), dtype=np.uint8), "10 whole numbers as labels"),
        ("fog", np.array([{}]), "an array of numpy in fog.npy"),
    ],
)
def test_files_that_are_something_else_are_refused(archive, kind, content, message):
    if isinstance(content, bytes):
        (archive / f"{kind}.npy").write_bytes(content)
    elif content is not None:
        np.save(archive / f"{kind}.npy", content)
    with pytest.raises(InputError, match=message):
        load_corrupted(archive, kind, 1)


def test_a_severity_that_there_is_not_is_refused(archive):
    with pytest.raises(InputError, match="a severity from 1 to 5, got 6"):
        load_corrupted(archive, "gaussian_noise", 6)
