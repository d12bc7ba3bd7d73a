"""ResNets and small convolutional networks."""

from typing import Any

import flax.linen as nn

from hsproto.models.layers import average_pool, batch_norm, conv, recomputed


class ResidualBlock(nn.Module):
    """torchvision's BasicBlock, or its Bottleneck with the stride on the 3x3 ("v1.5")."""

    kind: str
    channels: int
    stride: int
    dtype: Any
    bn_groups: int = 1

    @nn.compact
    def __call__(self, x, train):
        channels, stride = self.channels, self.stride
        if self.kind == "basic":
            layers = ((channels, 3, stride), (channels, 3, 1))
        else:
            layers = ((channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1))
        y = x
        for i, (width, size, step) in enumerate(layers, start=1):
            y = conv(width, size, step, self.dtype, f"conv{i}")(y)
            y = batch_norm(train, self.dtype, f"bn{i}", self.bn_groups)(y)
            if i < len(layers):
                y = nn.relu(y)
        if x.shape != y.shape:
            x = conv(y.shape[-1], 1, stride, self.dtype, "downsample_conv")(x)
            x = batch_norm(train, self.dtype, "downsample_bn", self.bn_groups)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet without its classifier; `width` channels in the first stage.

    Stem "imagenet": 7x7 convolution of stride 2 and 3x3 max-pooling of stride 2. Stem "cifar": 3x3
    convolution of stride 1, no max-pooling. Returns the spatial mean after the last ReLU, so that
    every entry is at least 0.
    """

    kind: str
    depths: tuple[int, ...]
    width: int
    stem: str
    dtype: Any
    bn_groups: int = 1
    remat: bool = False

    @nn.compact
    def __call__(self, images, train):
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(self.width, size, stride, self.dtype, "conv1")(images)
        x = nn.relu(batch_norm(train, self.dtype, "bn1", self.bn_groups)(x))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                channels = self.width * 2**stage
                name = f"layer{stage + 1}_{i}"
                block = ResidualBlock(
                    self.kind, channels, stride, self.dtype, self.bn_groups, name=name
                )
                x = recomputed(block, x, train) if self.remat and train else block(x, train)
        return average_pool(x)


class ConvNet(nn.Module):
    """Four 3x3 convolutions of `channels` with BatchNorm and ReLU, and the spatial mean.

    The second and the fourth have stride 2: 8x8 digits train at thousands of images/s on a CPU.
    """

    channels: tuple[int, ...]
    dtype: Any
    bn_groups: int = 1

    @nn.compact
    def __call__(self, images, train):
        x = images
        layers = zip(self.channels, (1, 2, 1, 2), strict=True)
        for i, (channels, stride) in enumerate(layers, start=1):
            x = conv(channels, 3, stride, self.dtype, f"conv{i}")(x)
            x = nn.relu(batch_norm(train, self.dtype, f"bn{i}", self.bn_groups)(x))
        return average_pool(x)
