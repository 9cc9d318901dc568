"""A session with a cluster: its pools and prices, and the accounts of the folder that is trained in."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nextscale.cluster.controller.accounts import Accounts, open_accounts
from nextscale.cluster.controller.attempt import settle_orphan
from nextscale.cluster.controller.backend import Backend, ClusterLost
from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.controller.events import Event, Report
from nextscale.cluster.controller.job import Job
from nextscale.cluster.controller.lease import Lease, LeaseHeld
from nextscale.cluster.controller.run_directories import RunDirectories
from nextscale.cluster.hardware.catalogue import Accelerator, with_measured_cpu
from nextscale.cluster.hardware.placement import price, seats
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.hardware.site import Site
from nextscale.cluster.hardware.speed import Speed
from nextscale.cluster.ray.ray_backend import RayBackend
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.placement import pools_here
from nextscale.sweeps.spec.site_file import load_site, pools_of, price_notes
from nextscale.sweeps.spec.sweep_spec import ExternalSpec, SweepSpec
from nextscale.sweeps.watch.status import STOP, stop_asked


def settle_done(out: Path, known: Callable[[str], Job | None], on_event: Callable[[Event], None]) -> None:
    """Books the attempts at runs that are done whose controller died before it could, unless another is at work."""
    runs, file = RunDirectories(), out / "accounts.jsonl"
    if not Accounts(file).open:
        return
    with contextlib.suppress(LeaseHeld), Lease(out / "controller") as lease:
        accounts = Accounts(file, guard=lease.check)
        for reservation in list(accounts.open.values()):
            job = known(reservation.run_id)
            if job is not None and runs.done(job):
                on_event(settle_orphan(reservation, job, runs, accounts))
        accounts.close()


@dataclasses.dataclass(frozen=True)
class Session:
    """A cluster with its pools and prices, and the accounts of an output folder, which one session has at a time."""

    spec: SweepSpec
    out: Path
    backend: Backend
    accounts: Accounts
    accelerators: Mapping[str, Accelerator]

    @classmethod
    @contextlib.contextmanager
    def connect(
        cls,
        spec: SweepSpec,
        out: Path,
        address: str | None,
        site: Site | None,
        on_event: Callable[[Event], None],
        stop: Callable[[], float | None],
        keep: Callable[[], None] = lambda: None,
    ) -> Iterator[Session]:
        """Waits until no other controller is at work in the folder, and connects to the cluster.

        Args:
            keep: see `nextscale.cluster.controller.accounts.Accounts`.

        Raises:
            KeyboardInterrupt: `stop` was asked for while it waited.
            SpecError, InputError: the pools cannot be used.
            ConnectionError: there is no cluster, at the first start of a sweep.
            ClusterLost: there is none any more, or none yet.
        """
        site = load_site() if site is None else site
        accelerators = with_measured_cpu(site.catalogue())
        pools = pools_of(spec.pools, site, accelerators)
        _check_prices(spec, pools or (pools_here(accelerators)[0] if address is None else {}), accelerators)
        waiting: dict[str, Any] = {
            "on_wait": lambda text: on_event(Event("notice", message=text)),
            "stop": stop,
            "keep": keep,
        }
        with open_accounts(out, **waiting) as accounts:
            (out / STOP).unlink(missing_ok=True)
            for note in price_notes(spec.pools, site, accelerators):
                on_event(Event("notice", message=note))
            lanes: dict[str, Any] = {"sweep": f"{spec.name} ({out})", "priority": spec.priority}
            lanes |= {"uses_jax": False} if isinstance(spec, ExternalSpec) else {}
            try:
                connected = RayBackend(address, "auto" if pools is None else pools, **lanes)
            except ConnectionError as error:
                if accounts.first_start is None:
                    raise
                raise ClusterLost(str(error)) from None  # it has answered before: this is no slip of the pen
            with contextlib.closing(connected) as backend:
                _check_prices(spec, backend.pools(), accelerators)
                try:
                    yield cls(spec, out, backend, accounts, accelerators)
                except KeyboardInterrupt:  # nobody hears how what is at work ends
                    text = f"interrupted with {len(accounts.open)} attempts open: settled when the sweep goes on"
                    on_event(Event("notice", message=text))
                    raise

    def seats(self, run: PlannedRun, speed: Speed | None = None) -> tuple[Seat, ...]:
        """Where a run may be trained; anywhere, if nothing is known of what the cluster offers by itself.

        Args:
            speed: what is known of runs that were timed.

        Raises:
            InputError: it fits nowhere.
        """
        pools = self.backend.pools()
        if self.spec.pools == "auto":
            known = {
                name: pool
                for name, pool in pools.items()
                if pool.accelerator in self.accelerators and self.accelerators[pool.accelerator].peak_flops
            }
            if len(known) < len(pools) or not pools:
                return ()
        return seats(run.config, run.own_flops, pools, self.accelerators, speed)

    def train(
        self,
        jobs: Sequence[Job],
        on_event: Callable[[Event], None],
        known: Callable[[str], Job | None],
        after: Callable[[], Sequence[Job]],
        unchosen: float,
        stop: Callable[[], float | None],
    ) -> Report:
        """Does every job once, within the caps, until `nextscale stop` asks otherwise.

        Args:
            known: any job of the folder, by its run_id.
            after, unchosen, stop: see `nextscale.cluster.controller.controller.run_all`.
        """
        return run_all(
            jobs,
            self.backend,
            on_event,
            caps=self.spec.caps,
            order=self.spec.order,
            accounts=self.accounts,
            peak=self._peak,
            price=self._price,
            known=known,
            stop=lambda: min((one for one in (stop(), stop_asked(self.out)) if one is not None), default=None),
            after=after,
            unchosen=unchosen,
        )

    def _price(self, pool: Pool) -> float | None:
        return _price(pool, self.accelerators)

    def _peak(self, accelerator: str) -> float | None:
        known = self.accelerators.get(accelerator)
        return None if known is None else known.peak_flops


def _price(pool: Pool, accelerators: Mapping[str, Accelerator]) -> float | None:
    known = accelerators.get(pool.accelerator)
    return pool.usd_per_chip_hour if known is None else price(pool, known)[0]


def _check_prices(spec: SweepSpec, pools: Mapping[str, Pool], accelerators: Mapping[str, Accelerator]) -> None:
    """A cap in dollars cannot hold where something has no price."""
    if spec.caps.max_usd is None:
        return
    for name, pool in pools.items():
        if _price(pool, accelerators) is None:
            raise SpecError(
                f"caps.max_usd: pool {name} ({pool.accelerator}) has no price, so no cap in dollars can hold; set "
                f"its usd_per_chip_hour under pools, or under accelerators.{pool.accelerator} of a site file",
                ("caps", "max_usd"),
            )
