"""Terms that a player minimizes besides its adversarial loss, per example. A leaf: closures and plain arrays in.

A penalty is `measure(view) -> [B]`, or of a part of the examples, averaged and weighted by the caller. The view is
what its player sees in one update: `DiscriminatorView` or `GeneratorView`. Used alone:
`r1(DiscriminatorView(critic, real, fake))`. What stands here as a weight of one carries no 1/2 and no gamma: each
docstring says how its paper weights it.

An example's gradient is taken as that of the summed logits, which is right only where a logit depends on its own image
alone: rows marked `needs_input_gradient` need a player without batch statistics. The groups of StyleGAN2's
discriminator are let through: its authors take R1 so, what an image does to the logits of its group included.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gan.estimators import Critic, Exact, FiniteDifference, fold, normal, squared_gradient, sum_of_squares

DECAY = 0.99
"""How much of a running mean stays at each update of its player (LeCam and path length: both papers' value)."""
NEIGHBOR_SD = 0.03
"""Standard deviation of the step to a neighboring latent (Zhao et al. 2021, arXiv:2002.04724, for CIFAR-10)."""
DRAGAN_SD = 0.25
"""Standard deviation of DRAGAN's noise: the authors' 0.5 std(x), for images in [-1, 1], whose std is near 0.5."""


ESTIMATED = ("r1", "r2")
"""The penalties that take |grad D|^2 from the config's estimator."""


class DiscriminatorView(NamedTuple):
    """What a penalty on the discriminator may look at. A penalty alone asks for the fields that it uses, no others."""

    critic: Critic
    """Images, augmented as the real images were, to logits, with the same random draws."""
    real: Array
    """Real images [B, H, W, C], before any augmentation."""
    fake: Array
    """Generated images [B, H, W, C], before any augmentation."""
    fake_critic: Critic | None = None
    """As `critic`, with the random draws of the fake images; None: `critic`."""
    keys: Array | None = None
    """One PRNG key for each example, [B]."""
    label: Array | None = None
    real_logits: Array | None = None
    fake_logits: Array | None = None
    real_class_logits: Array | None = None
    """Logits of the classes [B, K], from a discriminator that also classifies."""
    fake_class_logits: Array | None = None
    latent: Array | None = None
    """The fakes' latents, [B, Z]."""
    generate: Callable[[Array], Array] | None = None
    """Latents [B, Z] to images [B, H, W, C]."""
    running_stats: Mapping[str, Any] = {}
    """Running means of what penalties observe, by the penalty's name."""
    estimator: Exact | FiniteDifference = Exact()
    """How `r1` and `r2` compute |grad D|^2."""

    def fake_critic_or_critic(self, *images_and_rows: Any) -> Array:
        """The critic with the draws of the fake images."""
        return (self.fake_critic or self.critic)(*images_and_rows)


class Path(NamedTuple):
    """A map to images whose slope path length measures, and where."""

    images: Callable[[Array], Array]
    """[N, Z] or [N, L, W] to images [N, H, W, C]."""
    start: Array
    keys: Array
    """One PRNG key for each image, [N]."""


class GeneratorView(NamedTuple):
    """What a penalty on the generator may look at."""

    generate: Callable[[Array], Array]
    """Latents [B, Z] to images [B, H, W, C]."""
    latent: Array
    fake: Array
    """The images of `latent`."""
    keys: Array | None = None
    params: Any = None
    label: Array | None = None
    fake_class_logits: Array | None = None
    running_stats: Mapping[str, Any] = {}
    path: Path | None = None
    """The images as a function of what is added to the styles of G's layers; None: of the latents."""


def gradient_norm(critic: Critic, images: Array) -> Array:
    """|d critic(x) / d x| for each image x; its own gradient at zero is taken to be zero, not NaN."""
    return _safe_sqrt(squared_gradient(critic, images))


def r1(view: DiscriminatorView) -> Array:
    """|grad D(x)|^2 at real images by `view.estimator`, without the 1/2: a paper's gamma is twice the weight here.

    Reference: Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, equation 9.
    """
    return view.estimator(view.critic, view.real, view.real_logits, view.keys, "r1")


def r2(view: DiscriminatorView) -> Array:
    """|grad D(G(z))|^2 at generated images by `view.estimator`, without the 1/2: a paper's gamma is twice the weight.

    Reference: Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, equation 10.
    """
    return view.estimator(view.fake_critic_or_critic, view.fake, view.fake_logits, view.keys, "r2")


def wgan_gp(view: DiscriminatorView) -> Array:
    """(|grad D(y)| - 1)^2 at y = e x + (1 - e) G(z), e ~ U(0, 1) for each pair; the authors' weight is 10.

    Reference: Gulrajani et al. 2017, arXiv:1704.00028, equation 3.
    """
    return jnp.square(gradient_norm(view.critic, _between(view)) - 1.0)


def wgan_lp(view: DiscriminatorView) -> Array:
    """max(0, |grad D(y)| - 1)^2 at the points of `wgan_gp`: one-sided, a slope below one is free.

    Reference: Petzka, Fischer and Lukovnikov 2018, arXiv:1709.08894, equation 8; their weights are 1 to 10.
    """
    return jnp.square(jax.nn.relu(gradient_norm(view.critic, _between(view)) - 1.0))


def dragan(view: DiscriminatorView) -> Array:
    """(|grad D(x + d)| - 1)^2 at real images with noise d ~ N(0, DRAGAN_SD^2); the authors' weight is 10.

    The noise is fixed, where the authors' code scales it by the batch's standard deviation: no example depends on
    its batch-mates here.

    Reference: Kodali et al. 2017, arXiv:1705.07215, equation 5.
    """
    noise = normal(view.keys, "noise", view.real.shape[1:])
    return jnp.square(gradient_norm(view.critic, view.real + DRAGAN_SD * noise) - 1.0)


def lecam(view: DiscriminatorView) -> Array:
    """(D(x) - m_fake)^2 + (D(G(z)) - m_real)^2, m the running means of D's logits; the authors' weight is 0.1 to 0.5.

    Reference: Tseng et al. 2021, arXiv:2104.03310, equation 5.
    """
    means = view.running_stats["lecam"]
    return jnp.square(view.real_logits - means["fake"]) + jnp.square(view.fake_logits - means["real"])


def lecam_stats(view: DiscriminatorView) -> dict[str, Array]:
    """What LeCam keeps running means of: the logits, [B] each."""
    return {"real": view.real_logits, "fake": view.fake_logits}


def bcr(view: DiscriminatorView) -> Array:
    """(D(x) - D(T(x)))^2 + (D(G(z)) - D(T(G(z))))^2, T a flip and a small shift; the authors' weight is 10.

    Reference: Zhao et al. 2021, Improved Consistency Regularization for GANs, arXiv:2002.04724, algorithm 1 (bCR).
    """
    moved_real = flipped_and_shifted(view.real, fold(view.keys, "real"))
    moved_fake = flipped_and_shifted(view.fake, fold(view.keys, "fake"))
    on_real = view.critic(view.real) - view.critic(moved_real)
    on_fake = view.fake_critic_or_critic(view.fake) - view.fake_critic_or_critic(moved_fake)
    return jnp.square(on_real) + jnp.square(on_fake)


def zcr_d(view: DiscriminatorView) -> Array:
    """(D(G(z)) - D(G(z + d)))^2, d ~ N(0, NEIGHBOR_SD^2); the authors' weight is 5.

    Reference: Zhao et al. 2021, arXiv:2002.04724, algorithm 2 (zCR, the discriminator's side).
    """
    return jnp.square(
        view.fake_critic_or_critic(view.fake) - view.fake_critic_or_critic(view.generate(_neighbor(view)))
    )


def ac_real(view: DiscriminatorView) -> Array:
    """-log p(label | x), the discriminator's own classification of real images; the authors' weight is 1.

    Reference: Odena, Olah and Shlens 2017, arXiv:1610.09585, equation 3, first term.
    """
    return _cross_entropy(view.real_class_logits, view.label)


def ac_fake(view: DiscriminatorView) -> Array:
    """-log p(label | G(z)) in the discriminator's update; the authors' weight is 1, most later codes' 0.

    Reference: Odena, Olah and Shlens 2017, arXiv:1610.09585, equation 3, second term.
    """
    return _cross_entropy(view.fake_class_logits, view.label)


def ac_gen(view: GeneratorView) -> Array:
    """-log p(label | G(z)) in the generator's update: it makes what the discriminator classifies rightly.

    Reference: Odena, Olah and Shlens 2017, arXiv:1610.09585, equation 3, second term.
    """
    return _cross_entropy(view.fake_class_logits, view.label)


def path_length(view: GeneratorView) -> Array:
    """(|J^T y| - a)^2, J the Jacobian of the image by its latent, y ~ N(0, 1 / (H W)), a the running mean of |J^T y|.

    The authors' weight is 2. Where a generator has styles, J is by those of its L layers, as if each had its own, and
    |J^T y|^2 is the mean over layers, as in the authors' code. Their mean has the batch at hand in it already, and lets
    a gradient through that hundredth.

    Reference: Karras et al. 2020, arXiv:1912.04958, equation 4.
    """
    return jnp.square(path_lengths(view)["length"] - view.running_stats["path_length"]["length"])


def path_lengths(view: GeneratorView) -> dict[str, Array]:
    """|J^T y| for each example, [B]: what the path length penalty keeps a running mean of."""
    path = view.path or Path(view.generate, view.latent, view.keys)
    image, vjp_fn = jax.vjp(path.images, path.start)
    noise = normal(path.keys, "path_length", image.shape[1:]) / (image.shape[1] * image.shape[2]) ** 0.5
    squares = jnp.sum(jnp.square(vjp_fn(noise)[0]), axis=-1)
    return {"length": _safe_sqrt(jnp.mean(squares.reshape(len(squares), -1), axis=1))}


def zcr_g(view: GeneratorView) -> Array:
    """-|G(z) - G(z + d)|^2, d ~ N(0, NEIGHBOR_SD^2), summed over pixels; the authors' weight is 0.5.

    Reference: Zhao et al. 2021, arXiv:2002.04724, algorithm 2 (zCR, the generator's side).
    """
    return -sum_of_squares(view.fake - view.generate(_neighbor(view)))


def ortho(view: GeneratorView) -> Array:
    """Sum over kernels W [in, out] of |W^T W (1 - I)|^2, the same for every example; the authors' weight is 1e-4.

    Reference: Brock, Donahue and Simonyan 2019, arXiv:1809.11096, equation 3.
    """
    total = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(view.params):
        if getattr(path[-1], "key", None) == "kernel":
            matrix = leaf.reshape(-1, leaf.shape[-1])
            products = matrix.T @ matrix
            total = total + jnp.sum(jnp.square(products * (1.0 - jnp.eye(len(products)))))
    return jnp.broadcast_to(jnp.asarray(total), view.fake.shape[:1])


class Penalty(NamedTuple):
    """A row of PENALTIES."""

    player: str
    """Who pays: "discriminator" or "generator"."""
    fn: Callable[[Any], Array]
    """The player's view to a penalty per example: [B], or fewer by an estimator that takes a part of the rows."""
    needs_input_gradient: bool = False
    """Whether it takes an example's gradient through the player, which must then not look at the whole batch."""
    needs_class_logits: bool = False
    """Whether it needs a discriminator that classifies."""
    stats_fn: Callable[[Any], dict[str, Array]] | None = None
    """The player's view to the quantities, [B] each, whose running means it is shown in `view.running_stats[name]`."""
    stat_names: tuple[str, ...] = ()
    """The names of those quantities."""


PENALTIES: Mapping[str, Penalty] = {
    "r1": Penalty("discriminator", r1, needs_input_gradient=True),
    "r2": Penalty("discriminator", r2, needs_input_gradient=True),
    "wgan_gp": Penalty("discriminator", wgan_gp, needs_input_gradient=True),
    "wgan_lp": Penalty("discriminator", wgan_lp, needs_input_gradient=True),
    "dragan": Penalty("discriminator", dragan, needs_input_gradient=True),
    "lecam": Penalty("discriminator", lecam, stats_fn=lecam_stats, stat_names=("real", "fake")),
    "bcr": Penalty("discriminator", bcr),
    "zcr_d": Penalty("discriminator", zcr_d),
    "ac_real": Penalty("discriminator", ac_real, needs_class_logits=True),
    "ac_fake": Penalty("discriminator", ac_fake, needs_class_logits=True),
    "ac_gen": Penalty("generator", ac_gen, needs_class_logits=True),
    "path_length": Penalty(
        "generator", path_length, needs_input_gradient=True, stats_fn=path_lengths, stat_names=("length",)
    ),
    "zcr_g": Penalty("generator", zcr_g),
    "ortho": Penalty("generator", ortho),
}


def initial_running_stats(names: tuple[str, ...]) -> dict[str, dict[str, Array]]:
    """The running means of these penalties before the first update: zeros, for those that have any."""
    return {
        name: dict.fromkeys(PENALTIES[name].stat_names, jnp.float32(0.0))
        for name in names
        if PENALTIES[name].stat_names
    }


def flipped_and_shifted(images: Array, keys: Array) -> Array:
    """Images [B, H, W, C], each mirrored with probability 1/2 and moved by up to 1/8 of its sides, edges repeated."""

    def moved(image: Array, key: Array) -> Array:
        height, width, _ = image.shape
        reach = (height // 8, width // 8)
        flip_key, shift_key = jax.random.split(key)
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        padded = jnp.pad(image, ((reach[0], reach[0]), (reach[1], reach[1]), (0, 0)), mode="edge")
        top, left = jax.random.randint(shift_key, (2,), 0, 2 * jnp.array(reach) + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return jax.vmap(moved)(images, keys)


def _between(view: DiscriminatorView) -> Array:
    share = jax.vmap(jax.random.uniform)(fold(view.keys, "between")).reshape(-1, *[1] * (view.real.ndim - 1))
    return share * view.real + (1.0 - share) * view.fake


def _neighbor(view: DiscriminatorView | GeneratorView) -> Array:
    return view.latent + NEIGHBOR_SD * normal(view.keys, "neighbor", view.latent.shape[1:])


def _safe_sqrt(x: Array) -> Array:
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def _cross_entropy(logits: Array, label: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=-1)[:, 0]
