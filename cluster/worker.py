"""What happens on a worker: one run at a time, under a lease, each attempt written down."""

from __future__ import annotations

import contextlib
import socket
import time
import traceback
from pathlib import Path
from typing import Any

from nextscale.cluster.job import Job, Outcome
from nextscale.cluster.lease import Lease, LeaseHeld, LeaseLost


class Worker:
    """Trains runs one after another in a warm process: what is compiled for one serves the next of its shape."""

    def __init__(self) -> None:
        from nextscale.model.train import enable_compilation_cache

        with contextlib.suppress(OSError):  # without a cache it compiles more, and trains the same
            enable_compilation_cache()

    def ready(self) -> str:
        """The platform that JAX trains on here; an answer at all means that the worker is up."""
        import jax

        return jax.default_backend()

    def run(self, job: Job) -> Outcome:
        """Trains a run to its end, or says why not."""
        import jax
        from etils import epath

        from nextscale.model.checkpoint import CheckpointPolicy
        from nextscale.model.errors import InputError
        from nextscale.model.record import RunDirectory
        from nextscale.model.train import train

        directory = RunDirectory(epath.Path(job.directory))
        try:
            lease = Lease(Path(job.directory), silent=job.silent)
        except LeaseHeld as held:
            return Outcome("held", str(held), held.sign)
        except OSError as error:
            return Outcome("input", f"{job.directory}: {error.strerror}; make room or name another --out")
        started = time.time()
        attempt = {"host": socket.gethostname(), "device": jax.devices()[0].device_kind, "started": started}

        def note(row: dict[str, Any]) -> None:
            with contextlib.suppress(OSError):  # a full disk must not hide how the attempt ended
                directory.add_attempt(row)

        with lease:
            try:
                if directory.record() is not None:
                    return Outcome("finished")  # by whoever held it before
                if lease.replaced is not None:
                    note(lease.replaced | {"status": "lost", "message": "the process died or fell silent"})
                policy = CheckpointPolicy(job.every_seconds, job.keep, job.final, job.pinned)
                train(
                    job.config,
                    directory,
                    checkpoint=policy,
                    trunk=job.start,
                    on_progress=lambda tokens: lease.check(),
                )
                outcome = Outcome("finished")
            except LeaseLost as lost:
                return Outcome("held", str(lost))  # the run is not ours to write to: the heir has noted our end
            except InputError as error:
                outcome = Outcome("input", str(error))
            except OSError as error:
                outcome = Outcome("error", f"{error.filename or job.directory}: {error.strerror or error}")
            except Exception as error:  # a run that fails must not take its worker, or the sweep, with it
                attempt["traceback"] = traceback.format_exc()
                outcome = Outcome("error", in_one_line(error))
            note(attempt | {"seconds": time.time() - started, "status": outcome.status, "message": outcome.message})
        return outcome


def in_one_line(error: BaseException) -> str:
    """What an exception says first."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
