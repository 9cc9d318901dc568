"""The hosts that other tests stand on: apart in all that hosts have of their own, and together in what they share."""

import subprocess


def reaches(hosts, k, port=7000):
    """Whether h1 hears something that listens on a host."""
    tried = hosts.start(1, "timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/h{k}/{port}", stderr=subprocess.DEVNULL)
    return tried.wait() == 0


def listen(hosts, k):
    code = "import socket\ns = socket.create_server(('', 7000))\nprint(flush=True)\nwhile True: s.accept()"
    hosts.start(k, "python", "-c", code, stdout=subprocess.PIPE).stdout.readline()


def test_each_has_its_own_name_address_memory_and_processes_and_they_share_files(hosts, tmp_path):
    for k in (1, 2):
        hosts.boot(k, shm="7m")
        assert hosts.run(k, "hostname").strip() == f"h{k}"
        assert f"10.77.0.{k}/24" in hosts.run(k, "ip", "-brief", "address")
        hosts.run(k, "touch", "/dev/shm/mine", "/tmp/ray/mine", tmp_path / f"of-h{k}")
        assert hosts.run(k, "df", "--output=size", "--block-size=1M", "/dev/shm").split()[-1] == "7"
        assert len(hosts.run(k, "ps", "-e").splitlines()) < 6
    assert hosts.run(2, "ls", "/dev/shm", "/tmp/ray").split().count("mine") == 2
    assert {path.name for path in tmp_path.glob("of-*")} == {"of-h1", "of-h2"}


def test_a_cable_can_be_pulled_and_a_host_be_killed(hosts):
    for k in (1, 2):
        hosts.boot(k)
    listen(hosts, 2)
    assert reaches(hosts, 2)
    hosts.cut(2)
    assert not reaches(hosts, 2)
    hosts.plug(2)
    assert reaches(hosts, 2)
    hosts.run(2, "touch", "/dev/shm/mine")
    hosts.kill(2)
    assert (hosts.up, reaches(hosts, 2)) == ([1], False)
    hosts.boot(2)
    assert hosts.run(2, "ls", "/dev/shm") == ""
    listen(hosts, 2)
    assert reaches(hosts, 2)
