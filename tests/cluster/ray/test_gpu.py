"""A GPU that Ray offers and JAX cannot use: here one that Ray was merely told of."""

import contextlib
import functools
import time

import pytest
import ray

from nextscale.cluster.ray.ray_backend import RayBackend


@pytest.mark.slow
def test_a_gpu_that_jax_cannot_use_is_left_out_and_the_cores_are_used(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(ray, "init", functools.partial(ray.init, num_gpus=2, num_cpus=2))
    with contextlib.closing(RayBackend()) as backend:
        deadline = time.time() + 120
        while len(backend.slots()) < 2 and time.time() < deadline:
            backend.wait(1.0)
        assert sorted(slot.name for slot in backend.slots()) == ["cpu-0", "cpu-1"]
        assert set(backend.pools()) == {"cpu"}
        notices = backend.notices()
        assert ["JAX cannot use a GPU" in text for text in notices] == [True, False]
        assert "CPU" in notices[1]
        assert backend.notices() == []
