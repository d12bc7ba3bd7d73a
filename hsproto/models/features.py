"""Layers on features that another network made."""

import flax.linen as nn

from hsproto.models.layers import linear


class FeatureLayers(nn.Module):
    """Features [B, 1, 1, D] through linear layers with ReLU; as they are without any."""

    hidden_layers: tuple[int, ...]

    @nn.compact
    def __call__(self, images, train):
        del train
        x = images.reshape(images.shape[0], -1)
        for i, width in enumerate(self.hidden_layers, start=1):
            x = nn.relu(linear(x, width, f"hidden{i}"))
        return x
