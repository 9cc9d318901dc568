"""A mixture reads each of its sources in its own order, in proportion, and from any position on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.model.config.data import MarkovData, MixtureData, TokenData
from nextscale.model.data.mixture import Mix, in_proportion, spread_evenly
from nextscale.model.data.sources import open_sets, open_source, resolve
from nextscale.model.errors import InputError
from nextscale.model.training.train import train

MIXES = st.builds(Mix, st.lists(st.floats(0.02, 1), min_size=1, max_size=5).map(tuple), st.integers(0, 9))
VOCAB = 30_000


def counted(folder, name, first, count):
    """A file of so many tokens, each by its own number, so that a sequence says where it is from."""
    np.arange(first, first + count).astype(np.uint16).tofile(folder / f"{name}.bin")
    return {"source": "tokens", "path": str(folder / f"{name}.bin"), "vocab": VOCAB}


@pytest.fixture
def mixture(tmp_path):
    """Three sources of 24k, 4k and 1k tokens; `mixture(web=..., code=..., math=...)` with these weights."""

    def build(**weights):
        data = {
            "web": counted(tmp_path, "web", 0, 24_001),
            "code": counted(tmp_path, "code", 24_001, 4_001),
            "math": counted(tmp_path, "math", 28_002, 1_001),
        }
        sources = {name: {"weight": weight, "data": data[name]} for name, weight in weights.items()}
        return resolve(MixtureData(source="mixture", sources=sources))

    return build


def source_of(sequences):
    """0 web, 1 code, 2 math."""
    return np.searchsorted([24_001, 28_002], sequences[:, 0], side="right")


class TestMix:
    @given(MIXES, st.integers(0, 10**12), st.integers(1, 3000))
    @settings(max_examples=50)
    def test_counts_are_those_of_the_order(self, mix, first, count):
        before, after = mix.counts_before(first), mix.counts_before(first + count)
        found = np.bincount(mix.sources(first, count), minlength=len(mix.shares))
        assert (np.array(after) - before).tolist() == found.tolist()
        assert sum(before) == first

    @given(MIXES, st.integers(0, 10**6), st.integers(0, 1000), st.integers(1, 1000))
    @settings(max_examples=50)
    def test_the_order_does_not_depend_on_how_it_is_asked_for(self, mix, first, offset, count):
        whole = mix.sources(first, offset + count)
        np.testing.assert_array_equal(whole[offset:], mix.sources(first + offset, count))

    @given(MIXES, st.integers(1, 10**9))
    @settings(max_examples=50)
    def test_proportions_are_exact_however_long_the_run(self, mix, periods):
        number = periods * mix.period
        exact = np.array(mix.shares) / sum(mix.shares) * number
        assert np.abs(np.array(mix.counts_before(number)) - exact).max() <= 1 + 1e-3

    def test_order_is_shuffled_anew_in_each_period_and_by_each_seed(self):
        mix, other = Mix((0.5, 0.5), 0), Mix((0.5, 0.5), 1)
        a, b = mix.sources(0, mix.period), mix.sources(mix.period, mix.period)
        assert 0.3 < (a == b).mean() < 0.7
        assert 0.3 < (a == other.sources(0, mix.period)).mean() < 0.7

    @given(st.lists(st.floats(0.001, 1), min_size=1, max_size=6).map(tuple), st.integers(0, 10_000))
    def test_whole_numbers_in_proportion(self, shares, count):
        found = in_proportion(count, shares)
        assert sum(found) == count
        assert np.abs(np.array(found) - np.array(shares) / sum(shares) * count).max() < 1

    def test_any_stretch_of_an_even_spread_is_in_proportion(self):
        order = spread_evenly({0: 600, 1: 300, 2: 100})
        assert np.bincount(order).tolist() == [600, 300, 100]
        for start in range(0, 1000, 50):
            assert np.abs(np.bincount(order[start : start + 50], minlength=3) - [30, 15, 5]).max() <= 1


class TestSource:
    def test_each_source_is_read_once_an_epoch_in_its_own_order(self, mixture, tiny_run):
        run = tiny_run(data=mixture(web=6, code=3, math=1))
        source = open_source(run)
        read = source.sequences(0, 3000)
        for i, (name, part) in enumerate([("web", 0), ("code", 1), ("math", 2)]):
            own = read[source_of(read) == i]
            alone = open_source(run.model_copy(update={"data": run.data.sources[name].data}))
            np.testing.assert_array_equal(own, alone.sequences(0, len(own)))
            assert len(np.unique(own[:, 0])) == min(len(own), alone.split.train_count), part

    def test_it_reads_on_from_any_position(self, mixture, tiny_run):
        source = open_source(tiny_run(data=mixture(web=6, code=3, math=1)))
        whole = source.sequences(0, 3000)
        for first, count in [(0, 1), (255, 2), (256, 300), (777, 1500), (2999, 1)]:
            np.testing.assert_array_equal(whole[first : first + count], source.sequences(first, count))

    def test_held_out_is_in_proportion_and_never_trained_on(self, mixture, tiny_run):
        source = open_source(tiny_run(data=mixture(web=6, code=3, math=1)))
        held_out = source.held_out(30)
        assert np.bincount(source_of(held_out)).tolist() == [18, 9, 3]
        # math has 3 held-out sequences of 8 tokens, a tenth of all.
        assert np.bincount(source_of(source.held_out(10**6))).tolist() == [18, 9, 3]
        assert not set(held_out[:, 0]) & set(source.sequences(0, 6000)[:, 0])

    def test_repeated_data_is_counted_for_each_source(self, mixture, tiny_run):
        source = open_source(tiny_run(data=mixture(web=1, math=1)))
        math = open_source(tiny_run(data=mixture(math=1))).parts["math"].split.train_count * 8
        tokens = 256 * 8 * 4
        assert source.unique_tokens(tokens) == tokens // 2 + math
        columns = source.epochs(tokens)
        assert columns["epochs_web"] == 1
        assert columns["unique_tokens_math"] == math
        assert columns["epochs_math"] == pytest.approx(tokens / 2 / math)

    def test_order_of_writing_means_nothing_and_weights_do(self, mixture, tiny_run):
        one, same, other = (
            tiny_run(data=mixture(**weights)) for weights in ({"web": 2, "math": 1}, {"math": 1, "web": 2}, {"web": 2})
        )
        assert one.run_id == same.run_id != other.run_id
        np.testing.assert_array_equal(open_source(one).sequences(0, 99), open_source(same).sequences(0, 99))
        unresolved = MixtureData.model_validate(
            {"source": "mixture", "sources": {"a": {"weight": 1, "data": {"source": "text", "path": "x"}}}}
        )
        with pytest.raises(ValueError, match="fingerprint"):
            tiny_run(data=unresolved).run_id  # noqa: B018

    def test_bytes_per_token_are_those_of_the_mixture(self, tmp_path, tiny_run):
        def of(**bytes_per_token):
            sources = {
                name: {"weight": 1, "data": counted(tmp_path, name, 1000 * i, 999) | {"bytes_per_token": per_token}}
                for i, (name, per_token) in enumerate(bytes_per_token.items())
            }
            data = resolve(MixtureData(source="mixture", sources=sources))
            return open_source(tiny_run(data=data)).tokens_per_byte

        assert of(a=2.0, b=6.0) == pytest.approx(1 / 4)
        assert of(a=2.0, b=None) is None

    @pytest.mark.slow
    def test_the_record_has_the_loss_and_the_epochs_of_each_source(self, tiny_run, run_directory):
        sources = {
            name: {"weight": weight, "data": {"source": "markov", "vocab": 16, "seed": i}}
            for i, (name, weight) in enumerate({"easy": 3, "hard": 1}.items())
        }
        run = tiny_run(data=MixtureData(source="mixture", sources=sources), steps=60)
        record = train(run, run_directory)
        assert record["loss_easy"] != record["loss_hard"]
        assert min(record["loss_easy"], record["loss_hard"]) < record["loss"] * 1.05
        assert record["epochs"] == record["epochs_easy"] == 1
        assert record["unique_tokens_easy"] + record["unique_tokens_hard"] == record["unique_tokens"] == 60 * 32


class TestMistakes:
    def test_the_same_data_twice(self, tmp_path):
        one = counted(tmp_path, "a", 0, 999)
        sources = {name: {"weight": 1, "data": one} for name in ("a", "b")}
        with pytest.raises(InputError, match=r"data\.sources\.b: is the data of a too; leave it out"):
            resolve(MixtureData(source="mixture", sources=sources))

    def test_which_source_is_wrong(self, tmp_path, tiny_run):
        good, gone = counted(tmp_path, "a", 0, 999), {"source": "text", "path": str(tmp_path / "gone")}
        sources = {"a": {"weight": 1, "data": good}, "b": {"weight": 1, "data": gone | {"vocab": 256}}}
        with pytest.raises(ValueError, match=r"sources\.b\.data\.vocab: is 256, and that of a 30000"):
            MixtureData(source="mixture", sources=sources)
        sources["a"]["data"] = good | {"vocab": 256}
        with pytest.raises(InputError, match=r"^data\.sources\.b\.data\.path: there is no file or folder"):
            resolve(MixtureData(source="mixture", sources=sources))
        del sources["b"]
        data = resolve(MixtureData(source="mixture", sources=sources))
        with pytest.raises(InputError, match=r"^data\.sources\.a\.data\.vocab: is 256, but the data holds token"):
            open_source(tiny_run(data=data)).sequences(0, 200)

    def test_a_share_too_small_to_be_read(self):
        sources = {
            name: {"weight": weight, "data": {"source": "markov", "seed": i}}
            for i, (name, weight) in enumerate({"a": 1.0, "b": 1e-5}.items())
        }
        with pytest.raises(ValueError, match=r"sources\.b\.weight: is 1e-05 of all; make it 0\.0001 or more"):
            MixtureData(source="mixture", sources=sources)

    def test_a_set_of_the_same_name_or_data(self, tiny_run, mixture):
        data = mixture(web=1, math=1)
        run = tiny_run(data=data)
        other = MarkovData(source="markov", vocab=16)
        for sets, says in [
            ({"web": TokenData(source="tokens", path="x", vocab=VOCAB, fingerprint="y")}, "is the name of"),
            ({"mine": data.sources["web"].data}, "is the data trained on"),
            ({"mine": other}, "vocab 16 is not that of the data"),
        ]:
            with pytest.raises(ValueError, match=says):
                type(run).model_validate(run.model_dump() | {"evaluation": {"sets": sets}})

    def test_sets_and_sources_are_measured_beside_each_other(self, tiny_run, mixture, tmp_path):
        run = tiny_run(data=mixture(web=1, math=1))
        mine = resolve(TokenData(**counted(tmp_path, "mine", 0, 900)))
        run = type(run).model_validate(run.model_dump() | {"evaluation": {"tokens": 512, "sets": {"mine": mine}}})
        source = open_source(run)
        assert list(open_sets(run, source)) == ["mine", "math", "web"]
        assert sorted(run.set_names) == ["math", "mine", "web"]
