"""Terms that a player minimizes in addition to its adversarial loss, per example. Closures and plain arrays in.

A penalty is `fn(view) -> [B]`, or fewer values where its estimator uses a part of the batch. The caller averages and
weights them. The view holds what the player computes in one update: `DiscriminatorView` or `GeneratorView`. For example
`r1(DiscriminatorView(critic, real, fake))`. A penalty has no factor 1/2 or gamma of its own: its docstring states the
weight in the paper.

The gradient of an example is computed as the gradient of the summed logits, which is correct only where a logit depends
on its own image only. So penalties marked `needs_input_gradient` need a player without batch statistics. The groups of
StyleGAN2's discriminator are an exception: as in the authors' R1, the gradient includes the effect of an image on the
logits of its group.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gan.estimators import Critic, fold, normal, squared_gradient, sum_of_squares
from gan.views import DiscriminatorView, GeneratorView, Path

DECAY = 0.99
"""The part of a running mean that is kept at each update of its player (LeCam and path length: both papers' value)."""
NEIGHBOR_SD = 0.03
"""Standard deviation of the distance to a neighboring latent (Zhao et al. 2021, arXiv:2002.04724, for CIFAR-10)."""
DRAGAN_SD = 0.25
"""Standard deviation of DRAGAN's noise: the authors' 0.5 std(x), for images in [-1, 1], whose std is near 0.5."""

ESTIMATED = ("r1", "r2")
"""The penalties whose |grad D|^2 is computed by `config.gradient_estimator`."""


def gradient_norm(critic: Critic, images: Array) -> Array:
    """|d critic(x) / d x| for each image x, [B]. Its derivative at zero is defined as zero, not NaN."""
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
    """max(0, |grad D(y)| - 1)^2 at the points of `wgan_gp`: one-sided, without a penalty below one.

    Reference: Petzka, Fischer and Lukovnikov 2018, arXiv:1709.08894, equation 8; their weights are 1 to 10.
    """
    return jnp.square(jax.nn.relu(gradient_norm(view.critic, _between(view)) - 1.0))


def dragan(view: DiscriminatorView) -> Array:
    """(|grad D(x + d)| - 1)^2 at real images with noise d ~ N(0, DRAGAN_SD^2); the authors' weight is 10.

    The standard deviation is constant, so that no example depends on others. The authors' code scales it by the batch's
    standard deviation.

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
    """The quantities whose running means LeCam uses: the logits, [B] each."""
    return {"real": view.real_logits, "fake": view.fake_logits}


def centering(view: DiscriminatorView) -> Array:
    """(D(x) + D(G(z)))^2 of each pair, which holds the mean of D's logits at 0; the authors' weight is 0.01.

    A relativistic loss is a function of D(x) - D(G(z)) alone, and leaves that mean free.

    Reference: Lin et al. 2025, Adversarial Flow Models, arXiv:2511.22475 (`cp_scale` in the authors' code).
    """
    return jnp.square(view.real_logits + view.fake_logits)


def bcr(view: DiscriminatorView) -> Array:
    """(D(x) - D(T(x)))^2 + (D(G(z)) - D(T(G(z))))^2, T a flip and a small shift; the authors' weight is 10.

    Reference: Zhao et al. 2021, Improved Consistency Regularization for GANs, arXiv:2002.04724, algorithm 1 (bCR).
    """
    augmented_real = flipped_and_shifted(view.real, fold(view.keys, "real"))
    augmented_fake = flipped_and_shifted(view.fake, fold(view.keys, "fake"))
    on_real = view.critic(view.real) - view.critic(augmented_real)
    on_fake = view.fake_critic_or_critic(view.fake) - view.fake_critic_or_critic(augmented_fake)
    return jnp.square(on_real) + jnp.square(on_fake)


def zcr_d(view: DiscriminatorView) -> Array:
    """(D(G(z)) - D(G(z + d)))^2, d ~ N(0, NEIGHBOR_SD^2); the authors' weight is 5.

    Reference: Zhao et al. 2021, arXiv:2002.04724, algorithm 2 (zCR, the discriminator's side).
    """
    return jnp.square(
        view.fake_critic_or_critic(view.fake) - view.fake_critic_or_critic(view.generate(_neighbor(view)))
    )


def ac_real(view: DiscriminatorView) -> Array:
    """-log p(label | x), the discriminator's classification of real images; the authors' weight is 1.

    Reference: Odena, Olah and Shlens 2017, arXiv:1610.09585, equation 3, first term.
    """
    return _cross_entropy(view.real_class_logits, view.label)


def ac_fake(view: DiscriminatorView) -> Array:
    """-log p(label | G(z)) in the discriminator's update; the authors' weight is 1; most later code has 0.

    Reference: Odena, Olah and Shlens 2017, arXiv:1610.09585, equation 3, second term.
    """
    return _cross_entropy(view.fake_class_logits, view.label)


def ac_gen(view: GeneratorView) -> Array:
    """-log p(label | G(z)) in the generator's update: the generated images are to be classified as their labels.

    Reference: Odena, Olah and Shlens 2017, arXiv:1610.09585, equation 3, second term.
    """
    return _cross_entropy(view.fake_class_logits, view.label)


def path_length(view: GeneratorView) -> Array:
    """(|J^T y| - a)^2, J the Jacobian of the image in its latent, y ~ N(0, 1 / (H W)), a the running mean of |J^T y|.

    The authors' weight is 2. Where a generator has styles, J is the Jacobian in the styles of its L layers, as
    independent inputs, and |J^T y|^2 is the mean over layers, as in the authors' code. Their running mean already
    contains the current batch, with weight 1/100, and is differentiated through it. The mean here does not.

    Reference: Karras et al. 2020, arXiv:1912.04958, equation 4.
    """
    return jnp.square(path_lengths(view)["length"] - view.running_stats["path_length"]["length"])


def path_lengths(view: GeneratorView) -> dict[str, Array]:
    """|J^T y| for each example, [B], whose running mean the path length penalty uses."""
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


def transport(view: GeneratorView) -> Array:
    """The mean over the image of (G(z) - z)^2, for latents of the image's shape; the authors' weight is 0.2 to 0.005.

    Of all maps from the latents to the same images, the one with the least mean is the optimal transport.

    Reference: Lin et al. 2025, Adversarial Flow Models, arXiv:2511.22475 (`ot_scale` in the authors' code).
    """
    displacement = view.fake.reshape(len(view.fake), -1) - view.latent
    return jnp.mean(jnp.square(displacement), axis=1)


def ortho(view: GeneratorView) -> Array:
    """Sum over kernels W [in, out] of |W^T W (1 - I)|^2, the same for every example; the authors' weight is 1e-4.

    Reference: Brock, Donahue and Simonyan 2019, arXiv:1809.11096, equation 3.
    """
    total: Array | float = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(view.params):
        if getattr(path[-1], "key", None) == "kernel":
            matrix = leaf.reshape(-1, leaf.shape[-1])
            products = matrix.T @ matrix
            total = total + jnp.sum(jnp.square(products * (1.0 - jnp.eye(len(products)))))
    return jnp.broadcast_to(jnp.asarray(total), view.fake.shape[:1])


class Penalty(NamedTuple):
    """An entry of PENALTIES."""

    player: str
    """The player that minimizes it: "discriminator" or "generator"."""
    fn: Callable[[Any], Array]
    """The player's view to a penalty per example: [B], or fewer with an estimator that uses a part of the rows."""
    needs_input_gradient: bool = False
    """Whether it differentiates by an example. Then no result of the player for an example may depend on others."""
    needs_class_logits: bool = False
    """Whether it needs a discriminator with class logits."""
    needs_image_latents: bool = False
    """Whether it needs latents with as many numbers as an image."""
    stats_fn: Callable[[Any], dict[str, Array]] | None = None
    """The player's view to the quantities, [B] each, whose running means are in `view.running_stats[name]`."""
    stat_names: tuple[str, ...] = ()
    """The names of those quantities."""


PENALTIES: dict[str, Penalty] = {
    "r1": Penalty("discriminator", r1, needs_input_gradient=True),
    "r2": Penalty("discriminator", r2, needs_input_gradient=True),
    "wgan_gp": Penalty("discriminator", wgan_gp, needs_input_gradient=True),
    "wgan_lp": Penalty("discriminator", wgan_lp, needs_input_gradient=True),
    "dragan": Penalty("discriminator", dragan, needs_input_gradient=True),
    "lecam": Penalty("discriminator", lecam, stats_fn=lecam_stats, stat_names=("real", "fake")),
    "centering": Penalty("discriminator", centering),
    "bcr": Penalty("discriminator", bcr),
    "zcr_d": Penalty("discriminator", zcr_d),
    "ac_real": Penalty("discriminator", ac_real, needs_class_logits=True),
    "ac_fake": Penalty("discriminator", ac_fake, needs_class_logits=True),
    "ac_gen": Penalty("generator", ac_gen, needs_class_logits=True),
    "path_length": Penalty(
        "generator", path_length, needs_input_gradient=True, stats_fn=path_lengths, stat_names=("length",)
    ),
    "zcr_g": Penalty("generator", zcr_g),
    "transport": Penalty("generator", transport, needs_image_latents=True),
    "ortho": Penalty("generator", ortho),
}


def initial_running_stats(names: tuple[str, ...]) -> dict[str, dict[str, Array]]:
    """The running means of these penalties before the first update: zeros, for the penalties that have any."""
    return {
        name: {stat: jnp.float32(0.0) for stat in PENALTIES[name].stat_names}
        for name in names
        if PENALTIES[name].stat_names
    }


def flipped_and_shifted(images: Array, keys: Array) -> Array:
    """Images [B, H, W, C], each mirrored with probability 1/2 and shifted by up to 1/8 of its sides, edges repeated."""

    def augment(image: Array, key: Array) -> Array:
        height, width, _ = image.shape
        limit = (height // 8, width // 8)
        flip_key, shift_key = jax.random.split(key)
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        padded = jnp.pad(image, ((limit[0], limit[0]), (limit[1], limit[1]), (0, 0)), mode="edge")
        top, left = jax.random.randint(shift_key, (2,), 0, 2 * jnp.array(limit) + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return jax.vmap(augment)(images, keys)


def _between(view: DiscriminatorView) -> Array:
    """Random points on the lines between pairs of a real and a generated image."""
    weight = jax.vmap(jax.random.uniform)(fold(view.keys, "between")).reshape(-1, *[1] * (view.real.ndim - 1))
    return weight * view.real + (1.0 - weight) * view.fake


def _neighbor(view: DiscriminatorView | GeneratorView) -> Array:
    """Latents near those of the generated images."""
    return view.latent + NEIGHBOR_SD * normal(view.keys, "neighbor", view.latent.shape[1:])


def _safe_sqrt(x: Array) -> Array:
    """sqrt(x) with a derivative of zero at zero."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def _cross_entropy(logits: Array, label: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=-1)[:, 0]
