"""What becomes of sweeps in a storm: `python benchmarks/storm.py [SWEEPS] [FAULTS] [SEED]` (10 sweeps, 20 faults each).

Three hosts on this machine (see `tests/hosts.py`), a Ray cluster over them, and a job system that does no more than
start again whatever has ended. Faults are drawn at random while runs are being trained; a sweep that has come to its
end is held against one that was left alone, to the bit. A host that is cut off still reaches the files, as it may where
these have a network of their own: what it writes is what leases are for.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.backend import LOST
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.ray.hub import environment_of
from nextscale.sweeps.show.tables import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from aftermath import Records, faults
from hosts import RAY_DISK, Hosts, why_not
from in_process import run_alone

SWEEPS, FAULTS = 10, 20
SPEC = """\
name: storm
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training: {batch_tokens: 128, schedule: linear, lr: {rule: horizon, base: 0.02, floor: 0.008}}
design:
  kind: isoflop
  flops: [2.0e+9, 4e9, 8e9]
  widths: [[12, 16, 20, 24], [12, 16, 20, 24], [16, 20, 24, 28]]
  seeds: [0, 1, 2, 3, 4, 5, 6, 7]
holdout: {flops: 3e10, widths: [20, 24, 28, 32]}
evaluation: {tokens: 8192}
forecast: {resamples: 100}
"""
HEAD, WORKERS, LATE = 1, (2, 3), 4
BRIEF, LONG = (1.0, 15.0), (45.0, 90.0)
"""Seconds: all that hears hosts by their signs of life bears the first, and nothing the second (leases last 20)."""
PAUSE, RECENT, PATIENCE = 12.0, 20.0, 1800.0
"""Seconds between two faults at most; since a run was trained, for another to come; and after which a sweep is said to
hang."""
COMMAND = [sys.executable, "-c", "from nextscale.sweeps.commands.app import main; main()", "run"]


class Storm:
    """A sweep, the hosts that it is trained on, and what befalls them."""

    def __init__(self, hosts: Hosts, spec: Path, out: Path, chance: random.Random):
        self.hosts, self.spec, self.out, self.chance = hosts, spec, out, chance
        self.ray: dict[int, subprocess.Popen] = {}
        self.sweep: subprocess.Popen | None = None
        self.starts, self.unexplained = 0, list[str]()
        self.later: list[tuple[float, Callable[[], Any]]] = []
        for k in (HEAD, *WORKERS):
            self.boot(k)

    @property
    def said(self) -> Path:
        return self.out.with_suffix(".said")

    def ended(self) -> bool:
        """Does what is due and starts again whatever has ended, as a job system does; whether the sweep is done."""
        now = time.monotonic()
        due = [do for when, do in self.later if when <= now]
        self.later = [(when, do) for when, do in self.later if when > now]
        for do in due:
            do()
        if self.sweep is not None and (code := self.sweep.poll()) is not None:
            self.sweep = None
            if code not in (0, LOST, -signal.SIGKILL, 128 + signal.SIGKILL):
                self.unexplained.append(f"exit code {code}: {' '.join(self.said.read_text()[-600:].split())}")
            if code == 0:
                return True
        hosts = self.hosts
        if HEAD in hosts.up and not self.has_ray(HEAD) and self.sweep is None:
            for k in set(self.ray) & set(hosts.up):  # a cluster begins anew as a whole
                hosts.start(k, "bash", "-c", "kill -KILL -1").wait()
            self.ray = {HEAD: hosts.head(HEAD)}
        if self.has_ray(HEAD):
            for k in hosts.up:
                if not self.has_ray(k):
                    self.ray[k] = hosts.worker(k)
            if self.sweep is None:
                with self.said.open("a") as log:
                    given = [*COMMAND, self.spec, "--out", self.out, "--address", hosts.address(HEAD)]
                    home = self.chance.choice([k for k in hosts.up if k != LATE])
                    self.sweep = hosts.start(home, *given, stdout=log, stderr=log)
                self.starts += 1
        return False

    def has_ray(self, k: int) -> bool:
        return k in self.hosts.up and k in self.ray and self.ray[k].poll() is None

    def at_work(self) -> bool:
        """Whether a run is being trained, or was a moment ago: faults come while those before are got over, too."""
        newest = (path.stat().st_mtime for path in self.out.glob("runs/*/leases/*.json"))
        return self.sweep is not None and max(newest, default=0.0) > time.time() - RECENT

    def after(self, seconds: tuple[float, float], do: Callable[[], Any]) -> None:
        self.later.append((time.monotonic() + self.chance.uniform(*seconds), do))

    def boot(self, k: int, **sizes: str) -> None:
        if k not in self.hosts.up:
            self.hosts.boot(k, **{"disk": "300m", "shm": "300m"} | sizes)

    def if_up(self, k: int, do: Callable[..., Any], *given: Any) -> Callable[[], Any]:
        return lambda: do(k, *given) if k in self.hosts.up else None

    def end(self, pattern: str, k: int) -> None:
        """Kills what runs on a host by its command, if it is up."""
        if k in self.hosts.up:
            self.hosts.start(k, "pkill", "-KILL", "-f", pattern).wait()

    def befall(self, what: str) -> None:
        """Has a fault come, to a host that it may come to."""
        k = self.chance.choice(self.hosts.up)
        hosts = self.hosts
        if what.startswith("cable"):
            hosts.cut(k)
            self.after(LONG if what.endswith("long") else BRIEF, self.if_up(k, hosts.plug))
        elif what.startswith("host frozen"):
            hosts.freeze(k)
            self.after(LONG if what.endswith("long") else BRIEF, self.if_up(k, hosts.thaw))
        elif what in ("host killed", "/dev/shm small"):
            k = self.chance.choice([k for k in hosts.up if k != HEAD] or [HEAD])
            hosts.kill(k)
            sizes = {"shm": "16m"} if what == "/dev/shm small" else {}
            self.after(BRIEF, lambda: self.boot(k, **sizes))
        elif what == "head's host killed":
            if HEAD in hosts.up:
                hosts.kill(HEAD)
            self.after(BRIEF, lambda: self.boot(HEAD))
        elif what == "head killed":
            self.end("gcs_server", HEAD)
        elif what == "controller killed":
            assert self.sweep is not None
            os.killpg(self.sweep.pid, signal.SIGKILL)
        elif what in ("worker killed", "raylet killed"):
            self.end("ray::_WarmWorker" if what == "worker killed" else "raylet/raylet", k)
        elif what == "clock moved":
            hosts.set_clock(k, self.chance.choice([-86400, -3600, -30, 30, 3600, 86400]))
        elif what == "disk full":
            hosts.run(k, "bash", "-c", f"head -c 400M /dev/zero > {RAY_DISK}/filled 2>/dev/null; true")
            self.after(LONG, self.if_up(k, hosts.run, "rm", "-f", RAY_DISK / "filled"))
        else:
            assert what == "host comes late, or leaves"
            if LATE in hosts.up:
                hosts.kill(LATE)
            else:
                self.boot(LATE)


KINDS = (
    *("cable cut briefly", "cable cut for long", "host frozen briefly", "host frozen for long", "host killed"),
    *("head's host killed", "head killed", "controller killed", "worker killed", "raylet killed", "clock moved"),
    *("disk full", "/dev/shm small", "host comes late, or leaves"),
)


def weather(storm: Storm, count: int, befallen: collections.Counter[str]) -> list[str]:
    """Lets faults come until there were so many and the sweep has ended; what was wrong."""
    records, began, came = Records(storm.out), time.monotonic(), 0
    next_at = began
    while not storm.ended():
        time.sleep(0.2)
        records.look()
        now = time.monotonic()
        if now - began > PATIENCE:
            return [f"it had not ended after {PATIENCE:.0f} s: {' '.join(storm.said.read_text()[-600:].split())}"]
        if came < count and now > next_at and storm.at_work():
            what = storm.chance.choice(KINDS)
            print(f"# {now - began:.0f} s: {what}", file=sys.stderr, flush=True)
            storm.befall(what)
            befallen[what] += 1
            came += 1
            next_at = now + storm.chance.uniform(0.0, PAUSE)
    return storm.unexplained


def main(sweeps: int = SWEEPS, count: int = FAULTS, seed: int = 0) -> None:
    if (reason := why_not()) is not None:
        sys.exit(reason)
    console = Console(width=160)
    befallen: collections.Counter[str] = collections.Counter()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec, alone = folder / "storm.yaml", folder / "alone"
        spec.write_text(SPEC)
        os.environ |= {"NEXTSCALE_CACHE": str(folder / "cache")} | environment_of(Pool(accelerator="cpu"))
        run_alone(spec, alone, page=False)
        for i in range(sweeps):
            out, began, before = folder / f"sweep{i}", time.monotonic(), befallen.total()
            with Hosts(folder / f"hosts{i}") as hosts:
                storm = Storm(hosts, spec, out, random.Random(f"{seed} {i}"))
                try:
                    wrong = weather(storm, count, befallen)
                except AssertionError as error:
                    wrong = [str(error)]
            if (out / "report.html").exists():  # else it has not come to its end
                wrong = [*wrong, *faults(out, alone)]
            ends = collections.Counter(
                row["outcome"] for row in Accounts(out / "accounts.jsonl").rows if "outcome" in row
            )
            shown = [str(befallen.total() - before), f"{time.monotonic() - began:.0f}", str(storm.starts)]
            shown += [str(ends.total()), str(ends["lost"]), str(len(list(out.glob("runs/*/record.json"))))]
            rows.append([str(i + 1), *shown, "; ".join(wrong) or "nothing"])
            print(f"# {rows[-1]}", file=sys.stderr, flush=True)
    kinds = [[what, str(befallen[what])] for what in KINDS]
    console.print(Table(f"{befallen.total()} faults over {sweeps} sweeps", ["fault", "times"], kinds).rich())
    columns = ["sweep", "faults", "seconds", "starts", "attempts", "lost", "runs done", "wrong"]
    console.print(Table("What became of them", columns, rows).rich())
    sys.exit(any(row[-1] != "nothing" for row in rows))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
