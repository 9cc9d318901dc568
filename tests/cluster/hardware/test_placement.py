"""What a run needs, held against XLA's own plan; and where that lets it go."""

import dataclasses
import re

import pytest

from nextscale.cluster.hardware.catalogue import CATALOGUE
from nextscale.cluster.hardware.memory import Split, bytes_needed
from nextscale.cluster.hardware.placement import (
    SLOWNESS_LIMIT,
    USABLE_SHARE,
    candidate_splits,
    price,
    seats,
    utilisation,
)
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.speed import Speed
from nextscale.model.accounting import flops_per_token, parameters
from nextscale.model.errors import InputError
from nextscale.model.network.sharding import Layout

KNOWN = {**CATALOGUE, "cpu": dataclasses.replace(CATALOGUE["cpu"], peak_flops=1e11)}
ONE_GPU = Pool(accelerator="h100")


def test_a_gang_over_several_slices_has_a_mesh_of_all_their_chips(run):
    pool = Pool(accelerator="tpu-v4", hosts=2, chips=4, slices=2, slices_per_run=2)
    assert {split.devices for split in candidate_splits(run(sequences=64), pool)} == {16}


def test_a_small_run_takes_the_smallest_slot_and_then_the_cheapest(run):
    pools = {
        "pod": Pool(accelerator="tpu-v5e", hosts=4, chips=4),
        "big": Pool(accelerator="h100", chips=8),
        "cheap": Pool(accelerator="l4"),
        "free": Pool(accelerator="h100", usd_per_chip_hour=0.01),
    }
    found = seats(run(sequences=16), 1e15, pools, KNOWN)
    assert [seat.pool for seat in found] == ["free", "cheap", "big", "pod"]
    assert found[0].layout == "data=1,fsdp=1,tensor=1"
    assert found[-1].layout == "data=16,fsdp=1,tensor=1", "a gang uses all its devices"
    assert found[2].usd_per_hour == CATALOGUE["h100"].usd_per_chip_hour, "a warm lane of one chip a run"


