"""Pictures become the bytes that a viewer shows: upright, on white, and never clipped."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lowcurve.data import as_examples, load
from lowcurve.data.pictures import picture_bytes, upright_size
from lowcurve.errors import InputError

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
GREY = PICTURE.convert("L")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def reopened(picture: Image.Image, kind: str = "PNG", **options) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def rotated(orientation: int, kind: str) -> Image.Image:
    exif = Image.Exif()
    exif[274] = orientation
    return reopened(PICTURE, kind, exif=exif)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(kind, orientation):
    picture = rotated(orientation, kind)
    shown = np.asarray(ImageOps.exif_transpose(picture))
    assert upright_size(picture) == (shown.shape[1], shown.shape[0])
    np.testing.assert_array_equal(picture_bytes(picture, grey=False), shown)


def test_a_damaged_exif_entry_turns_nothing():
    picture = PICTURE.copy()
    picture.info["exif"] = b"Exif\0\0nonsense"
    np.testing.assert_array_equal(picture_bytes(picture, grey=False), PIXELS)


def with_alpha(alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([PIXELS, alpha.astype(np.uint8)]))


def on_white(alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return PIXELS * share + 255 * (1 - share)


@pytest.mark.parametrize(
    "alpha", [np.full((6, 8), 255), np.zeros((6, 8)), PIXELS[..., 0], np.where(PIXELS[..., 1] > 99, 255, 0)]
)
def test_transparent_pixels_show_a_white_background(alpha):
    picture = with_alpha(alpha)
    for kind in ("PNG", "WEBP", "TIFF"):
        again = reopened(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
        np.testing.assert_allclose(picture_bytes(again, grey=False), on_white(alpha), atol=1)
    if (alpha == 255).all():
        np.testing.assert_array_equal(picture_bytes(picture, grey=False), PIXELS)


def test_a_transparent_color_shows_white_too():
    palette = PICTURE.quantize(16)
    first = np.asarray(palette) == 0
    assert (picture_bytes(reopened(palette, transparency=0), grey=False)[first] == 255).all()
    assert (picture_bytes(reopened(PICTURE, transparency=tuple(map(int, PIXELS[0, 0]))), grey=False)[0, 0] == 255).all()
    black = reopened(Image.new("L", (2, 2), 0), transparency=0)
    assert (picture_bytes(black, grey=True) == 255).all()
    assert (
        picture_bytes(reopened(Image.merge("LA", (GREY, Image.new("L", (8, 6), 255)))), grey=True) == np.asarray(GREY)
    ).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_every_mode_of_8_bits_is_read_as_pillow_converts_it(mode):
    picture = PICTURE.convert(mode)
    np.testing.assert_array_equal(picture_bytes(picture, grey=False), np.asarray(picture.convert("RGB")))


def write(root, name: str, picture: Image.Image, **options):
    for label in "ab":
        (root / label).mkdir(parents=True, exist_ok=True)
        for k in range(5):
            PICTURE.save(root / label / f"{k}.png")
    (root / "a" / "4.png").unlink()
    picture.save(root / "a" / name, **options)
    return root


def test_a_folder_with_a_rotated_photograph(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    turned = ImageOps.exif_transpose(PICTURE).rotate(90, expand=True)  # stored lying, shown as PICTURE
    data = load(write(tmp_path / "good", "9.png", turned, exif=exif))
    parts = torch.cat([data.train.x, data.validation.x, data.test.x])
    assert (parts == torch.from_numpy(PIXELS).permute(2, 0, 1)).all()
    with pytest.raises(InputError, match=r"images of one size, here 6 x 8, got 8 x 6 in .*9.png"):
        load(write(tmp_path / "lying", "9.png", PICTURE, exif=exif))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_wide_pixels_are_refused(tmp_path, mode):
    wide = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257) if mode == "I;16" else GREY.convert(mode)
    with pytest.raises(InputError, match=r"8-bit images, got mode .* in .*9.tiff. Save it as an 8-bit image"):
        load(write(tmp_path / "wide", "9.tiff", wide))


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
def test_a_truncated_file_is_named(tmp_path, kind):
    root = write(tmp_path / "cut", f"9.{kind}", PICTURE.resize((64, 48)).resize((8, 6)))
    path = root / "a" / f"9.{kind}"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(InputError, match=rf"a readable image, got .*9.{kind}"):
        load(root)


def test_a_list_of_pictures_is_read_in_the_same_way():
    found = as_examples([rotated(6, "PNG"), rotated(6, "PNG")], [0, 1])
    shown = np.asarray(ImageOps.exif_transpose(rotated(6, "PNG")))
    np.testing.assert_array_equal(found.x[0].permute(1, 2, 0).numpy(), shown)
    clear = as_examples([with_alpha(np.zeros((6, 8)))], [0])
    assert (clear.x == 255).all()


def test_grey_pictures_among_colored_ones_have_three_channels():
    found = as_examples([PICTURE, GREY, PICTURE.convert("CMYK"), PICTURE.convert("1")], [0, 1, 2, 0])
    assert found.shape == (3, 6, 8)
    np.testing.assert_array_equal(found.x[1], np.asarray(GREY)[None].repeat(3, 0))
    assert as_examples([GREY, GREY.convert("LA")], [0, 1]).shape == (1, 6, 8)
