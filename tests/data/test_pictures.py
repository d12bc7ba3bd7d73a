"""A picture is read as people see it: upright, on white, in 8 bits; or refused by name."""

import io
import os
import random
import resource

import numpy as np
import pytest
from PIL import Image

from hsproto.data import decode
from hsproto.data.decode import UnreadableImage, center_square, read_picture


def colors(height=12, width=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    """An image as the bytes of a file, to be read as a stream."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return io.BytesIO(file.getvalue())


def read(image, kind="PNG", channels=3, **options):
    return np.asarray(read_picture(encoded(image, kind, **options), channels, "it"))


# For each EXIF orientation what a camera stores of an upright image.
STORED = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: np.swapaxes(image, 0, 1),
    6: lambda image: np.rot90(image),
    7: lambda image: np.swapaxes(image[::-1, ::-1], 0, 1),
    8: lambda image: np.rot90(image, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_images_are_turned_upright_as_exif_says(kind, orientation):
    upright = colors()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(read(stored, kind, exif=exif, **options), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_turn_nothing():
    pixels = colors()
    found = read(Image.fromarray(pixels), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(found, pixels)


def on_white(pixels, alpha):
    share = alpha[..., None] / 255
    return pixels * share + 255 * (1 - share)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_laid_over_white(channels):
    pixels, alpha = colors(), colors(seed=1)[..., 0]
    alpha[:4], alpha[4:8] = 0, 255
    rgba = Image.fromarray(np.dstack([pixels, alpha]))
    expected = on_white(pixels, alpha)
    if channels == 1:
        expected = expected @ np.array([0.299, 0.587, 0.114])
    found = read(rgba, channels=channels)
    np.testing.assert_allclose(found, expected, atol=1.01)
    # Exact where nothing shines through, and where everything does.
    opaque = np.asarray(Image.fromarray(pixels).convert("L" if channels == 1 else "RGB"))
    np.testing.assert_array_equal(found[4:8], opaque[4:8])
    assert (found[:4] == 255).all()


def test_transparency_of_gray_and_of_a_palette_and_of_one_color_is_laid_over_white():
    gray = colors()[..., 0]
    half = Image.merge("LA", (Image.fromarray(gray), Image.new("L", (16, 12), 128)))
    expected = on_white(gray[..., None], np.full(gray.shape, 128))[..., 0]
    np.testing.assert_allclose(read(half, channels=1), expected, atol=1.01)

    palette = Image.fromarray(colors()).quantize(8)
    index = np.asarray(palette)
    shown = np.where((index == 2)[..., None], 255, np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(read(palette, transparency=2), shown)
    np.testing.assert_array_equal(read(palette, "GIF", transparency=2), shown)

    pixels = colors()
    pixels[3:6] = 7
    shown = np.where((pixels == 7).all(-1, keepdims=True), 255, pixels)
    np.testing.assert_array_equal(read(Image.fromarray(pixels), transparency=(7, 7, 7)), shown)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_gray_of_16_bits_is_divided_by_257(kind):
    deep = np.array([[0, 128, 129, 257, 40000, 65535]], np.uint16)
    expected = [[0, 0, 1, 1, 156, 255]]
    np.testing.assert_array_equal(read(Image.fromarray(deep), kind, channels=1), expected)
    found = read(Image.fromarray(deep), kind)
    np.testing.assert_array_equal(found, np.repeat(np.array(expected)[..., None], 3, -1))


def test_the_transparent_value_of_gray_of_16_bits_is_white():
    deep = Image.fromarray(np.array([[0, 5, 65535]], np.uint16))
    np.testing.assert_array_equal(read(deep, channels=1, transparency=0), [[255, 0, 255]])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_other_depths_are_refused_by_the_header(tmp_path, dtype):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((8, 8), 3, dtype)).save(path)
    with pytest.raises(UnreadableImage, match=r"deep\.tif.*pixels of mode [IF]"):
        read_picture(path, 3, path)
    with pytest.raises(UnreadableImage, match=r"deep\.tif.*pixels of mode [IF]"):
        decode.check_headers([str(path)])


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_frames_or_pages_the_first_is_used(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    path = tmp_path / f"two.{kind.lower()}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    found = np.asarray(read_picture(path, 3, path))
    np.testing.assert_array_equal(found, np.broadcast_to([255, 0, 0], (8, 8, 3)))
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    paths = [str(path), str(tmp_path / "one.png")]
    assert decode.check_headers(paths) == [str(path)]


@pytest.mark.parametrize("shape", [(1, 40_000), (40_000, 1), (3, 30_000)])
def test_the_square_of_a_very_long_image_needs_little_memory(shape):
    pixels = colors(*shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = center_square(Image.fromarray(pixels), 224)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in kB
    assert found.shape == (224, 224, 3) and grown < 2**18
    if min(shape) == 1:  # the middle pixels, of which each is stretched over the square
        middle = pixels.reshape(-1, 3)[19_999:20_001].astype(float)
        line = found[0] if shape[0] == 1 else found[:, 0]
        np.testing.assert_allclose(line[111:113].mean(0), middle.mean(0), atol=2)


def test_the_square_of_a_long_image_is_the_same_with_and_without_what_is_cut_off(monkeypatch):
    for height, width in ((30, 1000), (1000, 31), (100, 170)):
        image = Image.fromarray(colors(height, width))
        whole = center_square(image, 24)
        monkeypatch.setattr(decode, "_MAX_RESIZED", 0)
        np.testing.assert_allclose(center_square(image, 24).astype(int), whole, atol=1)
        monkeypatch.undo()


def test_what_is_no_regular_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "folder.jpg"):
        with pytest.raises(UnreadableImage, match=rf"{name} \(not a regular file\)"):
            read_picture(tmp_path / name, 3, tmp_path / name)


@pytest.mark.parametrize("name", ["missing.png", "link.png"])
def test_a_missing_file_is_called_missing(tmp_path, name):
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UnreadableImage, match=f"^no such file: .*{name}$"):
        read_picture(tmp_path / name, 3, tmp_path / name)


def test_a_name_that_is_too_long_is_one_line():
    with pytest.raises(UnreadableImage, match=r"^unreadable image x+ \(File name too long\)"):
        read_picture("x" * 5000, 3, "x" * 5000)


def test_formats_that_run_programs_or_hold_no_pixels_are_left_out(tmp_path):
    left_out = {".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf", ".fits"}
    assert not left_out & set(decode.suffixes())
    assert {".jpg", ".png", ".webp", ".tif", ".bmp", ".ico", ".jp2", ".mpo"} < set(
        decode.suffixes()
    )
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(UnreadableImage):
        read_picture(tmp_path / "script.png", 3, "script.png")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "ICO"])
def test_damaged_files_are_read_or_refused_by_name(kind):
    content = encoded(Image.fromarray(colors(16, 16)), kind).getvalue()
    rng = random.Random(0)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(min(len(damaged), 400))] = rng.randrange(256)
        damaged = damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])]
        try:
            read_picture(io.BytesIO(damaged), 3, "it")
        except UnreadableImage as error:
            assert str(error).startswith("unreadable image it (") and "\n" not in str(error)