def test_state_that_one_device_cannot_hold_is_split_as_far_as_need_be(large):
    (seat,) = seats(large(), 1e20, {"host": Pool(accelerator="h100", chips=8, lane="gang")}, KNOWN)
    assert seat.chips == 8
    assert seat.layout.endswith("tensor=1")
    assert Layout.parse(seat.layout).devices == 8
    split = Split(*dataclasses.astuple(Layout.parse(seat.layout)), seat.micro_batches, seat.recompute)
    assert bytes_needed(large(), split, "cuda") <= USABLE_SHARE * CATALOGUE["h100"].hbm_bytes
    assert bytes_needed(large(), split._replace(fsdp=split.fsdp // 2, data=split.data * 2), "cuda") > 0
    assert seat.usd_per_hour == pytest.approx(8 * CATALOGUE["h100"].usd_per_chip_hour)


def test_what_fits_nowhere_is_one_line_with_the_need_and_the_room(large):
    pools = {"small": Pool(accelerator="l4"), "one": ONE_GPU}
    expected = (
        r"^a run of 6\.4.e\+09 parameters needs \S+ GB of each .* slot, 1 x h100 of pool one, has 73.6 of each; .*$"
    )
    with pytest.raises(InputError, match=expected):
        seats(large(), 1e20, pools, KNOWN)


def test_a_batch_that_does_not_divide_over_a_gang_is_told(run):
    pod = {"pod": Pool(accelerator="tpu-v5e", hosts=4, chips=4)}
    with pytest.raises(
        InputError, match=r"cannot be spread over 16 chips \(1 x 4 x 4\) of pool pod: a batch has 3 seq"
    ):
        seats(run(sequences=3, heads=1), 1e15, pod, KNOWN)


@pytest.mark.parametrize("heads, ways", [(1, 16), (2, 8), (4, 4), (6, 8)])
def test_the_batch_that_is_told_instead_can_be_spread(run, heads, ways):
    pod, width = {"pod": Pool(accelerator="tpu-v5e", hosts=4, chips=4)}, 96
    config = run(sequences=ways + 1, heads=heads, width=width)
    with pytest.raises(InputError, match=rf"a multiple of {ways} x \d+ = \d+, such as (\d+) or (\d+)") as error:
        seats(config, 1e15, pod, KNOWN)
    for batch in re.search(r"such as (\d+) or (\d+)", str(error.value)).groups():
        sequences = int(batch) // config.model.context
        assert seats(run(sequences=sequences, heads=heads, width=width), 1e15, pod, KNOWN)
        assert abs(sequences - config.batch_sequences) < ways


def test_the_chips_that_are_told_instead_can_share_the_batch(run):
    """At 8192 tokens half a million are 64 sequences, for 256 chips of which `tensor` can join none."""
    pod = Pool(accelerator="tpu-v5e", hosts=64, chips=4)
    config = run(context=8192, sequences=64, heads=15, width=1920, depth=16, dtype="bfloat16")
    with pytest.raises(InputError, match=r"a batch has 64 sequences of 8192 tokens.* or take 64 chips$"):
        seats(config, 1e20, {"pod": pod}, KNOWN)
    (seat,) = seats(config, 1e20, {"pod": pod.model_copy(update={"hosts": 16})}, KNOWN)
    assert seat.chips == 64
    (shared,) = seats(run(context=8192, sequences=64, heads=16, width=2048, depth=16), 1e20, {"pod": pod}, KNOWN)
    assert shared.layout == "data=64,fsdp=1,tensor=4"


def test_where_sequences_do_not_divide_heads_do_but_only_within_a_host(run):
    pod = Pool(accelerator="tpu-v5e", hosts=2, chips=4)
    found = list(candidate_splits(run(sequences=2, heads=8, width=64), pod))
    assert found[0] == Split(data=2, tensor=4)
    assert all(split.tensor <= 4 and split.devices == 8 for split in found)
    lone = Pool(accelerator="tpu-v5e", chips=4, chips_per_run=4)
    first = next(candidate_splits(run(sequences=3, heads=1, width=64), lone))
    assert first == Split(), "a lone process may leave some idle"


def test_a_width_is_split_only_as_far_as_it_divides(run):
    pod = Pool(accelerator="tpu-v5e", hosts=2, chips=4)
    assert {split.fsdp for split in candidate_splits(run(width=12, heads=2, sequences=8), pod)} == {1, 2, 4}
    odd, even = (run(width=512, vocab=vocab, mlp="none") for vocab in (32769, 32768))
    assert bytes_needed(odd, Split(tensor=4)) > 2 * bytes_needed(even, Split(tensor=4))


def test_half_a_gpu_has_half_its_memory_and_speed(run):
    config = run(width=1024, depth=8, vocab=32768, sequences=16, context=1024)
    whole, half = (
        seats(config, 1e18, {"one": Pool(accelerator="l4", chips_per_run=share)}, KNOWN)[0] for share in (1, 0.5)
    )
    assert half.seconds >= 2 * whole.seconds
    assert half.usd_per_hour == pytest.approx(whole.usd_per_hour / 2)
    assert half.micro_batches > whole.micro_batches


def test_a_pool_that_would_take_for_ever_is_left_out(run, large):
    pools = {"cores": Pool(accelerator="cpu", chips=16), "one": ONE_GPU}
    assert [seat.pool for seat in seats(large(width=1024, depth=8), 1e19, pools, KNOWN)] == ["one"]
    tiny = seats(run(), 1e12, pools, KNOWN)
    assert {seat.pool for seat in tiny} == {"cores", "one"}
    assert max(seat.seconds for seat in tiny) <= SLOWNESS_LIMIT * min(seat.seconds for seat in tiny)


def test_seconds_are_flops_over_what_the_devices_are_expected_to_reach(large):
    config = large(width=1024, depth=8)
    (seat,) = seats(config, 1e19, {"one": ONE_GPU}, KNOWN)
    assert parameters(config.model) > 1e8
    assert seat.recompute == "none"
    assert seat.seconds == pytest.approx(1e19 / (0.4 * CATALOGUE["h100"].peak_flops))
    assert utilisation(KNOWN["h100"], 1e7) == pytest.approx(0.04)
    assert utilisation(KNOWN["cpu"], 1e6) > utilisation(KNOWN["cpu"], 1e4)


def test_a_run_that_computes_its_blocks_twice_takes_what_such_runs_took(large):
    config = large(context=8192, sequences=8, position="alibi")
    pools = {"host": Pool(accelerator="h100", chips=4, lane="gang")}
    flops = flops_per_token(config.model) * config.tokens
    for known in ({"recompute": True}, {}):
        row = {"run_id": "a", "accelerator": "h100", "chips": 4, "outcome": "finished", "seconds": 1000.0}
        row |= {"utilisation": 0.4, "flops_kept": int(flops)} | known
        (timed,) = seats(config, flops, pools, KNOWN, Speed.from_accounts([row], {"a": config}.get))
        assert timed.recompute != "none"
        assert timed.measured
        assert timed.seconds == pytest.approx(1000)


def test_a_price_says_where_it_is_from():
    h100, v5e = CATALOGUE["h100"], CATALOGUE["tpu-v5e"]
    assert price(Pool(accelerator="h100", usd_per_chip_hour=2), h100) == (2, "the pool's own")
    assert price(Pool(accelerator="tpu-v5e", spot=True), v5e)[0] == v5e.usd_per_chip_hour_spot
    usd, basis = price(Pool(accelerator="h100", spot=True), h100)
    assert (usd, basis.endswith("none is listed for spot")) == (h100.usd_per_chip_hour, True)
    assert price(Pool(accelerator="cpu"), CATALOGUE["cpu"])[0] is None


def test_an_accelerator_of_no_known_peak_is_told(run):
    with pytest.raises(InputError, match="pool cores: no peak_flops of cpu is known; state it in a site file"):
        seats(run(), 1e12, {"cores": Pool(accelerator="cpu")}, CATALOGUE)
