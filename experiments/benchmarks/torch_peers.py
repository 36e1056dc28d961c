"""What would the same game be in PyTorch? Players and turns of our configs as PyTorch's users write and tune them.

Same layers, sizes, initialisation, losses, optimiser, batch and number of updates, so the same number of parameters and
the same arithmetic; tests/test_benchmarks.py carries our weights over and compares what the networks say. A player is
made for a config by its network's name; images are [B, C, H, W] here.

A variant is named by what is done to it: `eager`, or any of these with a plus between them:

  foreach, fused   Adam over all tensors at once, or in one kernel a tensor
  channels_last    images and kernels with their channels innermost
  compile          torch.compile of both networks
  one_thread       no threads beside this one, which small networks are quicker without (on a CPU only)
  bfloat16         autocast (on a GPU only)
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from experiments.benchmarks import timing
from gan import names
from gan.errors import UserError, lookup

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

THREADS = torch.get_num_threads()

VARIANTS = (
    "eager", "foreach", "fused", "fused+one_thread", "fused+channels_last", "fused+compile",
    "fused+channels_last+compile", "fused+bfloat16", "fused+channels_last+bfloat16",
    "fused+channels_last+compile+bfloat16",
)  # fmt: skip

WITHOUT_CONVOLUTIONS = ("mlp",)
"""Networks to which the order of an image's axes means nothing."""


def variants_of(config: ConfigDict) -> tuple[str, ...]:
    """The variants that say something of a config on this machine."""
    idle = {"bfloat16"} if DEVICE.type == "cpu" else {"one_thread"}
    if config.generator.network in WITHOUT_CONVOLUTIONS:
        idle |= {"channels_last"}
    return tuple(name for name in VARIANTS if not idle & set(name.split("+")))


class Same(nn.Conv2d):
    """A convolution whose output is the input's size over the stride, rounded up; the odd cell of padding is last."""

    def __init__(
        self, inputs: int, outputs: int, taps: int, size: Sequence[int], *, stride: int = 1, bias: bool = True
    ):
        (top, bottom), (left, right) = (_edges(length, taps, stride) for length in size)
        super().__init__(inputs, outputs, taps, stride, padding=(top, left), bias=bias)
        self._odd = (0, right - left, 0, bottom - top)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        return super().forward(F.pad(x, self._odd) if any(self._odd) else x)


class Enlarge(nn.ConvTranspose2d):
    """The transpose of `Same` from size `small` to `large`; or, with padding="VALID", of one without padding."""

    def __init__(
        self, inputs: int, outputs: int, taps: int, small: Sequence[int], large: Sequence[int], *,
        stride: int = 2, padding: str = "SAME", bias: bool = True
    ):  # fmt: skip
        before = [_edges(length, taps, stride)[0] if padding == "SAME" else 0 for length in large]
        made = [stride * (length - 1) + taps - 2 * edge for length, edge in zip(small, before, strict=True)]
        missing = [max(0, wanted - length) for wanted, length in zip(large, made, strict=True)]
        super().__init__(inputs, outputs, taps, stride, before, missing, bias=bias)
        self._size = tuple(large)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, *small] to [B, outputs, *large]."""
        x = super().forward(x)
        return x if x.shape[2:] == self._size else x[:, :, : self._size[0], : self._size[1]]


def _edges(length: int, taps: int, stride: int) -> tuple[int, int]:
    padding = max(stride * (math.ceil(length / stride) - 1) + taps - length, 0)
    return padding // 2, padding - padding // 2


def _truncated_normal(sd: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: nn.init.trunc_normal_(weight, std=sd, a=-2 * sd, b=2 * sd)


INITIALIZERS: Mapping[str, Callable[..., Callable[[Tensor], Tensor]]] = {
    "normal": lambda sd: lambda weight: nn.init.normal_(weight, std=sd),
    "truncated_normal": _truncated_normal,
    "xavier_uniform": lambda: nn.init.xavier_uniform_,
    "xavier_normal": lambda: nn.init.xavier_normal_,
    "fan_in_uniform": lambda: lambda weight: nn.init.kaiming_uniform_(weight, a=math.sqrt(5)),
    "he_normal": lambda: lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
}


def _initialized(
    module: nn.Module, kernel: str, *, dense: str = "", bias: float = 0.0, scale_sd: float = 0.0
) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            text = dense if dense and isinstance(layer, nn.Linear) else kernel
            names.call(INITIALIZERS, text, "kernel_init")(layer.weight)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, scale_sd)
    return module


def _rectifier(slope: float = 0.2) -> nn.Module:
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


def _hidden(size: int, settings: ConfigDict) -> tuple[list[nn.Module], int]:
    layers = []
    for multiple in settings.layers:
        layers += [nn.Linear(size, settings.width * multiple), _rectifier(settings.slope)]
        layers += [nn.Dropout(settings.dropout)] if settings.dropout else []
        size = settings.width * multiple
    return layers, size


def mlp_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/mlp.py: latents [B, Z] to images before their activation [B, C, H, W]."""
    layers, size = _hidden(latent_size, settings)
    layers += [nn.Linear(size, math.prod(image_shape)), nn.Unflatten(1, image_shape)]
    return _initialized(nn.Sequential(*layers), settings.kernel_init)


