"""Several hosts on one Linux machine, joined by a switch: each has its own network, address, host name, processes,
/dev/shm and disk for Ray; the rest of the file system they share, as on a cluster. All are namespaces, gone with the
process that made them, and no one outside is any the wiser.

For root, and for whoever may make user namespaces.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("ip", "unshare", "nsenter")
RAY_DISK = Path("/tmp/ray")
"""Where Ray keeps what is a host's own; the paths of its sockets leave no room for a longer name."""
PORT = 6379
# Beside whatever else is at work here, what is trained must not starve.
_RAY = {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "180"}
_RAY |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
_UP = "up"
# The first process of a host reaps orphans, as init does, since it ignores their end; it ends with its own input.
_INIT = f'trap "" CHLD; echo {_UP}; exec cat'
_BOOT = (
    'set -e; hostname "$1"; mount -t tmpfs -o "size=$2" tmpfs /dev/shm; mount -t tmpfs -o "size=$3" tmpfs "$4"; '
    'for file in hosts nsswitch.conf resolv.conf; do mount --bind "$5/$file" "/etc/$file"; done; ' + _INIT
)
# Not by faketime: Ray's own threads, whose clocks it moves too, then wait for ever.
_CLOCK = """
import os, time
_file, _true = os.path.join(os.path.dirname(__file__), "clock-" + os.uname().nodename), time.time
def _shown():
    try:
        with open(_file) as file:
            return _true() + float(file.read())
    except (OSError, ValueError):
        return _true()
time.time = _shown
"""


