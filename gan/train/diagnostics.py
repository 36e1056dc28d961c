"""Detect common training failures and log a warning that names what is broken and what to change.

The bounds are far from what healthy runs show. In configs/toy.py, in configs/dcgan.py and configs/fast_mnist.py, and in
300 steps of small versions of MLP, DCGAN, R3GAN, SNGAN's and StyleGAN2's networks, the relative update of a logged
interval was 4e-5 to 0.02, and the norm of G's gradient 0.01 to 54.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

logger = logging.getLogger(__name__)

WINDOW = 5
"""The number of consecutive logged steps for which a condition must hold."""
CHANCE_WINDOW = 10
"""As WINDOW, for a discriminator at chance, as one may be at first."""
CHANCE = 1e-3
"""The distance of D(real) and D(fake) from 0.5 below which D tells nothing apart: logits of less than 0.004."""
FLAT = 1e-3
"""The norm of G's gradient below which such a D is flat. Where a game has converged D is at chance as well, but not
flat: 0.17 with configs/toy.py, against 1e-5 to 4e-5 with a spectrally normalized StyleGAN2."""
LARGE_UPDATE = 1.0
"""The relative update from which weights are replaced rather than adjusted. After such a step the weights are as large
as it was, and later updates are smaller again: one step is enough."""
NO_UPDATE = 1e-7
"""The relative update below which float32 weights hardly change: about half of its precision, 6e-8."""
VANISHED = 1e-6
"""The norm of a gradient from which nothing is learned, if the update is small as well (SMALL_UPDATE): an optimizer
such as Adam makes large updates of small gradients, but not of those below its epsilon."""
SMALL_UPDATE = 1e-5
SATURATED = 0.99
"""The share of black and white among the values of samples (0 and 255) at which the output is saturated."""

PLAYERS = {"discriminator": "D", "generator": "G"}


class Diagnostics:
    """Observes the logged metrics and samples. A warning is repeated only after its condition has ceased to hold."""

    def __init__(self, real_images: np.ndarray, *, clips_weights: bool = False):
        """Args:
        real_images: uint8 [N, H, W, C], a few dozen, from which the expected diversity is computed.
        clips_weights: whether D's weights are clipped, which keeps its logits small without making it fail.
        """
        self._real_diversity = diversity(real_images)
        self._real_extremes = extremes(real_images)
        self._clips_weights = clips_weights
        self._logged: deque[dict[str, float]] = deque(maxlen=CHANCE_WINDOW)
        self._active: set[str] = set()
        self._overshot: set[str] = set()
        self._was_diverse = False

    def observe_metrics(self, step: int, metrics: Mapping[str, np.ndarray | float]) -> None:
        """Checks the metrics [steps] of the steps since the last logged one up to `step`."""
        self._logged.append({name: float(np.mean(values)) for name, values in metrics.items()})
        for player, name in PLAYERS.items():
            self._check_update(step, player, name, float(np.max(metrics[f"{player}_relative_update"])))
        saturated = self._lasts(lambda entry: entry["discriminator_real"] > 0.99 and entry["discriminator_fake"] < 0.01)
        advice = "lower D's rate or add a penalty"
        if "G" in self._overshot:
            advice = "the images of a G with too high a learning rate are easy to tell; lower G's and start again"
        self._warn(
            "saturated", saturated, step,
            f"D is saturated (D(real) > 0.99, D(fake) < 0.01): G learns little. {advice}",
        )  # fmt: skip
        at_chance = not self._clips_weights and self._lasts(
            lambda entry: (
                entry["generator_gradient_norm"] < FLAT
                and all(abs(entry[f"discriminator_{kind}"] - 0.5) < CHANCE for kind in ("real", "fake"))
            ),
            CHANCE_WINDOW,
        )
        self._warn(
            "chance", at_chance, step,
            "D is at chance (D(real) and D(fake) are 0.500): it does not tell real from generated images, and G learns "
            "nothing. Check the scale of D's weights (initializer, spectral norm), its learning rate and its penalties",
        )  # fmt: skip
        losses = ("discriminator_loss", "generator_loss")
        frozen = len(self._logged) >= WINDOW and all(
            np.ptp([entry[name] for entry in list(self._logged)[-WINDOW:]]) < 1e-6 for name in losses
        )
        self._warn(
            "frozen", frozen, step,
            "both losses are constant: neither player learns. Check the learning rates and the gradient norms",
        )  # fmt: skip

    def observe_samples(self, step: int, images: np.ndarray) -> float:
        """Checks samples uint8 [N, H, W, C]; returns their `diversity` divided by that of the real images."""
        share = diversity(images) / max(self._real_diversity, 1e-9)
        # An untrained generator has no diversity either: it is a collapse only if there was diversity before.
        self._was_diverse = self._was_diverse or share > 0.5
        self._warn(
            "collapsed", self._was_diverse and share < 0.25, step,
            f"samples are nearly identical, {share:.0%} of the diversity of real images: G has collapsed",
        )  # fmt: skip
        saturated = extremes(images)
        self._warn(
            "saturated output", saturated > SATURATED > self._real_extremes, step,
            f"G's output is saturated: {saturated:.0%} of the values of samples are black or white, "
            f"{self._real_extremes:.0%} of those of real images. No gradient passes there: lower G's learning rate",
        )  # fmt: skip
        return share

    def _check_update(self, step: int, player: str, name: str, largest: float) -> None:
        """The size of a player's updates, of which the largest since the last logged step is given."""
        update, gradient = f"{player}_relative_update", f"{player}_gradient_norm"
        overshoots = largest > LARGE_UPDATE
        if overshoots:
            self._overshot.add(name)
        self._warn(
            f"{name} overshoots", overshoots, step,
            f"{name}'s update was {largest:.2g} times as large as its weights: its learning rate is too high. Lower "
            f"config.{player}.learning_rate and start again",
        )  # fmt: skip
        vanishes = self._lasts(lambda entry: entry[gradient] < VANISHED and entry[update] < SMALL_UPDATE)
        advice = "its weights are out of range: lower its learning rate and start again"
        if name not in self._overshot:
            advice = "check its initializer and output activation, and the scale of D's weights"
        self._warn(
            f"{name} vanishes", vanishes, step,
            f"{name}'s gradient vanishes ({self._logged[-1][gradient]:.1g}): it learns nothing. {advice}",
        )  # fmt: skip
        stands = not vanishes and self._lasts(lambda entry: entry[update] < NO_UPDATE)
        self._warn(
            f"{name} stands", stands, step,
            f"{name}'s weights do not change (by {self._logged[-1][update]:.1g} of them in a step): it learns nothing. "
            f"Raise config.{player}.learning_rate or clip_norm, or lower epsilon",
        )  # fmt: skip

    def _lasts(self, holds: Callable[[dict[str, float]], bool], window: int = WINDOW) -> bool:
        """Whether a condition holds for each of the last `window` logged steps."""
        return len(self._logged) >= window and all(holds(entry) for entry in list(self._logged)[-window:])

    def _warn(self, condition: str, holds: bool, step: int, message: str) -> None:
        if holds and condition not in self._active:
            logger.warning("step %d: %s", step, message)
        (self._active.add if holds else self._active.discard)(condition)


def diversity(images: np.ndarray) -> float:
    """The standard deviation over images uint8 [N, H, W, C] of each pixel, root mean square over pixels."""
    return float(np.sqrt(np.mean(np.var(images.astype(np.float32), axis=0))))


def extremes(images: np.ndarray) -> float:
    """The share of 0 and 255 among the values of images uint8 [N, H, W, C]; 1 for points, which have no such bounds."""
    return float(np.mean((images == 0) | (images == 255))) if images.dtype == np.uint8 else 1.0
