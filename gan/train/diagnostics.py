"""Detect common training failures and log a warning: a saturated discriminator, constant losses, mode collapse."""

import logging
from collections import deque

import numpy as np

logger = logging.getLogger(__name__)

WINDOW = 5
"""The number of consecutive logged steps for which a condition must hold."""


class Diagnostics:
    """Observes the logged metrics and samples. A warning is repeated only after its condition has ceased to hold."""

    def __init__(self, real_images: np.ndarray):
        """Args: real_images: uint8 [N, H, W, C], a few dozen, from which the expected diversity is computed."""
        self._real_diversity = diversity(real_images)
        self._logged: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._active: set[str] = set()
        self._was_diverse = False

    def observe_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Checks the logged metrics of a step."""
        self._logged.append(metrics)
        is_full = len(self._logged) == WINDOW
        saturated = is_full and all(
            entry["discriminator_real"] > 0.99 and entry["discriminator_fake"] < 0.01 for entry in self._logged
        )
        self._warn(
            "saturated", saturated, step,
            "D is saturated (D(real) > 0.99, D(fake) < 0.01): G learns little. lower D's rate or add a penalty",
        )  # fmt: skip
        frozen = is_full and all(
            np.ptp([entry[name] for entry in self._logged]) < 1e-6 for name in ("discriminator_loss", "generator_loss")
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
        return share

    def _warn(self, condition: str, holds: bool, step: int, message: str) -> None:
        if holds and condition not in self._active:
            logger.warning("step %d: %s", step, message)
        (self._active.add if holds else self._active.discard)(condition)


def diversity(images: np.ndarray) -> float:
    """The standard deviation over images uint8 [N, H, W, C] of each pixel, root mean square over pixels."""
    return float(np.sqrt(np.mean(np.var(images.astype(np.float32), axis=0))))
