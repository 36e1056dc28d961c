"""The rules of a two-player game, frozen and hashable: networks, loss, penalties, and how they are applied.

The state and the steps see a config only as a `Game`, which `gan.build` makes.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from gan.augment import AUGMENTS, Augment, by_level, identity
from gan.errors import UserError
from gan.estimators import Exact, FiniteDifference
from gan.losses import Loss
from gan.networks.layers import spectral
from gan.optimizers import Optimizer
from gan.rows import ALL, Rows


@dataclasses.dataclass(frozen=True)
class Normal:
    """Latents from N(mean, sd^2), independently in each of the `size` coordinates.

    A coordinate more than `bound` standard deviations from the mean is drawn again.
    """

    mean: float = 0.0
    sd: float = 1.0
    bound: float = math.inf

    def __call__(self, key: Array, size: int) -> Array:
        if self.bound == math.inf:
            return self.mean + self.sd * jax.random.normal(key, (size,))
        return self.mean + self.sd * jax.random.truncated_normal(key, -self.bound, self.bound, (size,))


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Latents from U(low, high), independently in each of the `size` coordinates."""

    low: float = -1.0
    high: float = 1.0

    def __call__(self, key: Array, size: int) -> Array:
        return jax.random.uniform(key, (size,), minval=self.low, maxval=self.high)


@dataclasses.dataclass(frozen=True)
class Output:
    """How the generator's last layer becomes an image: the activation, and the range that real images are put in."""

    activation: Callable[[Array], Array]
    image_range: tuple[float, float]


def unchanged(value: Any) -> Any:
    """The value itself."""
    return value


SPECTRAL_NORM = "spectral_norm"
"""The key in a player's batch statistics that holds the vectors of its spectral normalization."""
RNG_STREAMS = ("noise", "style_mixing")
"""The names, besides "dropout", by which modules draw random numbers in training (Flax's `make_rng`)."""
STYLES = "styles"
"""The name of the perturbation (Flax's `perturb`) of a generator's styles, [B, L, W] for L layers."""


class DiscriminatorOutput(NamedTuple):
    """A discriminator's output for images [B, H, W, C]."""

    logits: Array
    """float32 [B]; larger is more real."""
    class_logits: Any
    """float32 [B, K], logits of the classes from a discriminator that also classifies; None from others."""
    batch_stats: Any
    """The batch statistics after this pass."""


@dataclasses.dataclass(frozen=True)
class PlayerSpec:
    """One player: its network, its optimizer and its penalties."""

    module: nn.Module
    optimizer: Optimizer
    penalties: tuple[str, ...] = ()
    """Names in PENALTIES, each weighted by the number of that name in Hyperparams."""
    penalty_interval: int = 1
    """Lazy regularization: penalties are computed at every k-th step, multiplied by k."""
    spectral_norm: bool = False
    """Whether its kernels are divided by their largest singular values."""
    steps: int = 1
    """Updates in a train step."""
    frozen: tuple[str, ...] = ()
    """Names of the submodules of the module whose parameters are never updated."""
    scatter: Callable[[Any], Any] = unchanged
    """Applied to a gradient before the optimizer: with `config.shard_state` it keeps this device's part."""
    gather: Callable[[Any], Any] = unchanged
    """Applied to the parameters after the optimizer: with `config.shard_state` it gathers the whole."""


