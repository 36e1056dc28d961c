"""Training programs in PyTorch that are equivalent to our configs, as PyTorch users write and tune them.

Layers, sizes, initialization, losses, optimizer, batch and number of updates are the same, and so are the number of
parameters and the arithmetic. tests/test_benchmarks_torch.py copies our weights and compares the outputs of the
networks. A network is chosen by the name in the config. Images are [B, C, H, W] here.

The tuning of a program is its variant (variants.py). Its precision is the config's: with `compute_dtype` bfloat16 the
networks run under autocast; float32 is TF32 on a GPU, as it is by default in JAX.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import get_ema_multi_avg_fn

from experiments.benchmarks.torch import gat, modern, players, residual
from experiments.benchmarks.torch import variants as torch_variants
from experiments.benchmarks.torch.device import DEVICE, THREADS, allow_tf32, synchronize
from gan.config import specs
from gan.errors import UserError, lookup
from gan.estimators import GRADIENT_ESTIMATORS, Exact

WARM_UP = {"reduce_overhead": 4}
"""Steps before a variant is timed; 2 for others. CUDA graphs are recorded in the third step."""

GENERATORS = {
    "mlp": players.mlp_generator,
    "dcgan": players.dcgan_generator,
    "conv_gan": players.conv_gan_generator,
    "flag": players.flag_generator,
    "resnet": residual.resnet_generator,
    "sagan": residual.sagan_generator,
    "biggan": residual.biggan_generator,
    "r3gan": modern.r3gan_generator,
    "stylegan2": modern.stylegan2_generator,
    "gat": gat.Generator,
}
DISCRIMINATORS = {
    "mlp": players.mlp_discriminator,
    "dcgan": players.dcgan_discriminator,
    "conv_gan": players.conv_gan_discriminator,
    "flag": players.flag_discriminator,
    "resnet": residual.resnet_discriminator,
    "sagan": residual.sagan_discriminator,
    "biggan": residual.biggan_discriminator,
    "r3gan": modern.r3gan_discriminator,
    "stylegan2": modern.stylegan2_discriminator,
    "gat": gat.Discriminator,
}
ACTIVATIONS = {
    "tanh": (nn.Tanh, (-1.0, 1.0)),
    "sigmoid": (nn.Sigmoid, (0.0, 1.0)),
    "linear": (nn.Identity, (-1.0, 1.0)),
}
PRIORS = {
    "normal": lambda mean=0.0, sd=1.0: lambda *shape: torch.randn(shape, device=DEVICE).mul_(sd).add_(mean),
    "uniform": lambda low=-1.0, high=1.0: lambda *shape: torch.empty(shape, device=DEVICE).uniform_(low, high),
}


class Loss(NamedTuple):
    """The losses of D and G, functions of the logits of real and of generated images."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    compares: bool = False
    """Whether G's loss depends on real images, too."""


