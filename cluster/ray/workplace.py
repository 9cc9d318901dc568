"""Where a worker trains a run that lives in a bucket: a folder of its own, whose states are kept there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from nextscale.cluster.controller.job import Job
from nextscale.cluster.controller.lease import Lease
from nextscale.model.config.run import RunConfig
from nextscale.model.storage.address import sibling
from nextscale.model.storage.mirror import Mirror
from nextscale.model.storage.working import pushing, scratch_folder


@contextlib.contextmanager
def workplace(job: Job, lease: Lease) -> Iterator[Job]:
    """The job with a directory of this machine alone, as it is in the bucket; what is written there is kept in the
    bucket, again and again and at the end. A job that lives in no bucket stays as it is.

    Raises:
        OSError: the bucket cannot be read or written.
        LeaseLost: somebody else has the run now.
    """
    if not job.bucket:
        yield job
        return
    with scratch_folder() as folder:
        directory = folder / "runs" / job.run_id
        directory.mkdir(parents=True)
        mirror = Mirror(job.bucket, directory, generation=lease.generation, check=lease.check_now)
        mirror.pull()
        for run_id in _roots(job):  # what it may begin from
            Mirror(sibling(job.bucket, run_id), directory.with_name(run_id)).pull()
        with pushing(mirror):
            yield dataclasses.replace(job, directory=str(directory))
        mirror.push()


def _roots(job: Job) -> list[str]:
    starts = [job.start, job.config.parent if isinstance(job.config, RunConfig) else None]
    return [start.run_id for start in starts if start is not None]