def why_not():
    """What keeps this machine from having hosts, or None."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        return f"hosts on one machine need {', '.join(missing)}: apt-get install iproute2 util-linux"
    tried = ["unshare", *_own_users(), "--net", "ip", "link", "add", "br0", "type", "bridge"]
    ended = subprocess.run(tried, capture_output=True, text=True, check=False)
    return f"hosts on one machine need namespaces and a bridge: {ended.stderr.strip()}" if ended.returncode else None


def _own_users():
    return [] if os.geteuid() == 0 else ["--user", "--map-root-user"]


class Hosts:
    """Hosts h1, h2, ... at 10.77.0.1, 10.77.0.2, ..., each up once it is booted.

    Args:
        folder: for their files.
    """

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        RAY_DISK.mkdir(exist_ok=True)
        names = "".join(f"{_address(k)} h{k}\n" for k in range(1, 100))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        # Else gRPC asks a name server that is not there, tens of seconds for each connection.
        (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
        (folder / "resolv.conf").write_text("")
        (folder / "site").mkdir(exist_ok=True)
        (folder / "site" / "sitecustomize.py").write_text(_CLOCK)
        self._inits, self._processes = {}, {}
        unshared = ["unshare", *_own_users(), "--net", "--mount", "bash", "-c", f"set -e; {_INIT}"]
        self._switch = self._started(unshared)
        for made in ("link add br0 type bridge", "link set br0 up", "link set lo up"):
            self._ip(*made.split())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for k in list(self._inits):
            self.kill(k)
        _end(self._switch)

    def boot(self, k, *, shm="1g", disk="2g"):
        """Starts a host, for the first time or after it was killed; it has nothing left of its life before."""
        assert k not in self._inits, f"h{k} is up"
        subprocess.run(self._in_switch("ip", "link", "del", f"h{k}"), capture_output=True, check=False)
        apart = ["--net", "--uts", "--ipc", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child"]
        # Of the switch's users, and mounts.
        inside = [*self._entering(self._switch.pid, "--mount"), "unshare", *apart, "bash", "-c", _BOOT, "host"]
        init = self._started([*inside, f"h{k}", shm, disk, str(RAY_DISK), str(self.folder)])
        self._inits[k] = init
        mac = f"02:00:00:00:00:{k:02x}"  # the same in each of its lives, as others remember it
        self._ip(*f"link add h{k} type veth peer name eth0 address {mac} netns {init.pid}".split())
        for made in (f"addr add {_address(k)}/24 dev eth0", "link set eth0 up", "link set lo up"):
            self.run(k, "ip", *made.split())
        self.plug(k)
        self.run(k, "ip", "route", "add", "default", "via", _address(254))  # Ray asks for the way to the world
        return self

    def start(self, k, *command, **options):
        """A process on a host, in a group of its own."""
        environment = os.environ | _RAY | options.pop("env", {}) | {"PYTHONPATH": str(self.folder / "site")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True} | options
        process = subprocess.Popen(self._in_host(k, *map(str, command)), env=environment, **options)
        self._processes.setdefault(k, []).append(process)
        return process

    def run(self, k, *command, timeout=120, **options):
        """What a command on a host said; it must end well."""
        told = self.start(k, *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
        said = told.communicate(timeout=timeout)[0]
        assert told.returncode == 0, f"{command} on h{k} ended with {told.returncode}: {said}"
        return said

    def freeze(self, k):
        """Stops all its processes where they are, as a virtual machine is when it is moved; `thaw` lets them go on."""
        self.run(k, "bash", "-c", "kill -STOP -1")

    def thaw(self, k):
        self.run(k, "bash", "-c", "kill -CONT -1")
        for process in self._processes[k]:  # whoever entered with what was stopped has stopped too
            process.send_signal(signal.SIGCONT)

    def set_clock(self, k, offset):
        """Moves the clock that Python sees on a host by seconds; signs of files keep the true time, as of a server."""
        (self.folder / "site" / f"clock-h{k}").write_text(str(offset))

    def cut(self, k):
        """Pulls its cable."""
        self._ip("link", "set", f"h{k}", "down")

    def plug(self, k):
        """Puts its cable into the switch, or in again."""
        self._ip("link", "set", f"h{k}", "master", "br0", "up")

    def kill(self, k):
        """Its power goes."""
        _end(self._inits.pop(k))
        for process in self._processes.pop(k, ()):
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    @property
    def up(self):
        return sorted(self._inits)

    @staticmethod
    def address(k=1):
        """Of the head of a Ray cluster on a host."""
        return f"{_address(k)}:{PORT}"

    def head(self, k=1, **options):
        """Starts the head of a Ray cluster on a host; the process, once it answers."""
        head = self._ray(k, f"--head --port={PORT} --include-dashboard=false", **options)
        deadline = time.monotonic() + 120
        while not self._answers(k, self.address(k)):
            assert head.poll() is None and time.monotonic() < deadline, f"no head answers on h{k}"
            time.sleep(0.5)
        return head

    def worker(self, k, head=1, **options):
        """Has a host join a Ray cluster, and again whenever it has dropped out; the process that sees to it."""
        return self._ray(k, f"--address={self.address(head)}", again="while sleep 2; do", **options)

    def _ray(self, k, options, *, cpus=1, again=""):
        given = f"ray start {options} --node-ip-address={_address(k)} --num-cpus={cpus} --block"
        given = f"{given} --object-store-memory=80000000"
        with (self.folder / f"ray-h{k}.log").open("a") as log:
            return self.start(k, "bash", "-c", f"{again} {given}; done" if again else given, stdout=log, stderr=log)

    def _answers(self, k, address):
        host, port = address.split(":")
        tried = self.start(k, "bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}", stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return tried.wait(10) == 0
        tried.kill()
        return False

    def _started(self, command):
        init = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert init.stdout.readline().strip() == _UP, f"{command} did not come up"
        return init

    def _ip(self, *arguments):
        subprocess.run(self._in_switch("ip", *arguments), check=True, capture_output=True, text=True)

    def _in_switch(self, *command):
        return [*self._entering(self._switch.pid, "--net"), *command]

    def _in_host(self, k, *command):
        pid = self._inits[k].pid
        own = f"--net --uts --ipc --mount --pid=/proc/{pid}/ns/pid_for_children".split()
        return [*self._entering(pid, *own), *command]

    def _entering(self, pid, *namespaces):
        users = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(pid), *users, *namespaces, f"--wd={Path.cwd()}", "--"]


def _address(k):
    return f"10.77.0.{k}"


def _end(init):
    init.kill()
    init.communicate()
