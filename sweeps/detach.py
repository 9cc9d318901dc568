"""A sweep that runs on while nobody looks: as a job of a Ray cluster, or as a process of this machine.

Either way it writes what it says to `OUT/controller.log`, and is reached by its folder: `nextscale status`, `logs` and
`stop`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec import SweepSpec
from nextscale.sweeps.store import Store

LOG = "controller.log"
_MAIN = "from nextscale.sweeps.cli import main; main()"


def detach(spec: SweepSpec, out: str | Path, address: str | None) -> str:
    """Starts a sweep and leaves it; tells in words where it runs.

    Args:
        address: of the dashboard of a Ray cluster, `http://...`, to leave it there as a job; else it becomes a process
            of this machine, which uses the cluster at that address, or one of its own.

    Raises:
        SpecError: the folder cannot be written to, or there is no such dashboard.
    """
    store = Store.at(out)
    file = store.write_spec(spec)
    if address is not None and address.startswith(("http://", "https://")):
        return _job(spec.name, file, store.root, address)
    options = [] if address is None else ["--address", address]
    with (store.root / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, "run", str(file), "--out", str(store.root), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return f"process {process.pid} of this machine"


def _job(name: str, file: Path, out: Path, address: str) -> str:
    """Of the cluster, on whose nodes `out` must be the same folder, and this package installed."""
    try:
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(address)
    except (ImportError, RuntimeError) as error:
        raise SpecError(
            f"--address {address}: cannot leave a job there ({str(error).splitlines()[0]}); install ray[default] and "
            "name the cluster's dashboard, such as http://HEAD:8265"
        ) from None
    except ConnectionError:
        raise SpecError(
            f"--address {address}: no dashboard of a Ray cluster answers there; name it, such as http://HEAD:8265"
        ) from None
    run = shlex.join(["nextscale", "run", str(file), "--out", str(out), "--address", "auto"])
    job = client.submit_job(
        entrypoint=f"{run} >> {shlex.quote(str(out / LOG))} 2>&1",
        submission_id=f"nextscale-{name}-{int(time.time())}-{os.getpid()}",
        metadata={"sweep": name, "out": str(out)},
    )
    return f"job {job} of {address}"