def mlp_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/mlp.py: images [B, C, H, W] to logits [B]."""
    layers, size = _hidden(math.prod(image_shape), settings)
    return _initialized(nn.Sequential(nn.Flatten(), *layers, nn.Linear(size, 1), nn.Flatten(0)), settings.kernel_init)


def _sizes(image_shape: tuple[int, int, int], depth: int) -> list[tuple[int, int]]:
    _, height, width = image_shape
    depth = depth or max(1, round(math.log2(min(height, width) / 4)))
    return [(math.ceil(height / 2**stage), math.ceil(width / 2**stage)) for stage in range(depth + 1)]


def dcgan_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/dcgan.py."""
    sizes = _sizes(image_shape, settings.depth)
    depth, is_normal = len(sizes) - 1, settings.batch_norm

    def normalized(maps: int) -> list[nn.Module]:
        return [*([nn.BatchNorm2d(maps)] if is_normal else []), _rectifier(0.0)]

    maps = settings.width * 2 ** (depth - 1)
    layers = [nn.Linear(latent_size, maps * math.prod(sizes[depth]), bias=not is_normal)]
    layers += [nn.Unflatten(1, (maps, *sizes[depth])), *normalized(maps)]
    for stage in range(depth - 1, 0, -1):
        layers += [Enlarge(maps, maps // 2, 4, sizes[stage + 1], sizes[stage], bias=not is_normal)]
        maps //= 2
        layers += normalized(maps)
    layers += [Enlarge(maps, image_shape[0], 4, sizes[1], sizes[0], bias=False)]
    return _initialized(nn.Sequential(*layers), settings.kernel_init, scale_sd=0.02)


def dcgan_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/dcgan.py."""
    sizes = _sizes(image_shape, settings.depth)
    layers, channels = [], image_shape[0]
    for stage, size in enumerate(sizes[:-1]):
        maps = settings.width * 2**stage
        layers += [Same(channels, maps, 4, size, stride=2, bias=not settings.batch_norm)]
        layers += [nn.BatchNorm2d(maps)] if stage and settings.batch_norm else []
        layers += [_rectifier()]
        channels = maps
    layers += [nn.Flatten(), nn.Linear(channels * math.prod(sizes[-1]), 1, bias=False), nn.Flatten(0)]
    return _initialized(nn.Sequential(*layers), settings.kernel_init, scale_sd=0.02)


def conv_gan_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/conv_gan.py."""
    layers, channels, side = [nn.Unflatten(1, (latent_size // 4, 2, 2)), nn.ReLU()], latent_size // 4, 2
    for maps, larger in ((4 * settings.width, 3), (2 * settings.width, 6), (settings.width, 12)):
        layers += [Enlarge(channels, maps, 5, (side, side), (larger, larger)), nn.BatchNorm2d(maps), _rectifier(0.0)]
        channels, side = maps, larger
    layers += [Enlarge(channels, image_shape[0], 5, (side, side), image_shape[1:], padding="VALID")]
    return _initialized(nn.Sequential(*layers), settings.kernel_init, bias=settings.bias)


def conv_gan_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/conv_gan.py."""
    layers, (channels, *size) = [], image_shape
    for maps in (settings.width, 2 * settings.width):
        layers += [Same(channels, maps, 5, size), _rectifier(0.0), nn.AvgPool2d(2)]
        channels, size = maps, [length // 2 for length in size]
    layers += [nn.Flatten(), nn.Linear(channels * math.prod(size), 4 * settings.width), _rectifier(0.0)]
    layers += [nn.Linear(4 * settings.width, 1), nn.Flatten(0)]
    return _initialized(nn.Sequential(*layers), settings.kernel_init, bias=settings.bias)


def flag_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/flag.py."""
    image_channels, height, width = image_shape
    channels, *others = settings.maps
    first = (channels, height // 4, width // 4)
    layers = [nn.Linear(latent_size, math.prod(first)), nn.BatchNorm1d(math.prod(first)), _rectifier(0.0)]
    layers += [nn.Unflatten(1, first), nn.Upsample(scale_factor=4)]
    for maps in others:
        layers += [nn.Dropout(settings.dropout), Same(channels, maps, 3, (height, width))]
        layers += [nn.BatchNorm2d(maps), _rectifier(0.0)]
        channels = maps
    layers += [nn.Dropout(settings.dropout), nn.Conv2d(channels, image_channels, 1)]
    return _initialized(nn.Sequential(*layers), settings.kernel_init, dense=settings.dense_init)


class RealMinusFake(nn.Module):
    """Logits of the classes fake and real [B, 2] to the one whose sigmoid is the softmax's share of real, [B]."""

    def forward(self, logits: Tensor) -> Tensor:
        """The second less the first."""
        return logits[:, 1] - logits[:, 0]


def flag_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/flag.py."""
    layers, (channels, *size) = [], image_shape
    for maps in settings.maps:
        layers += [Same(channels, maps, 5, size), _rectifier(0.0), nn.Dropout(settings.dropout)]
        channels = maps
    layers += [nn.Flatten(), nn.Linear(channels * math.prod(size), settings.hidden), _rectifier()]
    layers += [nn.Dropout(settings.dropout), nn.Linear(settings.hidden, 2), RealMinusFake()]
    return _initialized(nn.Sequential(*layers), settings.kernel_init)


GENERATORS = {"mlp": mlp_generator, "dcgan": dcgan_generator, "conv_gan": conv_gan_generator, "flag": flag_generator}
DISCRIMINATORS = {
    "mlp": mlp_discriminator,
    "dcgan": dcgan_discriminator,
    "conv_gan": conv_gan_discriminator,
    "flag": flag_discriminator,
}
ACTIVATIONS = {"tanh": (nn.Tanh, (-1.0, 1.0)), "sigmoid": (nn.Sigmoid, (0.0, 1.0))}
PRIORS = {
    "normal": lambda mean=0.0, sd=1.0: lambda *shape: torch.randn(shape, device=DEVICE).mul_(sd).add_(mean),
    "uniform": lambda low=-1.0, high=1.0: lambda *shape: torch.empty(shape, device=DEVICE).uniform_(low, high),
}
LABELS = {"non_saturating": lambda: (1.0, 0.0), "label_smoothed": lambda real=0.9, fake=0.0: (real, fake)}
"""Of the losses that have a peer, what D is taught of real and of generated images. G wants 1 in all of them."""


def players(config: ConfigDict, image_shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    """G, with its activation, and D of a config, for images [C, H, W]."""
    activation, _ = lookup(ACTIVATIONS, config.output, "config.output")
    make_generator = lookup(GENERATORS, config.generator.network, "config.generator.network")
    make_discriminator = lookup(DISCRIMINATORS, config.discriminator.network, "config.discriminator.network")
    generator = make_generator(config.generator, config.latent.size, image_shape)
    return nn.Sequential(generator, activation()), make_discriminator(config.discriminator, image_shape)


def parameter_count(module: nn.Module) -> int:
    """The number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters())


class Program:
    """The game of a config on resident images uint8 [N, H, W, C], in one variant. Raises what PyTorch cannot do."""

    def __init__(self, config: ConfigDict, images: np.ndarray, variant: str):
        _check(config)
        words = set(variant.split("+"))
        self._config, self._has_bfloat16 = config, "bfloat16" in words
        self._threads = 1 if "one_thread" in words else THREADS
        self._layout = torch.channels_last if "channels_last" in words else torch.contiguous_format
        self._images = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous(memory_format=self._layout)
        self._images = self._images.to(DEVICE)
        _, (self._low, high) = ACTIVATIONS[config.output]
        self._scale = (high - self._low) / 255.0
        made = players(config, self._images.shape[1:])
        self._generator, self._discriminator = (player.to(DEVICE, memory_format=self._layout) for player in made)
        self.parameters = parameter_count(self._generator), parameter_count(self._discriminator)
        self._generate, self._judge = self._generator, self._discriminator
        if "compile" in words:
            self._generate, self._judge = (torch.compile(player, dynamic=False, fullgraph=True) for player in made)
        adam = {"foreach": "foreach" in words, "fused": "fused" in words}
        self._generator_optimizer = _adam(self._generator, config.generator, adam)
        self._discriminator_optimizer = _adam(self._discriminator, config.discriminator, adam)
        self._draw = names.call(PRIORS, config.latent.prior, "config.latent.prior")
        labels = names.call(LABELS, config.loss, "config.loss")
        self._real, self._fake, self._one = (
            torch.full((config.batch_size,), label, device=DEVICE) for label in (*labels, 1.0)
        )
        self._average = [tensor.clone() for tensor in self._averaged()]
        shown = config.batch_size * config.discriminator_steps
        self._mix = get_ema_multi_avg_fn(2.0 ** (-shown / config.average_halflife)) if config.average_halflife else None
        self._rows, self._shown = torch.randperm(len(self._images), device=DEVICE), 0

    def play(self, turns: int) -> float:
        """Plays so many turns; the seconds that one took."""
        torch.set_num_threads(self._threads)
        _synchronize()
        begun = time.perf_counter()
        for _ in range(turns):
            self._turn()
        _synchronize()
        return (time.perf_counter() - begun) / turns

    @torch.no_grad()
    def samples(self, count: int, batch_size: int = 500) -> np.ndarray:
        """Images uint8 [count, H, W, C] of the last generator, in evaluation mode."""
        self._generator.eval()
        parts = [
            self._generator(self._draw(batch_size, self._config.latent.size)) for _ in range(-(-count // batch_size))
        ]
        self._generator.train()
        pixels = torch.cat(parts)[:count].float().sub(self._low).div(self._scale)
        return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def _turn(self) -> None:
        shared = self._latents() if self._config.latent.shared else None
        for update in range(1, self._config.discriminator_steps + 1):
            # Where latents are shared, the fakes of D's last update are those of G's first, drawn with their graph.
            is_kept = shared is not None and update == self._config.discriminator_steps
            with torch.set_grad_enabled(is_kept):
                fake = self._fakes(shared)
            self._update_discriminator(self._batch(), fake.detach())
        for update in range(self._config.generator_steps):
            self._update_generator(fake if shared is not None and update == 0 else self._fakes(shared))
        if self._mix is not None:
            self._mix(self._average, self._averaged(), None)

    def _fakes(self, latent: Tensor | None) -> Tensor:
        with self._autocast():
            return self._generate(self._latents() if latent is None else latent)

    def _update_discriminator(self, real: Tensor, fake: Tensor) -> None:
        weight = self._config.penalties.r1
        with self._autocast():
            on_real = self._judge(real.requires_grad_(weight > 0)).float()
            on_fake = self._judge(fake).float()
        loss = _cross_entropy(on_real, self._real) + _cross_entropy(on_fake, self._fake)
        if weight:
            (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
            loss = loss + weight * slope.float().square().sum((1, 2, 3)).mean()
        self._discriminator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._discriminator_optimizer.step()

    def _update_generator(self, fake: Tensor) -> None:
        self._discriminator.requires_grad_(False)  # its kernels' gradients, which nobody wants, are not computed
        with self._autocast():
            on_fake = self._judge(fake).float()
        loss = _cross_entropy(on_fake, self._one)
        self._generator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._generator_optimizer.step()
        self._discriminator.requires_grad_(True)

    def _batch(self) -> Tensor:
        """The next images of a shuffled epoch, in the game's range."""
        size = self._config.batch_size
        if self._shown + size > len(self._rows):
            self._rows, self._shown = torch.randperm(len(self._images), device=DEVICE), 0
        images = self._images[self._rows[self._shown : self._shown + size]]
        self._shown += size
        images = images.to(torch.float32, memory_format=self._layout)
        return images.mul_(self._scale).add_(self._low)

    def _latents(self) -> Tensor:
        return self._draw(self._config.batch_size, self._config.latent.size)

    def _averaged(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self._generator.state_dict().values() if tensor.is_floating_point()]

    def _autocast(self) -> Any:
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=self._has_bfloat16)


def prepare(
    config: ConfigDict, images: np.ndarray, variants: Sequence[str] = ()
) -> tuple[dict[str, Program], dict[str, str]]:
    """Programs of a config by variant, each played once; and of those that PyTorch refused, why.

    Without `variants` all that say something of the config.
    """
    if DEVICE.type == "cuda":  # TF32, as XLA has it by default
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    # All compiled networks share one list of programs, which is searched at each call: it starts empty. And one that
    # gave up and went on without a word would be timed under a wrong name.
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    programs, refused = {}, {}
    for variant in variants or variants_of(config):
        torch.manual_seed(config.seed)
        try:
            program = Program(config, images, variant)
            program.play(2)
        except UserError:
            raise
        except Exception as error:  # whatever a variant cannot do is told in its row of the table
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            refused[variant] = f"{type(error).__name__}: {lines[0] if lines else ''}"
        else:
            programs[variant] = program
    return programs, refused


def facts() -> dict[str, Any]:
    """What plays this side."""
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    return {"device": device, "torch": torch.__version__, "threads": THREADS}


def matrix_rate(size: int) -> float:
    """Operations a second of PyTorch's product of two float32 matrices [size, size]."""
    torch.set_num_threads(THREADS)
    left, right = torch.randn(2, size, size, device=DEVICE)

    def product() -> None:
        torch.mm(left, right)
        _synchronize()

    return timing.best_rate(product, 2 * size**3)


def _adam(player: nn.Module, settings: ConfigDict, how: dict[str, bool]) -> torch.optim.Adam:
    return torch.optim.Adam(
        player.parameters(), settings.learning_rate, (settings.beta1, settings.beta2), settings.epsilon, **how
    )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels)


def _check(config: ConfigDict) -> None:
    """Raises `UserError` for what a config may ask of us, and these programs do not do."""
    unknown = [f"penalties.{name}" for name, weight in config.penalties.items() if weight and name != "r1"]
    unknown += [f"{name}.optimizer" for name in ("generator", "discriminator") if config[name].optimizer != "adam"]
    unknown += ["augment.policy"] if config.augment.policy != "none" else []
    if unknown:
        raise UserError(f"the PyTorch programs have no peer of this config's {', '.join(unknown)}")


def _synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