@dataclasses.dataclass(frozen=True)
class Game:
    """Both players, the loss, and how they are trained. It holds no arrays and no number that a schedule may change.

    The players are any Flax modules called as `generator(latent [B, Z], label [B], train)` to an image before its
    activation [B, H, W, C], and `discriminator(image [B, H, W, C], label [B], train)` to logits [B], or to logits [B]
    and logits of the classes [B, K].
    """

    generator: PlayerSpec
    discriminator: PlayerSpec
    loss: Loss
    prior: Normal | Uniform
    latent_size: int
    output: Output
    image_shape: tuple[int, int, int]
    num_classes: int = 0
    share_latents: bool = False
    """Whether all updates of a train step use the same latents, rather than new ones each."""
    microbatches: int = 1
    """The number of parts of a batch whose gradients are computed one after the other and averaged."""
    augment: Augment = AUGMENTS["none"]()
    """Applied to every image before the discriminator."""
    adaptive_augment: bool = False
    """Whether the augmentation's probability is adapted to the discriminator's overfitting (ADA), not scheduled."""
    clips_weights: bool = False
    """Whether the discriminator's parameters are clipped after each update."""
    selects_top: bool = False
    """Whether the generator is trained on the share of its images with the largest logits (top-k training)."""
    normalizes_gradient: bool = False
    """Whether the gradient of G's loss with respect to its images is divided by a running mean of its norm."""
    gradient_estimator: Exact | FiniteDifference = Exact()
    """How R1 and R2 compute |grad D|^2."""
    compute_dtype: str = "float32"
    """The type in which the networks compute. Parameters, statistics, logits, losses and gradients are float32."""

    @property
    def is_conditional(self) -> bool:
        """Whether the generator is conditional."""
        return stated(self.generator.module, "conditioning", "none") != "none"

    @property
    def discriminates_classes(self) -> bool:
        """Whether the discriminator is conditional."""
        return stated(self.discriminator.module, "conditioning", "none") != "none"

    @property
    def has_styles(self) -> bool:
        """Whether the generator has styles, to which offsets can be added."""
        return stated(self.generator.module, "styles", False)

    def latents(self, keys: Array) -> Array:
        """One latent for each key: keys [B] to latents [B, Z]."""
        return jax.vmap(self.prior, in_axes=(0, None))(keys, self.latent_size)

    def generate(
        self, variables: dict, latent: Array, label: Array, *, train: bool, key: Array | None = None,
        style_offsets: Array | None = None,
    ):  # fmt: skip
        """Images [B, H, W, C] in the game's range, in training of all levels, and the batch statistics after this pass.

        `style_offsets` are added to the generator's styles, if it has any: see `zero_style_offsets`.
        """
        image, batch_stats = _apply(
            self.generator, self.compute_dtype, variables, latent, label, train, key, style_offsets
        )
        return self.output.activation(image.astype(jnp.float32)), batch_stats

    def styles(self, variables: dict, latent: Array, label: Array) -> Array:
        """The styles [B, L, W] of a generator that `has_styles`, in evaluation mode, float32."""
        given, latent, _ = _prepared(self.generator, self.compute_dtype, variables, latent)
        return jnp.asarray(self.generator.module.apply(given, latent, label, method="mapping"), jnp.float32)

    def synthesize(self, variables: dict, styles: Array) -> Array:
        """Images [B, H, W, C] in the game's range from styles [B, L, W]: `generate` is `synthesize` of `styles`."""
        given, styles, _ = _prepared(self.generator, self.compute_dtype, variables, styles)
        image = self.generator.module.apply(given, styles, method="synthesis")
        return self.output.activation(jnp.asarray(image, jnp.float32))

    def zero_style_offsets(self, latent: Array, label: Array) -> Array | None:
        """Zeros [B, L, W] like the styles of a generator's L layers for these latents, or None where it has none."""

        def initial(latent: Array, label: Array) -> Mapping:
            return self.generator.module.init({"params": jax.random.key(0)}, latent, label, False)

        shapes = jax.eval_shape(initial, latent, label).get("perturbations", {})
        return jnp.zeros(shapes[STYLES].shape) if STYLES in shapes else None

    def discriminate(
        self, variables: dict, image: Array, label: Array, *, train: bool, key: Array | None = None, rows: Rows = ALL
    ) -> DiscriminatorOutput:
        """The discriminator's output for images [B, H, W, C].

        `rows` are the rows of the batch that the images are, and `key` is the key of the whole batch.
        """
        player = _with_rows(self.discriminator, rows)
        answer, batch_stats = _apply(player, self.compute_dtype, variables, image, label, train, key)
        logits, class_logits = answer if isinstance(answer, tuple) else (answer, None)
        if logits.shape != image.shape[:1]:
            raise ValueError(f"a discriminator returns logits {image.shape[:1]}, not {logits.shape}")
        logits, class_logits = _cast((logits, class_logits), "float32")
        return DiscriminatorOutput(logits, class_logits, batch_stats)

    def augmented(self, image: Array, keys: Array, p: Array) -> Array:
        """Augmented images [B, H, W, C], each with the random draws of its key, with probability p.

        All levels of an image [B, H, W, L C] (`levels` in `gan.networks`) have the same draws.
        """
        if self.augment.transform is identity:
            return image
        low, high = self.output.image_range
        half = (high - low) / 2
        augmented = by_level(self.augment.transform, (image - low) / half - 1.0, keys, p, self.image_shape[-1])
        return augmented * half + (half + low)

    def truncated(self, truncation: float) -> "Game":
        """The game with the truncation trick: samples of higher quality and less variety.

        For a generator with styles it is psi: w becomes mean + psi (w - mean) (Karras et al. 2019, arXiv:1812.04948,
        appendix B). For others a coordinate of the latent more than `truncation` standard deviations from its mean is
        drawn again (Brock et al. 2019, arXiv:1809.11096, section 3.1).

        psi may be 0, the mean style, or negative, styles on the other side of the mean. Raises `UserError` for a psi
        that is not finite, for another truncation that is not positive, and for a prior that is not normal.
        """
        if self.has_styles and not math.isfinite(truncation):
            raise UserError(f"truncation={truncation}; expected: a finite number, psi")
        if self.has_styles:
            module = self.generator.module.clone(truncation=truncation)
            return dataclasses.replace(self, generator=dataclasses.replace(self.generator, module=module))
        if not truncation > 0.0:
            raise UserError(f"truncation={truncation}; expected: a number above 0, for a network without styles")
        if not isinstance(self.prior, Normal):
            raise UserError(
                f"truncation={truncation} needs latents from a normal distribution, and this run's are from "
                f"{self.prior}; expected: config.latent.prior='normal' when it is trained"
            )
        return dataclasses.replace(self, prior=dataclasses.replace(self.prior, bound=truncation))

    def on_axis(self, axis_name: str | None) -> "Game":
        """The game whose batch statistics are computed over the devices of a mapped axis."""
        if axis_name is None:
            return self
        return dataclasses.replace(
            self, generator=_on_axis(self.generator, axis_name), discriminator=_on_axis(self.discriminator, axis_name)
        )

    def with_sharded_updates(self, scatter: Callable[[Any], Any], gather: Callable[[Any], Any]) -> "Game":
        """The game whose optimizers are sharded: each device updates its part of the parameters, by `scatter`.

        `gather` makes the updated parameters whole on every device.
        """
        players = {
            name: dataclasses.replace(getattr(self, name), scatter=scatter, gather=gather)
            for name in ("generator", "discriminator")
        }
        return dataclasses.replace(self, **players)


