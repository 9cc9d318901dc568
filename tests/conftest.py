"""Every test runs on the CPU, one thread each, with a cache of its own."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")  # on a busy machine it takes longer than Ray waits
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import fcntl
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    """Where time is short, as in CI, each commit begins with other soak tests: all have their turn."""
    if commit := os.environ.get("NEXTSCALE_TEST_FROM"):
        soak = [i for i, item in enumerate(items) if "soak" in item.keywords]
        at = int(commit, 16) % len(soak) if soak else 0
        for i, item in zip(soak, [items[i] for i in soak[at:] + soak[:at]], strict=True):
            items[i] = item


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """No test begins after `NEXTSCALE_TEST_UNTIL`, seconds since 1970: so CI ends in time on any machine."""
    if time.time() > float(os.environ.get("NEXTSCALE_TEST_UNTIL", "inf")):
        pytest.skip("no time is left for it")


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory):
    """Where tokens are kept, and compiled programs: many tests train the same tiny run, in processes side by side."""
    side_by_side = "PYTEST_XDIST_WORKER" in os.environ
    whole = tmp_path_factory.getbasetemp().parent if side_by_side else tmp_path_factory.getbasetemp()
    os.environ["NEXTSCALE_CACHE"] = folder = str(whole / "cache")
    import jax

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="session")
def published_folder():
    """Runs that others published; what needs them is skipped where they are not at hand."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"published runs are not at hand: there is no {folder}")
    return folder


@pytest.fixture(scope="session")
def beside():
    """Gives a module of this folder, which is no package, by its name."""

    def loaded(name):
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.fixture(scope="session")
def staging(beside):
    """The module `staged.py`."""
    return beside("staged")


@pytest.fixture(scope="session")
def aftermath(beside):
    """The module `aftermath.py`."""
    return beside("aftermath")


@pytest.fixture
def hosts(beside, tmp_path):
    """Hosts on this machine, none of them up: see `hosts.py`. What needs them is skipped where it can have none."""
    module = beside("hosts")
    if (reason := module.why_not()) is not None:
        pytest.skip(reason)
    with module.Hosts(tmp_path / "hosts") as made:
        yield made


@pytest.fixture(scope="session")
def _s3_server(beside):
    pytest.importorskip("moto.server")
    server = beside("s3").Server()
    yield server
    server.close()


@pytest.fixture
def s3(_s3_server, monkeypatch):
    """An S3 server; see `s3.py`."""
    for name, value in _s3_server.environment.items():
        monkeypatch.setenv(name, value)
    yield _s3_server
    _s3_server.faults.clear()


@pytest.fixture
def staged(staging, tmp_path):
    """A sweep that a test takes forward step by step, in `tmp_path / "out"`: `staged()`, `staged(name="other")`."""
    begun = []

    def stage(out="out", **changes):
        begun.append(staging.Staged(tmp_path / out, **changes))
        return begun[-1]

    yield stage
    for one in begun:
        one.close()


@pytest.fixture(scope="session")
def command():
    """The `nextscale` command, for a process of its own."""
    return [sys.executable, "-c", "from nextscale.sweeps.commands.app import main; main()"]


@pytest.fixture(scope="session")
def nextscale(command):
    """Runs the command to its end: `nextscale("plan", path)`."""

    def run(*arguments, timeout=900, **options):
        given = [*command, *map(str, arguments)]
        return subprocess.run(given, check=False, capture_output=True, text=True, timeout=timeout, **options)

    return run


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """`made_once(name, make)`: a folder that `make` fills, in one of the processes that test side by side."""

    def made(name, make):
        folder = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            folder = folder.parent
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / name).exists():
                (folder / f"{name}.begun").mkdir()
                make(folder / f"{name}.begun")
                (folder / f"{name}.begun").rename(folder / name)
        return folder / name

    return made
