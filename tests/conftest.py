"""Every test runs on the CPU, one thread each, with a cache of its own."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory):
    os.environ["NEXTSCALE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
