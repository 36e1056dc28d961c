"""Signals that stop a run: noted when they come, acted on between two steps."""

import signal
from typing import Any

import jax

from gan.parallel import processes


class StopSignal:
    """Notes the first SIGINT or SIGTERM, to be acted on between two steps; a second one acts at once.

    So does SIGHUP, which comes when the terminal is closed, unless the run was launched to ignore it (`nohup`).
    """

    def __init__(self):
        self.signal = 0
        self._steps = 0

    def __enter__(self) -> "StopSignal":
        numbers = [signal.SIGINT, signal.SIGTERM]
        numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, count: int, every: int, metrics: Any) -> int:
        """The signal that is to end the run now, or 0: the same on all processes.

        To be asked after every dispatch, of `count` steps that compute `metrics`. Several processes ask each other
        after `every` steps, and wait for them: see `gan.parallel.processes`.
        """
        if processes.process_count() == 1:
            return self.signal
        self._steps += count
        if self._steps < every:
            return 0
        self._steps = 0
        jax.block_until_ready(metrics)
        return processes.process_max(self.signal)

    def _note(self, number: int, frame: object) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