def _cross_entropy(real: float = 1.0, fake: float = 0.0) -> Loss:
    def against(logits: Tensor, label: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    return Loss(lambda r, f: against(r, real) + against(f, fake), lambda r, f: against(f, 1.0))


LOSSES: Mapping[str, Callable[..., Loss]] = {
    "non_saturating": lambda: _cross_entropy(),
    "label_smoothed": lambda real=0.9, fake=0.0: _cross_entropy(real, fake),
    "hinge": lambda: Loss(lambda r, f: F.relu(1.0 - r).mean() + F.relu(1.0 + f).mean(), lambda r, f: -f.mean()),
    "wasserstein": lambda: Loss(lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    "relativistic": lambda: Loss(
        lambda r, f: F.softplus(f - r).mean(), lambda r, f: F.softplus(r - f).mean(), compares=True
    ),
}
PENALTIES = ("r1", "r2", "wgan_gp", "ortho")
"""The penalties that are implemented here."""


def make_players(config: ConfigDict, image_shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    """Returns G, with its output activation, and D of a config, for images [C, H, W]."""
    activation, _ = lookup(ACTIVATIONS, config.output_activation, "config.output_activation")
    make_generator = lookup(GENERATORS, config.generator.network, "config.generator.network")
    make_discriminator = lookup(DISCRIMINATORS, config.discriminator.network, "config.discriminator.network")
    generator = make_generator(config.generator, config.latent.size, image_shape)
    discriminator = make_discriminator(config.discriminator, image_shape)
    for player, settings in ((generator, config.generator), (discriminator, config.discriminator)):
        if settings.spectral_norm:
            spectrally_normalize(player)
    return nn.Sequential(generator, activation()), discriminator


def spectrally_normalize(player: nn.Module) -> None:
    """Adds spectral normalization to all layers."""
    for layer in list(player.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            parametrizations.spectral_norm(layer)


def parameter_count(module: nn.Module) -> int:
    """The number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters())


class Program:
    """The training of a config on resident images uint8 [N, H, W, C], in one variant."""

    def __init__(self, config: ConfigDict, images: np.ndarray, variant: str):
        _check(config)
        words = torch_variants.words_of(variant)
        self._config, self._has_bfloat16 = config, config.compute_dtype == "bfloat16"
        self._threads = 1 if "one_thread" in words else THREADS
        self._layout = torch.channels_last if "channels_last" in words else torch.contiguous_format
        self._images = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous(memory_format=self._layout)
        self._images = self._images.to(DEVICE)
        _, (self._low, high) = ACTIVATIONS[config.output_activation]
        self._scale = (high - self._low) / 255.0
        made = make_players(config, self._images.shape[1:])
        self._generator, self._discriminator = (player.to(DEVICE, memory_format=self._layout) for player in made)
        self.parameters = parameter_count(self._generator), parameter_count(self._discriminator)
        self._generate, self._discriminate = self._generator, self._discriminator
        self._has_graphs = "reduce_overhead" in words
        if torch_variants.is_compiled(variant):
            how = {"mode": "reduce-overhead" if self._has_graphs else None, "dynamic": False, "fullgraph": True}
            self._generate, self._discriminate = (torch.compile(player, **how) for player in made)
        adam = {"foreach": "foreach" in words, "fused": "fused" in words}
        self._generator_optimizer = _adam(self._generator, config.generator, adam)
        self._discriminator_optimizer = _adam(self._discriminator, config.discriminator, adam)
        self._draw = specs.call(PRIORS, config.latent.prior, "config.latent.prior")
        self._loss = specs.call(LOSSES, config.loss, "config.loss")
        self._estimator = specs.call(GRADIENT_ESTIMATORS, config.gradient_estimator, "config.gradient_estimator")
        self._ema = [tensor.clone() for tensor in self._generator_tensors()]
        images_in_step = config.batch_size * config.discriminator_steps
        self._update_ema = (
            get_ema_multi_avg_fn(2.0 ** (-images_in_step / config.ema_halflife)) if config.ema_halflife else None
        )
        self._rows, self._position = torch.randperm(len(self._images), device=DEVICE), 0
        self._steps = 0

    def time_steps(self, steps: int) -> float:
        """Trains for a number of steps. Returns the seconds per step."""
        torch.set_num_threads(self._threads)
        synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            self._step()
        synchronize()
        return (time.perf_counter() - start) / steps

    @torch.no_grad()
    def samples(self, count: int, batch_size: int = 500) -> np.ndarray:
        """Generates images uint8 [count, H, W, C] with the current generator in evaluation mode."""
        self._generator.eval()
        parts = [
            self._generator(self._draw(batch_size, self._config.latent.size)) for _ in range(-(-count // batch_size))
        ]
        self._generator.train()
        pixels = torch.cat(parts)[:count].float().sub(self._low).div(self._scale)
        return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def _step(self) -> None:
        if self._has_graphs:  # the outputs of the last step may be overwritten now
            torch.compiler.cudagraph_mark_step_begin()
        shared = self._latents() if self._config.latent.share else None
        for update in range(1, self._config.discriminator_steps + 1):
            # With shared latents, the fakes of D's last update, with their graph, are those of G's first update.
            needs_graph = shared is not None and update == self._config.discriminator_steps
            with torch.set_grad_enabled(needs_graph):
                fake = self._fakes(shared)
            real = self._batch()
            self._update_discriminator(real, fake.detach())
        for update in range(self._config.generator_steps):
            self._update_generator(fake if shared is not None and update == 0 else self._fakes(shared), real)
        if self._update_ema is not None:
            self._update_ema(self._ema, self._generator_tensors(), None)
        self._steps += 1

    def _fakes(self, latent: Tensor | None) -> Tensor:
        with self._autocast():
            return self._generate(self._latents() if latent is None else latent)

    def _update_discriminator(self, real: Tensor, fake: Tensor) -> None:
        weights, is_exact = self._weights("discriminator"), isinstance(self._estimator, Exact)
        draws = self._draws(real), self._draws(fake)
        with self._normalized_once():
            with self._autocast():  # one around both casts D's weights once
                on_real = self._logits(real.requires_grad_(is_exact and weights["r1"] > 0), draws[0])
                on_fake = self._logits(fake.requires_grad_(is_exact and weights["r2"] > 0), draws[1])
            loss = self._loss.discriminator(on_real, on_fake)
            for name, image, logits, drawn in zip(("r1", "r2"), (real, fake), (on_real, on_fake), draws, strict=True):
                if weights[name]:
                    loss = loss + weights[name] * self._squared_gradient_norms(image, logits, drawn).mean()
            if weights["wgan_gp"]:
                share = torch.rand(len(real), 1, 1, 1, device=DEVICE)
                between = torch.lerp(fake, real, share).requires_grad_()
                norms = _squared_gradient_norms(between, self._logits(between)).sqrt()
                loss = loss + weights["wgan_gp"] * (norms - 1.0).square().mean()
        self._descend(loss, self._discriminator_optimizer, self._config.discriminator.clip_norm)

    def _update_generator(self, fake: Tensor, real: Tensor) -> None:
        self._discriminator.requires_grad_(False)  # the gradients of its parameters are not needed
        with self._normalized_once():
            on_fake = self._logits(fake, self._draws(fake))
            with torch.no_grad():  # ignored by a loss that does not compare
                on_real = self._logits(real, self._draws(real)) if self._loss.compares else on_fake
        loss = self._loss.generator(on_real, on_fake)
        if weight := self._weights("generator")["ortho"]:
            loss = loss + weight * sum(
                _orthogonal_penalty(kernel) for kernel in self._generator.parameters() if kernel.ndim > 1
            )
        self._descend(loss, self._generator_optimizer, self._config.generator.clip_norm)
        self._discriminator.requires_grad_(True)

    def _descend(self, loss: Tensor, optimizer: torch.optim.Adam, clip_norm: float) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip_norm:
            nn.utils.clip_grad_norm_([leaf for group in optimizer.param_groups for leaf in group["params"]], clip_norm)
        optimizer.step()

    def _squared_gradient_norms(self, image: Tensor, logits: Tensor, drawn: Sequence[Tensor]) -> Tensor:
        """|d logit / d image|^2 by the config's estimator: [B], or [B / every]."""
        if isinstance(self._estimator, Exact):
            return _squared_gradient_norms(image, logits)
        sigma, every = self._estimator.sigma, self._estimator.rows.every
        rows = image[::every]
        noisy = self._logits(rows + sigma * torch.randn_like(rows), [draw[::every] for draw in drawn])
        return ((noisy - logits[::every]) / sigma).square()

    def _weights(self, player: str) -> dict[str, float]:
        """The weights of the penalties in this step. A lazy penalty is scaled by its interval."""
        interval = self._config[player].penalty_interval
        return {name: (self._steps % interval == 0) * interval * self._config.penalties[name] for name in PENALTIES}

    def _logits(self, image: Tensor, drawn: Sequence[Tensor] = ()) -> Tensor:
        with self._autocast():
            return self._discriminate(image, *drawn).float()

    def _draws(self, image: Tensor) -> Sequence[Tensor]:
        """What D draws for a batch, apart from it, so that finite differences can use it twice: GAT's noise."""
        noise = self._discriminator.noise_of(image) if isinstance(self._discriminator, gat.Discriminator) else None
        return () if noise is None else (noise,)

    def _normalized_once(self) -> Any:
        """A context in which D's kernels are normalized once, as ours are in an update."""
        return parametrize.cached() if self._config.discriminator.spectral_norm else contextlib.nullcontext()

    def _batch(self) -> Tensor:
        """The next images of a shuffled epoch, in the range of the generator's output."""
        size = self._config.batch_size
        if self._position + size > len(self._rows):
            self._rows, self._position = torch.randperm(len(self._images), device=DEVICE), 0
        images = self._images[self._rows[self._position : self._position + size]]
        self._position += size
        images = images.to(torch.float32, memory_format=self._layout)
        return images.mul_(self._scale).add_(self._low)

    def _latents(self) -> Tensor:
        return self._draw(self._config.batch_size, self._config.latent.size)

    def _generator_tensors(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self._generator.state_dict().values() if tensor.is_floating_point()]

    def _autocast(self) -> Any:
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=self._has_bfloat16)


def prepare(
    config: ConfigDict, images: np.ndarray, variants: Sequence[str] = ()
) -> tuple[dict[str, Program], dict[str, str]]:
    """Builds and warms up the programs of a config. Returns {variant: program} and {variant: error message}.

    Without `variants`, all that apply to the config.
    """
    allow_tf32()
    # All compiled networks share one cache, which is searched at each call, so it is emptied first. A network that
    # silently falls back to eager mode would be timed under a wrong name.
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    programs, failed = {}, {}
    for variant in variants or torch_variants.variants_of(config, DEVICE.type):
        torch.manual_seed(config.seed)
        try:
            program = Program(config, images, variant)
            program.time_steps(max(WARM_UP.get(word, 2) for word in torch_variants.words_of(variant)))
        except UserError:
            raise
        except Exception as error:  # reported in the row of the variant
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            failed[variant] = f"{type(error).__name__}: {lines[0] if lines else ''}"
        else:
            programs[variant] = program
    return programs, failed


def _adam(player: nn.Module, settings: ConfigDict, how: dict[str, bool]) -> torch.optim.Adam:
    return torch.optim.Adam(
        player.parameters(), settings.learning_rate, (settings.beta1, settings.beta2), settings.epsilon, **how
    )


def _squared_gradient_norms(image: Tensor, logits: Tensor) -> Tensor:
    """|d logit / d image|^2 of each image, [B], with a graph."""
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    return gradient.float().square().sum((1, 2, 3))


def _orthogonal_penalty(kernel: Tensor) -> Tensor:
    """The sum of the squared products of different outputs' weights: BigGAN's orthogonal regularization."""
    matrix = kernel.flatten(1)
    products = matrix @ matrix.mT
    return products.square().sum() - products.diagonal().square().sum()


def _check(config: ConfigDict) -> None:
    """Raises `UserError` for fields of a config that are not implemented here."""
    unknown = [f"penalties.{name}" for name, weight in config.penalties.items() if weight and name not in PENALTIES]
    for name in ("generator", "discriminator"):
        settings = config[name]
        unknown += [f"{name}.optimizer"] if settings.optimizer != "adam" else []
        unknown += [
            f"{name}.{field}" for field in ("layer_norm", "style_mixing", "conv_clamp", "bfloat16_stages")
            if settings.get(field)
        ]  # fmt: skip
        unknown += [f"{name}.conditioning"] if settings.conditioning != "none" else []
    unknown += ["augment.policy"] if config.augment.policy != "none" else []
    if unknown:
        raise UserError(f"the PyTorch programs do not implement this config's {', '.join(unknown)}")
