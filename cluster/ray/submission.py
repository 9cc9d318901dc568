"""Submission of a command to a Ray cluster, as a job of its dashboard."""

from __future__ import annotations

import time
from collections.abc import Mapping

from nextscale.cluster.ray.head import named
from nextscale.model.errors import InputError

_YOUNG = "No available agent"
"""What a dashboard answers while the node that is to have the job comes up; nothing was left there then."""
_PATIENCE, _PAUSE = 120.0, 1.0
"""Seconds."""


def submit(address: str, command: str, name: str, metadata: Mapping[str, str]) -> str:
    """Leaves a shell command on the head of a cluster, whose nodes have what it needs; the id of its job.

    Args:
        address: of the cluster's dashboard, such as http://HEAD:8265.
        name: of the job, not used before.

    Raises:
        InputError: no dashboard answers there, none that takes a job, or this machine cannot ask one.
    """
    try:
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(address)
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"{named(address)}: cannot leave a job there ({str(error).splitlines()[0]}); install ray[default] and "
            "name the cluster's dashboard, such as http://HEAD:8265"
        ) from None
    except ConnectionError:
        raise InputError(
            f"{named(address)}: no dashboard of a Ray cluster answers there; name it, such as http://HEAD:8265"
        ) from None
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return client.submit_job(entrypoint=command, submission_id=name, metadata=dict(metadata))
        except (OSError, RuntimeError) as error:
            answer = str(error)
        if _YOUNG not in answer or time.monotonic() > deadline:
            raise InputError(f"{named(address)}: the dashboard there did not take the job ({answer.splitlines()[0]})")
        time.sleep(_PAUSE)
