"""The time that a command has, and what ends it: the clock or SIGTERM, both as Ctrl-C does."""

from __future__ import annotations

import _thread
import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from srpo.errors import ConfigError
from srpo.text import tell


class Stopped(KeyboardInterrupt):
    """SIGTERM: the operator's, or the clock's."""

    signum = signal.SIGTERM


@dataclass
class Clock:
    """The time that is left; without `minutes` there is no end to it. Raises ConfigError."""

    minutes: float | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self):
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ConfigError(f"--minutes {self.minutes:g}: expected a finite number, more than zero")

    @property
    def left(self) -> float:
        return float("inf") if self.minutes is None else 60 * self.minutes - (time.monotonic() - self.began)


@contextlib.contextmanager
def stopping(clock: Clock) -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does, with the state saved; so does the clock. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum, frame):
        raise Stopped("stopped; the same command goes on")

    before = signal.signal(signal.SIGTERM, stop)
    alarm = threading.Timer(min(max(clock.left, 0.01), threading.TIMEOUT_MAX), _interrupt, (threading.get_ident(),))
    alarm.daemon = True
    if clock.minutes is not None:
        alarm.start()
    try:
        yield
    except KeyboardInterrupt:
        if clock.left > 0:
            raise
        tell("the time is over; the same command goes on from here")
    finally:
        alarm.cancel()
        signal.signal(signal.SIGTERM, before)


def _interrupt(main: int) -> None:
    """SIGTERM in the main thread: a real one, which ends a call that waits, where the system has them."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, signal.SIGTERM)
    else:
        _thread.interrupt_main(signal.SIGTERM)
