"""The networks of the tutorials and of DCGAN in PyTorch, named as ours.

Images are [B, C, H, W] here.
"""

import math

from ml_collections import ConfigDict
from torch import Tensor, nn

from experiments.benchmarks.torch.layers import Enlarge, Same, initialized, rectifier


def _hidden(size: int, settings: ConfigDict) -> tuple[list[nn.Module], int]:
    layers = []
    for multiple in settings.layers:
        layers += [nn.Linear(size, settings.width * multiple), rectifier(settings.slope)]
        layers += [nn.Dropout(settings.dropout)] if settings.dropout else []
        size = settings.width * multiple
    return layers, size


def mlp_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/mlp.py: latents [B, Z] to images before their activation [B, C, H, W]."""
    layers, size = _hidden(latent_size, settings)
    layers += [nn.Linear(size, math.prod(image_shape)), nn.Unflatten(1, image_shape)]
    return initialized(nn.Sequential(*layers), settings.kernel_init)


def mlp_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/mlp.py: images [B, C, H, W] to logits [B]."""
    layers, size = _hidden(math.prod(image_shape), settings)
    return initialized(nn.Sequential(nn.Flatten(), *layers, nn.Linear(size, 1), nn.Flatten(0)), settings.kernel_init)


def _sizes(image_shape: tuple[int, int, int], depth: int) -> list[tuple[int, int]]:
    _, height, width = image_shape
    depth = depth or max(1, round(math.log2(min(height, width) / 4)))
    return [(math.ceil(height / 2**stage), math.ceil(width / 2**stage)) for stage in range(depth + 1)]


def dcgan_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/dcgan.py."""
    sizes = _sizes(image_shape, settings.depth)
    depth, is_normal = len(sizes) - 1, settings.batch_norm

    def normalized(features: int) -> list[nn.Module]:
        return [*([nn.BatchNorm2d(features)] if is_normal else []), rectifier(0.0)]

    features = settings.width * 2 ** (depth - 1)
    layers = [nn.Linear(latent_size, features * math.prod(sizes[depth]), bias=not is_normal)]
    layers += [nn.Unflatten(1, (features, *sizes[depth])), *normalized(features)]
    for stage in range(depth - 1, 0, -1):
        layers += [Enlarge(features, features // 2, 4, sizes[stage + 1], sizes[stage], bias=not is_normal)]
        features //= 2
        layers += normalized(features)
    layers += [Enlarge(features, image_shape[0], 4, sizes[1], sizes[0], bias=False)]
    return initialized(nn.Sequential(*layers), settings.kernel_init, scale_sd=0.02)


def dcgan_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/dcgan.py."""
    sizes = _sizes(image_shape, settings.depth)
    layers, channels = [], image_shape[0]
    for stage, size in enumerate(sizes[:-1]):
        features = settings.width * 2**stage
        layers += [Same(channels, features, 4, size, stride=2, bias=not settings.batch_norm)]
        layers += [nn.BatchNorm2d(features)] if stage and settings.batch_norm else []
        layers += [rectifier()]
        channels = features
    layers += [nn.Flatten(), nn.Linear(channels * math.prod(sizes[-1]), 1, bias=False), nn.Flatten(0)]
    return initialized(nn.Sequential(*layers), settings.kernel_init, scale_sd=0.02)


def conv_gan_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/conv_gan.py."""
    layers, channels, side = [nn.Unflatten(1, (latent_size // 4, 2, 2)), nn.ReLU()], latent_size // 4, 2
    for features, larger in ((4 * settings.width, 3), (2 * settings.width, 6), (settings.width, 12)):
        layers += [
            Enlarge(channels, features, 5, (side, side), (larger, larger)),
            nn.BatchNorm2d(features),
            rectifier(0.0),
        ]
        channels, side = features, larger
    layers += [Enlarge(channels, image_shape[0], 5, (side, side), image_shape[1:], padding="VALID")]
    return initialized(nn.Sequential(*layers), settings.kernel_init, bias=settings.bias)


def conv_gan_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/conv_gan.py."""
    layers, (channels, *size) = [], image_shape
    for features in (settings.width, 2 * settings.width):
        layers += [Same(channels, features, 5, size), rectifier(0.0), nn.AvgPool2d(2)]
        channels, size = features, [length // 2 for length in size]
    layers += [nn.Flatten(), nn.Linear(channels * math.prod(size), 4 * settings.width), rectifier(0.0)]
    layers += [nn.Linear(4 * settings.width, 1), nn.Flatten(0)]
    return initialized(nn.Sequential(*layers), settings.kernel_init, bias=settings.bias)


def flag_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/flag.py."""
    image_channels, height, width = image_shape
    channels, *others = settings.channels
    first = (channels, height // 4, width // 4)
    layers = [nn.Linear(latent_size, math.prod(first)), nn.BatchNorm1d(math.prod(first)), rectifier(0.0)]
    layers += [nn.Unflatten(1, first), nn.Upsample(scale_factor=4)]
    for features in others:
        layers += [nn.Dropout(settings.dropout), Same(channels, features, 3, (height, width))]
        layers += [nn.BatchNorm2d(features), rectifier(0.0)]
        channels = features
    layers += [nn.Dropout(settings.dropout), nn.Conv2d(channels, image_channels, 1)]
    return initialized(nn.Sequential(*layers), settings.kernel_init, dense=settings.dense_init)


class RealMinusFake(nn.Module):
    """Logits of the classes fake and real [B, 2] to the one whose sigmoid is the softmax's share of real, [B]."""

    def forward(self, logits: Tensor) -> Tensor:
        """The second less the first."""
        return logits[:, 1] - logits[:, 0]


def flag_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/flag.py."""
    layers, (channels, *size) = [], image_shape
    for features in settings.channels:
        layers += [Same(channels, features, 5, size), rectifier(0.0), nn.Dropout(settings.dropout)]
        channels = features
    layers += [nn.Flatten(), nn.Linear(channels * math.prod(size), settings.hidden), rectifier()]
    layers += [nn.Dropout(settings.dropout), nn.Linear(settings.hidden, 2), RealMinusFake()]
    return initialized(nn.Sequential(*layers), settings.kernel_init)
