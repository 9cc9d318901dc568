"""What processes of one run agree on, and how they find each other."""

import os
import socket
import subprocess
import sys

import pytest


@pytest.fixture
def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


AGREEING = """
import sys
from nextscale.model.network.processes import join, of_first_process
join(sys.argv[1], 2, int(sys.argv[2]))
print(of_first_process([2**40 + 3, 7] if sys.argv[2] == "0" else [7]), of_first_process([]))
"""


@pytest.mark.slow
def test_processes_that_see_different_checkpoints_take_those_of_the_first(free_address):
    both = [
        subprocess.Popen([sys.executable, "-c", AGREEING, free_address, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    told = [process.communicate(timeout=120)[0].splitlines()[-1] for process in both]
    assert told == [f"{[2**40 + 3, 7]} []"] * 2


JOINING = """
import sys
import jax
from nextscale.model.network.processes import join
join(sys.argv[1], 1, 0)
print(jax.config.values["jax_cuda_visible_devices"])
"""


@pytest.mark.slow
def test_a_process_that_is_told_all_takes_every_gpu_also_under_slurm(free_address):
    """JAX would take the one of its number on the host, which Slurm's launcher has given to one task of many."""
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    environment = os.environ | slurm | {"SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "1"}
    told = subprocess.run(
        [sys.executable, "-c", JOINING, free_address], env=environment, capture_output=True, text=True, timeout=120
    )
    assert told.stdout.splitlines()[-1:] == ["all"], told.stderr
