"""Names trouble in one line when it begins: a saturated discriminator, frozen losses, samples all alike. A leaf."""

import logging
from collections import deque

import numpy as np

logger = logging.getLogger(__name__)

WINDOW = 5
"""Logged points that a trouble must last for."""


class Diagnostics:
    """Watches what a run logs. Each trouble is told when it begins, and again only after it has gone."""

    def __init__(self, real_images: np.ndarray):
        """`real_images` uint8 [N, H, W, C], a few dozen of them, say how much samples should differ."""
        self._real_diversity = diversity(real_images)
        self._logged: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._present: set[str] = set()
        self._was_diverse = False

    def observe_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Looks at the logged figures of a step."""
        self._logged.append(metrics)
        full = len(self._logged) == WINDOW
        saturated = full and all(
            entry["discriminator_real"] > 0.99 and entry["discriminator_fake"] < 0.01 for entry in self._logged
        )
        self._tell(
            "saturated", saturated, step,
            "D is saturated, D(real) > 0.99 and D(fake) < 0.01: G learns little. Slow D down or add a penalty",
        )  # fmt: skip
        frozen = full and all(
            np.ptp([entry[name] for entry in self._logged]) < 1e-6 for name in ("discriminator_loss", "generator_loss")
        )
        self._tell(
            "frozen", frozen, step,
            "both losses stand still: neither player learns. Look at the learning rates and the gradient norms",
        )  # fmt: skip

    def observe_samples(self, step: int, images: np.ndarray) -> float:
        """Looks at samples uint8 [N, H, W, C]; returns their diversity as a share of that of real images."""
        share = diversity(images) / max(self._real_diversity, 1e-9)
        # A generator that has learned nothing yet draws one grey blur: only what was lost is a collapse.
        self._was_diverse = self._was_diverse or share > 0.5
        self._tell(
            "collapsed", self._was_diverse and share < 0.25, step,
            f"samples have become nearly all alike, {share:.0%} of the diversity of real images: G has collapsed",
        )  # fmt: skip
        return share

    def _tell(self, trouble: str, present: bool, step: int, line: str) -> None:
        if present and trouble not in self._present:
            logger.warning("step %d: %s", step, line)
        (self._present.add if present else self._present.discard)(trouble)


def diversity(images: np.ndarray) -> float:
    """How much images differ from one another: the standard deviation over images, root mean square over pixels."""
    return float(np.sqrt(np.mean(np.var(images.astype(np.float32), axis=0))))
