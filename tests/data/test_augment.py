"""Augmentation on the device does to an image what Pillow and plain NumPy do to it."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from hsproto import config as config_lib
from hsproto.data import arrays, augment, contact_sheet
from hsproto.data import load as load_lib
from hsproto.data import source as source_lib
from hsproto.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
SCL = {
    "jitter": (0.4, 0.4, 0.4, 0.1),
    "grayscale_probability": 0.2,
    "blur_probability": 0.5,
}


def make_config(**changes):
    """Nothing on, and pixel values in 0..1 come out as they go in."""
    config = config_lib.default()
    config.update({"crop_scale": (1.0, 1.0), "flip": False})
    config.update({"mean": (0.0,) * 3, "std": (1.0,) * 3, **changes})
    return config


def planes(pixels):
    return jnp.moveaxis(jnp.asarray(pixels, jnp.float32) / 255, -1, 0)


def pixels_of(image):
    return np.moveaxis(np.asarray(image, np.float64), 0, -1)


def apply(config, images=PIXELS[None], seed=0):
    return np.asarray(jax.jit(augment.make_augment(config))(jax.random.key(seed), images))


crop_and_resize = jax.jit(augment.crop_and_resize, static_argnums=(2, 3))
adjust_hue = jax.jit(augment.adjust_hue)


def test_the_whole_image_as_crop_box_is_the_identity():
    found = crop_and_resize(planes(PIXELS), (0, 0, 32, 32), 32)
    np.testing.assert_allclose(pixels_of(found), PIXELS / 255, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_crop_box_is_cut_out_and_resized_as_pillow_does(draws):
    height, width = (draws.draw(st.integers(1, 32)) for _ in range(2))
    top, left = draws.draw(st.integers(0, 32 - height)), draws.draw(st.integers(0, 32 - width))
    size = draws.draw(st.sampled_from([8, 24, 32]))
    cubic = draws.draw(st.booleans())
    found = crop_and_resize(planes(PIXELS), (top, left, height, width), size, cubic)

    # In mode F Pillow computes in float, one channel at a time.
    cut = PIXELS[top : top + height, left : left + width].astype(np.float32) / 255
    for channel in range(3):
        method = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
        expected = np.asarray(Image.fromarray(cut[..., channel]).resize((size, size), method))
        # A level of 8 bits is 4e-3; what is left is float32 rounding of positions up to the side.
        np.testing.assert_allclose(found[channel], np.clip(expected, 0, 1), atol=5e-6)


@pytest.fixture(scope="module")
def boxes():
    """Ten thousand boxes each of a square and a wide image."""
    draw = jax.jit(
        jax.vmap(augment.crop_box, in_axes=(0, None, None, None)), static_argnums=(1, 2, 3)
    )
    uniforms = jax.random.uniform(jax.random.key(1), (10_000, 22))

    def of(shape, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)):
        return np.stack(draw(uniforms, shape, scale, ratio), axis=1)

    return of


@pytest.mark.parametrize("shape", [(224, 224), (32, 32), (60, 224)])
def test_crop_boxes_lie_in_the_image_and_their_corners_everywhere(boxes, shape):
    top, left, height, width = boxes(shape).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (height > 0).all() and (top + height <= shape[0]).all()
    assert (width > 0).all() and (left + width <= shape[1]).all()
    room = shape[0] - height
    position = (top[room > 0] / room[room > 0]).mean()
    assert abs(position - 0.5) < 0.02
    assert (top[room > 0] == 0).any() and (top == room).any()


def test_crop_areas_are_uniform_and_ratios_log_uniform_where_every_box_fits(boxes):
    _, _, height, width = boxes((1000, 1000), scale=(0.1, 0.5)).T
    area, log_ratio = height * width / 1e6, np.log(width / height)
    quantiles = np.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(np.quantile(area, quantiles), 0.1 + 0.4 * quantiles, atol=0.01)
    np.testing.assert_allclose(
        np.quantile(log_ratio, quantiles), np.log(4 / 3) * (2 * quantiles - 1), atol=0.012
    )
    assert abs(np.corrcoef(area, log_ratio)[0, 1]) < 0.03


def torchvision_box(rng, shape, scale, ratio):
    """RandomResizedCrop.get_params, told again."""
    height, width = shape
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < min(ratio):
        w, h = width, round(width / min(ratio))
    elif width / height > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("shape", [(32, 32), (40, 64), (64, 20)])
def test_crop_boxes_are_distributed_as_torchvision_s(boxes, shape):
    rng = np.random.default_rng(3)
    expected = np.array(
        [torchvision_box(rng, shape, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(10_000)]
    )
    found = boxes(shape)
    for column in range(4):
        # The largest difference of the two distribution functions; 0.03 is p = 2e-4.
        both = [
            np.searchsorted(np.sort(sample[:, column]), np.arange(65), side="right") / 10_000
            for sample in (found, expected)
        ]
        assert np.abs(both[0] - both[1]).max() < 0.03


@pytest.mark.parametrize(
    ("shape", "box"),
    [((30, 90), (0, 25, 30, 40)), ((90, 30), (25, 0, 40, 30)), ((30, 32), (0, 0, 30, 32))],
)
def test_where_no_try_fits_the_largest_centered_box_of_a_ratio_in_range_is_taken(boxes, shape, box):
    assert (boxes(shape, scale=(1.5, 1.6)) == box).all()


def blend(image, other, factor):
    return np.clip(factor * image + (1 - factor) * other, 0, 1)


def luma(image):
    return (image @ np.array([0.299, 0.587, 0.114]))[..., None]


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_brightness_contrast_and_saturation_blend_with_black_mean_luma_and_luma(factor):
    image = PIXELS / 255
    found = [
        pixels_of(adjust(planes(PIXELS), factor))
        for adjust in (
            augment.adjust_brightness,
            augment.adjust_contrast,
            augment.adjust_saturation,
        )
    ]
    for one, other in zip(found, (0.0, luma(image).mean(), luma(image)), strict=True):
        np.testing.assert_allclose(one, blend(image, other, factor), atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.floats(-1, 1, width=32))
def test_hue_is_turned_as_the_standard_library_does(shift):
    image = np.concatenate([PIXELS[:6, :6], np.full((1, 6, 3), 77, np.uint8)]).astype(float) / 255
    image[0, :4] = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]]
    found = pixels_of(adjust_hue(jnp.moveaxis(jnp.asarray(image, jnp.float32), -1, 0), shift))
    for row, column in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[row, column])
        expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
        np.testing.assert_allclose(found[row, column], expected, atol=5e-6)


@pytest.mark.parametrize("shift", [0.0, 1.0, -1.0])
def test_hue_turned_by_a_full_circle_is_the_identity(shift):
    np.testing.assert_allclose(
        pixels_of(adjust_hue(planes(PIXELS), shift)), PIXELS / 255, atol=2e-6
    )


def numpy_jitter(image, factors, order):
    for turn in order:
        if turn == 0:
            image = blend(image, 0.0, factors[0])
        elif turn == 1:
            image = blend(image, luma(image).mean(), factors[1])
        elif turn == 2:
            image = blend(image, luma(image), factors[2])
        else:
            image = np.apply_along_axis(
                lambda rgb: colorsys.hsv_to_rgb(
                    *np.add(colorsys.rgb_to_hsv(*rgb), [factors[3], 0, 0]) % [1, 2, 2]
                ),
                -1,
                image,
            )
    return image


def test_jitter_takes_its_four_steps_in_an_order_of_its_own_per_image():
    jitter = jax.jit(augment.color_jitter, static_argnames="strengths")
    image = PIXELS[:4, :4] / 255
    low, high = np.array([0.6, 0.5, 0.0, -0.1]), np.array([1.4, 1.5, 2.2, 0.1])
    for order in itertools.permutations(range(4)):
        uniforms = RNG.random(8)
        uniforms[4:] = np.argsort(order) / 4  # the step with the smallest number comes first
        found = jitter(
            jnp.asarray(uniforms, jnp.float32), planes(PIXELS[:4, :4]), (0.4, 0.5, 1.2, 0.1)
        )
        expected = numpy_jitter(image, low + uniforms[:4] * (high - low), order)
        np.testing.assert_allclose(pixels_of(found), expected, atol=2e-5)


def test_steps_of_strength_zero_are_left_out_of_jitter():
    uniforms = jnp.asarray([0.1, 0.9, 0.2, 0.3, 0.5, 0.5, 0.5, 0.5])
    found = augment.color_jitter(uniforms, planes(PIXELS), (0.0, 0.4, 0.0, 0.0))
    image = PIXELS / 255
    np.testing.assert_allclose(pixels_of(found), blend(image, luma(image).mean(), 1.32), atol=1e-6)


def test_grayscale_puts_the_luma_into_every_channel():
    found = apply(make_config(grayscale_probability=1.0))[0]
    np.testing.assert_allclose(found, np.repeat(luma(PIXELS / 255), 3, axis=-1), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
@pytest.mark.parametrize(("size", "width"), [(8, 3), (32, 3), (60, 7)])
def test_blur_is_a_mirrored_gaussian_convolution(size, width, sigma):
    image = RNG.random((size, size))
    offsets = np.arange(width) - width // 2
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = np.pad(image, width // 2, mode="reflect")
    rows = sum(k * padded[i : i + size] for i, k in enumerate(kernel))
    expected = sum(k * rows[:, i : i + size] for i, k in enumerate(kernel))
    found = augment.gaussian_blur(jnp.asarray(image, jnp.float32)[None], sigma)
    np.testing.assert_allclose(found[0], expected, atol=2e-6)


def test_blur_leaves_a_constant_image_as_it_is():
    constant = jnp.full((3, 64, 64), 0.37)
    np.testing.assert_allclose(augment.gaussian_blur(constant, 1.7), constant, atol=1e-6)


def test_blur_draws_its_width_between_a_tenth_of_a_pixel_and_two():
    for number, sigma in ((0.0, 0.1), (0.5, 1.05), (1.0, 2.0)):
        np.testing.assert_allclose(
            augment.random_blur(jnp.asarray([number]), planes(PIXELS)),
            augment.gaussian_blur(planes(PIXELS), sigma),
            atol=1e-6,
        )


def test_with_everything_off_the_image_is_only_normalized():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    found = apply(make_config(mean=mean, std=std))
    np.testing.assert_allclose(found[0], (PIXELS / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_half_of_the_images_are_flipped():
    images = RNG.integers(0, 256, (400, 8, 8, 3), dtype=np.uint8)
    found = apply(make_config(image_size=8, flip=True), images)
    flipped = np.isclose(found, images[:, :, ::-1] / 255, atol=1e-6).all(axis=(1, 2, 3))
    untouched = np.isclose(found, images / 255, atol=1e-6).all(axis=(1, 2, 3))
    assert (flipped ^ untouched).all()
    assert 150 < flipped.sum() < 250  # five standard deviations


@pytest.mark.parametrize(
    "stage",
    [
        {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_probability": 0.3},
        {"grayscale_probability": 0.3},
        {"blur_probability": 0.3},
    ],
)
def test_a_stage_touches_its_share_of_the_images(stage):
    images = RNG.integers(0, 256, (400, 8, 8, 3), dtype=np.uint8)
    found = apply(make_config(image_size=8, **stage), images)
    touched = ~np.isclose(found, images / 255, atol=1e-6).all(axis=(1, 2, 3))
    assert 74 < touched.sum() < 166  # five standard deviations


def test_images_of_one_channel_have_no_colour_to_change():
    images = RNG.integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    config = make_config(image_size=8, channels=1, mean=(0.0,), std=(1.0,))
    config.update(jitter=(0.0, 0.0, 0.4, 0.5), grayscale_probability=1.0)
    np.testing.assert_allclose(apply(config, images), images / 255, atol=1e-6)

    config.update(jitter=(0.0, 0.4, 0.0, 0.0), jitter_probability=1.0)
    found, image = apply(config, images), images / 255
    mean = image.mean(axis=(1, 2), keepdims=True)
    factor = np.median((found - mean) / (image - mean), axis=(1, 2, 3), keepdims=True)
    assert factor.min() >= 0.6 and factor.max() <= 1.4 and factor.std() > 0.1
    np.testing.assert_allclose(found, np.clip(mean + factor * (image - mean), 0, 1), atol=1e-5)


@pytest.fixture(scope="module")
def scl():
    config = config_lib.default()
    config.update(**SCL, dataset="cifar10", image_size=24, load_size=32)
    images = RNG.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    return jax.jit(augment.make_augment(config)), images


def test_augmentation_is_a_function_of_its_key(scl):
    augmented, images = scl
    first = np.asarray(augmented(jax.random.key(3), images))
    assert first.shape == (16, 24, 24, 3) and first.dtype == np.float32
    np.testing.assert_array_equal(first, augmented(jax.random.key(3), images))
    other = np.asarray(augmented(jax.random.key(4), images))
    assert (np.abs(first - other).max(axis=(1, 2, 3)) > 0.01).all()


def test_equal_images_of_a_batch_are_augmented_differently(scl):
    augmented, images = scl
    found = np.asarray(augmented(jax.random.key(3), np.repeat(images[:1], 16, axis=0)))
    pairs = itertools.combinations(found, 2)
    assert all(np.abs(one - other).max() > 0.01 for one, other in pairs)


def test_an_augmented_image_does_not_depend_on_the_others_of_its_batch(scl):
    augmented, images = scl
    mixed = np.roll(images, 1, axis=0)
    mixed[5] = images[5]
    np.testing.assert_allclose(
        augmented(jax.random.key(3), mixed)[5],
        augmented(jax.random.key(3), images)[5],
        atol=1e-5,
    )


def test_eight_devices_augment_a_batch_as_one_does(scl):
    augmented, images = scl
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    split = augmented(jax.random.key(3), jax.device_put(images, sharding))
    assert split.sharding.is_equivalent_to(sharding, 4)
    np.testing.assert_allclose(split, augmented(jax.random.key(3), images), atol=1e-5)


@pytest.mark.parametrize("size", [32, 31, 20])
def test_preprocessing_cuts_out_the_centre_and_normalizes(size):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    config = make_config(image_size=size, load_size=32, mean=mean, std=std)
    top = round((32 - size) / 2)
    expected = (PIXELS[top : top + size, top : top + size] / 255 - mean) / std
    for images in (augment.make_preprocess(config)(PIXELS[None]), apply(config)):
        np.testing.assert_allclose(images[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "images",
    [PIXELS[None] / 255, PIXELS, PIXELS[None, :, :, :1], PIXELS[None, :20]],
)
def test_images_of_another_type_or_shape_are_refused(images):
    config = make_config()
    with pytest.raises(ValueError, match="images must be"):
        augment.make_preprocess(config)(jnp.asarray(images))
    with pytest.raises(ValueError, match="images must be"):
        augment.make_augment(config)(jax.random.key(0), jnp.asarray(images))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_contact_sheet_is_a_picture_of_images_and_their_views(tmp_path, monkeypatch, channels):
    images = RNG.integers(0, 256, (9, 8, 8, channels), dtype=np.uint8)
    source = arrays.ArraySource(images, np.arange(9) % 3, ["ant", "bee", "cat"])
    monkeypatch.setattr(load_lib, "load_splits", lambda config: source_lib.Splits(source, source))
    config = make_config(image_size=8, channels=channels, mean=(), std=(), flip=True)
    contact_sheet.contact_sheet(config, tmp_path / "sheet.png", rows=2, columns=3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > sheet.height > 100
        assert len(sheet.convert("L").getcolors()) > 50
    for out in (tmp_path / "nowhere" / "sheet.png", tmp_path / "sheet.xyz"):
        with pytest.raises(UserError, match="cannot write"):
            contact_sheet.contact_sheet(config, out, rows=2, columns=3)
