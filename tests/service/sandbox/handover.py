"""Who gets which file: the hold that tests have on media workers."""

from __future__ import annotations

import os
import signal

from waiting import until


class Handover:
    """The workers that got files, one for each file in the order of files.

    Attributes:
        stops: how many more workers are stopped as they get a file, so that they have it until they are killed.
    """

    def __init__(self) -> None:
        self.workers: list[int] = []
        self.stops = 0

    def note(self, worker: int) -> None:
        if self.stops:
            self.stops -= 1
            os.kill(worker, signal.SIGSTOP)
        self.workers.append(worker)

    async def of(self, number: int) -> int:
        """Wait until so many files were handed over; return the worker that got the last of them."""
        await until(lambda: len(self.workers) >= number)
        return self.workers[number - 1]

    async def crash(self, number: int) -> None:
        """Have the worker crash that got the last of so many files, and is stopped."""
        worker = await self.of(number)
        os.kill(worker, signal.SIGSEGV)
        os.kill(worker, signal.SIGCONT)  # a stopped process takes no other signal than SIGKILL