def stated(module: nn.Module, name: str, default: Any) -> Any:
    """The attribute `name` of a network's module (see `gan.networks`), or `default`."""
    return getattr(module, name, default)


def initial_variables(game: Game, generator_key: Array, discriminator_key: Array) -> tuple[dict, dict]:
    """Fresh variables, `{"params": ..., "batch_stats": ...}`, of the generator and of the discriminator."""
    latent = jnp.zeros((2, game.latent_size))
    label = jnp.zeros((2,), jnp.int32)
    image = jnp.zeros((2, *game.image_shape))
    return (
        _initial_variables(game.generator, generator_key, latent, label, normalizes_embeddings=False),
        _initial_variables(game.discriminator, discriminator_key, image, label, normalizes_embeddings=True),
    )


def parameter_count(params: Any) -> int:
    """The number of trainable scalars in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _initial_variables(
    player: PlayerSpec, key: Array, inputs: Array, label: Array, *, normalizes_embeddings: bool
) -> dict:
    variables = player.module.init({"params": key}, inputs, label, False)
    batch_stats = dict(variables.get("batch_stats", {}))
    if player.spectral_norm:
        batch_stats[SPECTRAL_NORM] = spectral.initial_vectors(
            variables["params"], key, embeddings=normalizes_embeddings
        )
    return {"params": variables["params"], "batch_stats": batch_stats}


def _apply(
    player: PlayerSpec, dtype: str, variables: dict, inputs: Array, label: Array, train: bool, key: Array | None,
    style_offsets: Array | None = None,
):  # fmt: skip
    """The output of a player's module, and its batch statistics after it, the vectors of spectral norm included."""
    rngs = {} if key is None else {"dropout": key} | {name: named_key(key, name) for name in RNG_STREAMS}
    given, inputs, kept = _prepared(player, dtype, variables, inputs)
    if style_offsets is not None:
        given["perturbations"] = {STYLES: style_offsets.astype(dtype)}
    if not train:
        return player.module.apply(given, inputs, label, False, rngs=rngs), variables["batch_stats"]
    outputs, updated = player.module.apply(given, inputs, label, True, rngs=rngs, mutable=["batch_stats"])
    return outputs, {**updated.get("batch_stats", {}), **kept}


def _prepared(player: PlayerSpec, dtype: str, variables: dict, inputs: Array) -> tuple[dict, Array, dict]:
    """What a player's module is applied with: its variables, its inputs, and what its spectral norm keeps.

    Layers compute in the type of their parameters and inputs; statistics stay float32.
    """
    params, batch_stats, kept = variables["params"], dict(variables["batch_stats"]), {}
    if player.spectral_norm:
        params, vectors = spectral.normalized(params, batch_stats.pop(SPECTRAL_NORM))
        kept = {SPECTRAL_NORM: vectors}
    params, inputs = _cast((params, inputs), dtype)
    return {"params": params, "batch_stats": batch_stats}, inputs, kept


def named_key(key: Array, name: str) -> Array:
    """The child of `key` for one use. A new use takes a new name and leaves all other draws as they were."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def _on_axis(player: PlayerSpec, axis_name: str) -> PlayerSpec:
    return _with_field(player, axis_name=axis_name)


def _with_rows(player: PlayerSpec, rows: Rows) -> PlayerSpec:
    return player if rows == ALL else _with_field(player, rows=rows)


def _with_field(player: PlayerSpec, **field: Any) -> PlayerSpec:
    """The player whose module has this field set, if it has such a field."""
    if not field.keys() <= player.module.__dataclass_fields__.keys():
        return player
    return dataclasses.replace(player, module=player.module.clone(**field))
