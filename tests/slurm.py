"""A real Slurm over hosts on one machine: `slurmctld` on a host of its own, `slurmd` on the others. For root."""

import os
import shutil
import time

DAEMONS = ("slurmctld", "slurmd", "munged", "sbatch")
CONTROL = 9
"""Of the hosts, the one that has no part in jobs."""
_CONF = """\
ClusterName=test
SlurmctldHost=h{control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ReturnToService=2
SlurmdTimeout=60
KillWait=20
SlurmdParameters=config_overrides
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not():
    """What keeps this machine from running Slurm, or None."""
    if missing := [name for name in DAEMONS if shutil.which(name) is None]:
        return f"there is no {', '.join(missing)} here: apt-get install slurm-wlm"
    return None if os.geteuid() == 0 else "Slurm's daemons run jobs as others: this needs root"


class Slurm:
    """Slurm of some hosts that are up, once all are idle."""

    def __init__(self, hosts, nodes):
        self.hosts = hosts
        self.folder = folder = hosts.folder / "slurm"
        (folder / "state").mkdir(parents=True)
        # Both go by files that are theirs alone, and the socket by one that all may pass.
        for made in (hosts.folder, folder):
            made.chmod(0o755)
        lines = "\n".join(f"NodeName=h{k} CPUs=2 RealMemory=1000 State=UNKNOWN" for k in nodes)
        self.conf = folder / "slurm.conf"
        self.conf.write_text(_CONF.format(control=CONTROL, folder=folder, nodes=lines))
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        hosts.boot(CONTROL)
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
        files |= {"seed-file": "munge.seed"}
        self._daemon(CONTROL, "munged", "-F", "--force", *(f"--{n}={folder / file}" for n, file in files.items()))
        self.wait_for(lambda: (folder / "munge.socket").exists(), 30)
        self._daemon(CONTROL, "slurmctld", "-D", "-i")
        for k in nodes:
            (folder / f"spool-h{k}").mkdir()
            self.node(k)
        self.wait_for(lambda: self.said("sinfo", "-h", "-o", "%t %D").strip() == f"idle {len(nodes)}", 60)

    def node(self, k):
        """Starts Slurm's daemon on a host."""
        self._daemon(k, "slurmd", "-D", "-N", f"h{k}")

    def said(self, *command):
        """What a command of Slurm's said."""
        return self.hosts.run(CONTROL, *command, env={"SLURM_CONF": str(self.conf)})

    def submit(self, *arguments, cwd):
        """The number of a job that was handed in."""
        return self.said("sbatch", "--parsable", f"--chdir={cwd}", *arguments).strip()

    def job(self, number):
        """How a job stands, in Slurm's words: JobState, ExitCode, Restarts, Reason, ..."""
        told = self.said("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in told if "=" in word)

    def wait_for(self, what, seconds):
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.5)

    def logs(self):
        """The ends of all logs, for whoever wonders."""
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))

    def _daemon(self, k, *command):
        with (self.folder / f"{command[0]}-h{k}.log").open("a") as log:
            self.hosts.start(k, *command, stdout=log, stderr=log, env={"SLURM_CONF": str(self.conf)})
