"""Slots that are processes of this machine, forked anew when they are killed: milliseconds, where Ray takes seconds."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

from nextscale.cluster.controller.backend import Ended, Slot
from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat


class Crew:
    """Processes that are started anew when they are killed, and how long they took to come up.

    Args:
        slots: how many there are at a time.
        preload: a module that is imported before any of them is forked.
    """

    def __init__(self, slots: int, preload: str) -> None:
        self._slots = slots
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([preload])
        self._begun: dict[Connection, float] = {}
        self.processes: dict[Connection, Any] = {}
        self.coming_up, self.killed = 0.0, 0
        self._cpu: dict[Connection, float] = {}
        self.began, self._own = 0.0, 0.0
        """When the first was up, by the clock and by our own CPU."""

    def start(self, target: Any, *given: Any) -> Connection:
        here, there = self._context.Pipe()
        process = self._context.Process(target=target, args=(there, *given), daemon=True)
        self._begun[here] = time.perf_counter()
        process.start()
        there.close()
        self.processes[here] = process
        return here

    def heard(self, pipe: Connection) -> Any:
        """What a process tells; None when it is up.

        Raises:
            EOFError: it is gone.
        """
        try:
            told, self._cpu[pipe] = pipe.recv()
        except ConnectionResetError:
            raise EOFError from None
        if told is None:
            now = time.perf_counter()
            if not self.began:
                self.began, self._own = now, time.process_time()
            self.coming_up += now - max(self._begun.pop(pipe), self.began)
        return told

    def milliseconds(self, runs: int) -> dict[str, float]:
        """What each of so many runs that are done took of a slot's time, coming up left out, and of CPU."""
        slot = self._slots * (time.perf_counter() - self.began) - self.coming_up
        cpu = time.process_time() - self._own + sum(self._cpu.values())
        return {"slot": 1e3 * slot / runs, "cpu": 1e3 * cpu / runs}

    def gone(self, pipe: Connection) -> None:
        self.killed += 1
        pipe.close()
        self.processes.pop(pipe).join()

    def close(self) -> None:
        for pipe, process in self.processes.items():
            pipe.close()
            process.join(10)


class ForkedBackend:
    """Slots of this machine, each a process that is forked again when it is gone.

    Args:
        crew: of their processes.
        target, given: what each is, and what it is given after its end of a pipe. It says (None, 0.0) there when it is
            up, and then of each (job, seat, attempt) that it hears its outcome, and its seconds of CPU so far.
    """

    def __init__(self, crew: Crew, slots: int, target: Callable[..., None], *given: Any):
        self._crew, self._target, self._given = crew, target, given
        self._slots: dict[str, Connection] = {}
        self._running: dict[str, Job | None] = {}
        for i in range(slots):
            self._bring(f"here-{i}")

    def _bring(self, slot: str) -> None:
        self._slots[slot] = self._crew.start(self._target, *self._given)
        self._running.pop(slot, None)

    def pools(self) -> Mapping[str, Pool]:
        return {"here": Pool(accelerator="cpu", chips=len(self._slots))}

    def slots(self) -> list[Slot]:
        return [Slot(name, "here", ("here",)) for name in self._running]

    def start(self, slot: str, job: Job, seat: Seat) -> None:
        self._running[slot] = job
        with contextlib.suppress(BrokenPipeError):  # `wait` hears of it
            self._slots[slot].send((job, seat, job.attempt))

    def stop(self, slot: str) -> None:
        pass

    kill = renew = stop

    def wait(self, timeout: float) -> list[Ended]:
        names = {pipe: name for name, pipe in self._slots.items()}
        ended = []
        for pipe in wait(list(names), timeout):
            name = names[pipe]
            job = self._running.get(name)
            try:
                outcome = self._crew.heard(pipe)
            except EOFError:
                self._crew.gone(pipe)
                outcome = Outcome("lost", "the worker died", hosts=("here",))
                self._bring(name)
            if outcome is None:
                self._running[name] = None
            elif job is not None:
                ended.append(Ended(name, job, outcome))
                if name in self._running:
                    self._running[name] = None
        return ended

    def now(self) -> float:
        return time.monotonic()

    def waiting(self, runs: int) -> None:
        pass

    def notices(self) -> list[str]:
        return []

    def close(self) -> None:
        self._crew.close()
