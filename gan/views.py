"""What a penalty sees of its player's update: closures and plain arrays."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax import Array

from gan.estimators import Critic, Exact, FiniteDifference

ABSENT: Any = None
"""Stands for an array that was not given. A penalty that uses the field needs it."""


class DiscriminatorView(NamedTuple):
    """The inputs of a penalty on the discriminator. A direct call needs only the fields that the penalty uses."""

    critic: Critic
    """Images to logits, with the augmentation and the random draws of the real images in this update."""
    real: Array
    """Real images [B, H, W, C], before any augmentation."""
    fake: Array
    """Generated images [B, H, W, C], before any augmentation."""
    fake_critic: Critic | None = None
    """As `critic`, with the random draws of the generated images; None: `critic`."""
    keys: Array = ABSENT
    """One PRNG key for each example, [B]."""
    label: Array = ABSENT
    real_logits: Array = ABSENT
    fake_logits: Array = ABSENT
    real_class_logits: Array = ABSENT
    """Logits of the classes [B, K], from a discriminator that also classifies."""
    fake_class_logits: Array = ABSENT
    latent: Array = ABSENT
    """The latents of the generated images, [B, Z]."""
    generate: Callable[[Array], Array] = ABSENT
    """Latents [B, Z] to images [B, H, W, C]."""
    running_stats: Mapping[str, Any] = {}
    """Running means by penalty and quantity: `running_stats[penalty][stat_name]`."""
    estimator: Exact | FiniteDifference = Exact()
    """How `r1` and `r2` compute |grad D|^2."""

    def fake_critic_or_critic(self, *images_and_rows: Any) -> Array:
        """The critic with the draws of the generated images."""
        return (self.fake_critic or self.critic)(*images_and_rows)


class Path(NamedTuple):
    """A function that makes images, for the path length penalty, and the point where its gradient is taken."""

    images: Callable[[Array], Array]
    """[N, Z] or [N, L, W] to images [N, H, W, C]."""
    start: Array
    keys: Array
    """One PRNG key for each image, [N]."""


class GeneratorView(NamedTuple):
    """The inputs of a penalty on the generator."""

    generate: Callable[[Array], Array]
    """Latents [B, Z] to images [B, H, W, C]."""
    latent: Array
    fake: Array
    """The generated images of `latent`."""
    keys: Array = ABSENT
    params: Any = ABSENT
    label: Array = ABSENT
    fake_class_logits: Array = ABSENT
    running_stats: Mapping[str, Any] = {}
    path: Path | None = None
    """The images as a function of an offset of the styles of G's layers; None: as a function of the latents."""
