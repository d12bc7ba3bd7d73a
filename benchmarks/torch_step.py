"""A plain PyTorch training step of the same ResNets, for `throughput.py`."""

import contextlib

import torch
from torch import nn
from torch.nn import functional as F

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def convolution(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 with four times the channels at the end."""

    def __init__(self, inputs, channels, stride, bottleneck):
        super().__init__()
        outputs = channels * (4 if bottleneck else 1)
        plan = [(inputs, channels, 3, stride), (channels, channels, 3, 1)]
        if bottleneck:
            plan = [(inputs, channels, 1, 1), (channels, channels, 3, stride)]
            plan += [(channels, outputs, 1, 1)]
        layers = []
        for layer in plan:
            layers += [convolution(*layer), nn.BatchNorm2d(layer[1]), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


def resnet(name, width, stem):
    """Images [B, 3, H, W] -> pooled features [B, D]."""
    bottleneck = name == "resnet50"
    first = [convolution(3, width, *((7, 2) if stem == "imagenet" else (3, 1)))]
    first += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    first += [nn.MaxPool2d(3, 2, 1)] if stem == "imagenet" else []
    blocks, inputs = [], width
    for stage, depth in enumerate(DEPTHS[name]):
        for i in range(depth):
            channels = width * 2**stage
            blocks.append(Block(inputs, channels, 2 if stage and not i else 1, bottleneck))
            inputs = channels * (4 if bottleneck else 1)
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Classifier(nn.Module):
    """The mean NormFace loss of uint8 images [B, H, W, 3]: cross entropy of cosines over t."""

    def __init__(self, config, dims, bfloat16):
        super().__init__()
        self.backbone = resnet(config.backbone, config.width, config.stem)
        self.prototypes = nn.Parameter(torch.randn(config.num_classes, dims) * dims**-0.5)
        self.temperature, self.bfloat16 = config.temperature, bfloat16

    def forward(self, images, labels):
        images = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        kind, layout = images.device.type, torch.channels_last
        images = images.contiguous(
            memory_format=layout if self.bfloat16 else torch.contiguous_format
        )
        cast = torch.autocast(kind, torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()
        with cast:
            features = self.backbone(images)
        cosines = F.normalize(features.float()) @ F.normalize(self.prototypes).T
        return F.cross_entropy(cosines / self.temperature, labels)


def caller(config, dims, batch, steps, *, bfloat16, compiled):
    """(a call of `steps` training steps on one batch, the number of parameters).

    `bfloat16`: autocast and channels-last; otherwise float32 and torch's default layout.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Classifier(config, dims, bfloat16).to(device)
    if bfloat16:
        model = model.to(memory_format=torch.channels_last)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=config.momentum, weight_decay=config.weight_decay
    )
    loss_of = torch.compile(model) if compiled else model
    images, labels = (torch.tensor(x, device=device) for x in (batch["image"], batch["label"]))
    labels = labels.long()

    def call():
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(images, labels)
            loss.backward()
            optimizer.step()
        return loss.item()  # waits for the device

    return call, parameters
