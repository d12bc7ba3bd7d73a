"""Augmentation on the device, inside the compiled step.

Random resized crop, horizontal flip, color jitter, grayscale, Gaussian blur, normalization: the
stages of SimCLR and SupCon in torchvision's order and with its distributions, on float values in
0..1 that are never rounded to 8 bits in between. A stage that is off costs nothing. Saturation, hue
and grayscale do not change images of one channel.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hsproto import config as config_lib
from hsproto.data import source as source_lib

_LUMA = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as Pillow and torchvision


def make_augment(config: Any) -> Callable[..., jax.Array]:
    """Return the training augmentation of `config`: f(keys, images uint8 [B, H, W, C], view=0).

    The function returns float32 [B, S, S, C] with S = config.image_size, normalized. Every image
    has a key of its own: `keys` [B], or one to split them from. For two views call it twice, with
    different keys. Where `crop_on` is host, images are [B, V, S, S, C] with crops made on the host,
    of which those of `view` are taken unchanged. Features, float32 [B, 1, 1, D], are normalized.
    """
    if config.source == "features":
        normalize_rows = _make_normalize(config)
        return lambda keys, images, view=0: normalize_rows(images)
    stages = _stages(config)
    ends = np.cumsum([count for count, _ in stages])
    normalize = _make_normalize(config)

    def augment_one(key, image):
        # One draw for all stages: each draw costs half a second of compilation on a CPU.
        numbers = jnp.split(jax.random.uniform(key, (ends[-1],)), ends[:-1])
        # Planes of contiguous pixels are what CPUs vectorise.
        image = jnp.moveaxis(image, -1, 0)
        for (_, stage), uniforms in zip(stages, numbers, strict=True):
            image = stage(uniforms, image)
        return normalize(jnp.moveaxis(image, 0, -1))

    def augment(keys, images, view=0):
        if config.crop_on == "host":
            images = images[:, view]
        _check(images, config)
        keys = keys if keys.ndim else jax.random.split(keys, images.shape[0])
        return jax.vmap(augment_one)(keys, images)

    return augment


def make_preprocess(config: Any) -> Callable[[jax.Array], jax.Array]:
    """Return the preprocessing of evaluation: f(images uint8 [B, H, W, C]) -> float32 [B, S, S, C].

    It takes the center square of side S = config.image_size, normalized. Features, float32
    [B, 1, 1, D], are only normalized.
    """
    normalize = _make_normalize(config)
    if config.source == "features":
        return normalize
    size = config.image_size

    def preprocess(images):
        _check(images, config)
        top, left = _center_corner(images.shape[1:3], size)
        return normalize(_unit_range(images[:, top : top + size, left : left + size]))

    return preprocess


def _stages(config):
    """Return [(n, stage)] of the stages that are on: stage(n uniform numbers, image) -> image.

    Images are [C, H, W] in 0..1 here, except for the first stage, which cuts uint8: of what it
    leaves out no float32 copy is made, unless resizing reads it.
    """
    size, scale, ratio = config.image_size, tuple(config.crop_scale), tuple(config.crop_ratio)
    cubic = config.interpolation == "bicubic"
    has_color = config.channels == 3
    strengths = tuple(config.jitter) if has_color else (*config.jitter[:2], 0.0, 0.0)
    if config.crop_on == "host" or not config_lib.has_random_crop(config):
        stages = [(0, lambda uniforms, image: _unit_range(_center_crop(image, size)))]
    else:

        def crop(uniforms, image):
            return random_crop(uniforms, _unit_range(image), size, scale, ratio, cubic)

        stages = [(22, crop)]
    if config.flip:
        stages.append(_maybe(0.5, 0, lambda uniforms, image: image[:, :, ::-1]))
    if any(strengths):
        jitter = functools.partial(color_jitter, strengths=strengths)
        stages.append(_maybe(config.jitter_probability, 8, jitter))
    if has_color:
        stages.append(_maybe(config.grayscale_probability, 0, _grayscale))
    stages.append(_maybe(config.blur_probability, 1, random_blur))
    return [stage for stage in stages if stage]


def _grayscale(uniforms, image):
    return jnp.broadcast_to(luma(image), image.shape)


def _maybe(probability, count, stage):
    """Return a stage that is applied with a probability; None where that is zero."""

    def applied(uniforms, image):
        return jnp.where(uniforms[0] < probability, stage(uniforms[1:], image), image)

    return (count + 1, applied) if probability else None


def _check(images, config):
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise ValueError(f"images must be uint8 [B, H, W, C]; got {images.dtype}{images.shape}")
    if min(images.shape[1:3]) < config.image_size or images.shape[3] != config.channels:
        raise ValueError(
            f"images must be at least {config.image_size} px with {config.channels} channels "
            f"(config keys image_size, channels); got shape {images.shape}"
        )


def _unit_range(images):
    return images.astype(jnp.float32) / 255


def _make_normalize(config):
    mean, std = (np.asarray(values, np.float32) for values in source_lib.normalization(config))

    def normalize(image):
        channels = (1,) * (image.ndim - 1) + (-1,)
        return (image - mean.reshape(channels)) / std.reshape(channels)

    return normalize


def _center_corner(shape, size):
    return [round((side - size) / 2) for side in shape]


def _center_crop(image, size):
    top, left = _center_corner(image.shape[1:], size)
    return image[:, top : top + size, left : left + size]


def random_crop(
    uniforms: jax.Array,
    image: jax.Array,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    cubic: bool = False,
) -> jax.Array:
    """Resize a random box of an image [C, H, W] to [C, size, size]."""
    return crop_and_resize(image, crop_box(uniforms, image.shape[1:], scale, ratio), size, cubic)


def crop_box(
    uniforms: jax.Array,
    shape: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return a random box (top, left, height, width), int32, as torchvision's RandomResizedCrop.

    The area is uniform in `scale` times the image's, the aspect ratio width/height log-uniform in
    `ratio`, the sides rounded to whole pixels; the first of ten tries that fits in the image
    counts, else the largest centered box whose ratio is in range. `uniforms` are 22 numbers in
    0..1.
    """
    height, width = shape
    tries, places = uniforms[:20].reshape(2, 10), uniforms[20:]
    area = height * width * (scale[0] + tries[0] * (scale[1] - scale[0]))
    aspect = ratio[0] * (ratio[1] / ratio[0]) ** tries[1]
    widths = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = jnp.argmax(fits)
    any_fits = fits[first]
    box_height = jnp.where(any_fits, heights[first], min(height, max(1, round(width / ratio[0]))))
    box_width = jnp.where(any_fits, widths[first], min(width, max(1, round(height * ratio[1]))))
    room = jnp.stack([height - box_height, width - box_width])
    corner = jnp.minimum((places * (room + 1)).astype(jnp.int32), room)
    top, left = jnp.where(any_fits, corner, room // 2)
    return top, left, box_height, box_width


def crop_and_resize(
    image: jax.Array, box: Sequence[Any], size: int, cubic: bool = False
) -> jax.Array:
    """Resize the box (top, left, height, width) of an image [C, H, W] to [C, size, size].

    Bilinear or bicubic, with antialiasing where it shrinks: what Pillow and torchvision give for a
    crop followed by a resize, values beyond 0..1 cut off. The box may be traced: resizing is a
    matrix product on either side.
    """
    top, left, height, width = box
    kernel = _cubic if cubic else _triangle
    rows = _resize_weights(top, height, image.shape[1], size, kernel)
    columns = _resize_weights(left, width, image.shape[2], size, kernel)
    resized = _separable(rows, columns, image)
    return jnp.clip(resized, 0.0, 1.0) if cubic else resized


def _resize_weights(start, length, in_size, out_size, kernel):
    """[out_size, in_size]; row i holds the weights of the input pixels in output pixel i."""
    # jax.image.scale_and_translate would let pixels outside the box into its border.
    scale = length / out_size
    centers = start + (jnp.arange(out_size) + 0.5) * scale
    pixels = jnp.arange(in_size)[None, :]
    distance = jnp.abs(pixels + 0.5 - centers[:, None]) / jnp.maximum(scale, 1.0)
    inside = (pixels >= start) & (pixels < start + length)
    weights = jnp.where(inside, kernel(distance), 0.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _triangle(distance):
    return jnp.maximum(0.0, 1.0 - distance)


def _cubic(distance):
    """Keys' kernel with a = -0.5, as Pillow."""
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return jnp.where(distance < 1.0, near, jnp.where(distance < 2.0, far, 0.0))


def _separable(rows, columns, image):
    across = jnp.einsum("pw,chw->chp", columns, image, precision=lax.Precision.HIGHEST)
    return jnp.einsum("oh,chp->cop", rows, across, precision=lax.Precision.HIGHEST)


def color_jitter(
    uniforms: jax.Array, image: jax.Array, strengths: tuple[float, float, float, float]
) -> jax.Array:
    """Change brightness, contrast, saturation and hue by random factors, in random order.

    `strengths` (b, c, s, h): factors uniform in max(0, 1-b)..1+b and so on, the hue turned by a
    share of the circle uniform in -h..h, as torchvision's ColorJitter. `uniforms` are 8 numbers.
    """
    low = np.asarray([*(max(0.0, 1.0 - s) for s in strengths[:3]), -strengths[3]], np.float32)
    high = np.asarray([*(1.0 + s for s in strengths[:3]), strengths[3]], np.float32)
    factors = low + uniforms[:4] * (high - low)
    adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    chosen = [i for i, strength in enumerate(strengths) if strength]
    branches = [
        lambda image, adjust=adjustments[i], factor=factors[i]: adjust(image, factor)
        for i in chosen
    ]
    order = jnp.argsort(uniforms[4 : 4 + len(chosen)])
    for turn in range(len(chosen)):
        image = lax.switch(order[turn], branches, image)
    return image


def luma(image: jax.Array) -> jax.Array:
    """Return the gray image [1, H, W] of an image [C, H, W]."""
    if image.shape[0] == 1:
        return image
    red, green, blue = (weight * plane for weight, plane in zip(_LUMA, image, strict=True))
    return (red + green + blue)[None]


def _blend(image, other, factor):
    return jnp.clip(factor * image + (1.0 - factor) * other, 0.0, 1.0)


def adjust_brightness(image: jax.Array, factor: jax.typing.ArrayLike) -> jax.Array:
    """Scale the brightness; a factor of 0 gives black, 1 the image itself."""
    return _blend(image, 0.0, factor)


def adjust_contrast(image: jax.Array, factor: jax.typing.ArrayLike) -> jax.Array:
    """Scale the contrast; a factor of 0 gives the image's mean luma, 1 the image itself."""
    return _blend(image, luma(jnp.mean(image, axis=(1, 2), keepdims=True)), factor)


def adjust_saturation(image: jax.Array, factor: jax.typing.ArrayLike) -> jax.Array:
    """Scale the saturation; a factor of 0 gives the gray image, 1 the image itself."""
    return _blend(image, luma(image), factor)


def adjust_hue(image: jax.Array, shift: jax.typing.ArrayLike) -> jax.Array:
    """Turn the hue (HSV) of an image [3, H, W] by `shift`, a share of the full circle."""
    red, green, blue = image
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    # The hue in sixths of the circle; any number will do for gray, which has chroma 0.
    safe = jnp.where(chroma > 0, chroma, 1.0)
    hue = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    # Each channel is a trapezoid of the hue, 120 degrees from the next. The remainder is written
    # out, and the channels are one array, because XLA vectorises neither `%` nor a stack on CPUs.
    angle = (hue + 6.0 * shift)[None] + jnp.asarray([5.0, 3.0, 1.0])[:, None, None]
    angle = angle - 6.0 * jnp.floor(angle / 6.0)
    return value[None] - chroma[None] * jnp.clip(jnp.minimum(angle, 4.0 - angle), 0.0, 1.0)


def random_blur(uniforms: jax.Array, image: jax.Array) -> jax.Array:
    """Blur with a standard deviation uniform in 0.1..2 pixels, as SimCLR."""
    return gaussian_blur(image, 0.1 + 1.9 * uniforms[0])


def gaussian_blur(image: jax.Array, sigma: jax.typing.ArrayLike) -> jax.Array:
    """Blur an image [C, H, W], which is mirrored beyond its border, as in torchvision.

    The width of the kernel is a tenth of the image's side, odd and at least 3.
    """
    return _separable(*(_blur_weights(side, sigma) for side in image.shape[1:]), image)


def _blur_weights(side, sigma):
    """[side, side]; row i holds the weights of the input pixels in output pixel i."""
    radius = max(1, side // 20)
    offsets = np.arange(-radius, radius + 1)
    kernel = jnp.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / jnp.sum(kernel)
    sources = np.abs(np.arange(side)[:, None] + offsets)
    sources = np.minimum(sources, 2 * (side - 1) - sources)
    rows = np.broadcast_to(np.arange(side)[:, None], sources.shape)
    return jnp.zeros((side, side)).at[rows, sources].add(kernel)
