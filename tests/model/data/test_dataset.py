"""Any object with `ds[i]` is a source: one sequence or a batch an item, with or without a length."""

import sys
import types

import numpy as np
import pytest

from nextscale.model.config.data import DatasetData, MixtureData
from nextscale.model.data.sources import open_source, resolve
from nextscale.model.errors import InputError
from nextscale.model.training.train import train

CONTEXT, VOCAB = 8, 16


class Batches:
    """Sequences whose first two tokens are their number, in batches of so many, or one by one."""

    def __init__(self, length=10, batch=None, first=0, form=lambda array: array, context=CONTEXT):
        self.length, self.batch, self.first, self.form, self.context = length, batch, first, form, context
        self.read = 0

    def sequence(self, number):
        row = np.random.default_rng(number).integers(0, VOCAB, self.context + 1)
        row[:2] = divmod((self.first + number) % VOCAB**2, VOCAB)
        return row

    def __getitem__(self, i):
        if self.length is not None and not 0 <= i < self.length:
            raise IndexError(i)
        self.read += 1
        size = self.batch or 1
        rows = np.array([self.sequence(i * size + j) for j in range(size)])
        return self.form(rows if self.batch else rows[0])


class Sized(Batches):
    def __len__(self):
        return self.length


@pytest.fixture
def dataset(monkeypatch):
    """`dataset(object)`: the data of a factory that returns it; what is held out is of 20 sequences."""
    module = types.ModuleType("some_data")
    monkeypatch.setitem(sys.modules, "some_data", module)
    module.held_out = lambda **arguments: Sized(20, first=200, **arguments)

    def build(items, **fields):
        module.train = items if callable(items) else lambda: items
        asked = {"factory": "some_data:train", "held_out": "some_data:held_out", "fingerprint": "v1", "vocab": VOCAB}
        return DatasetData(**{"source": "dataset", **asked, **fields})

    return build


def numbers(sequences):
    return (sequences[:, 0] * VOCAB + sequences[:, 1]).tolist()


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_sequence_n_is_row_n_of_the_batches(dataset, tiny_run, batch):
    source = open_source(tiny_run(data=resolve(dataset(Sized(10, batch)))))
    whole = source.sequences(0, 25)
    count = 10 * (batch or 1)
    assert numbers(whole) == [n % count for n in range(25)], "it begins again where it ends"
    for first, some in [(0, 1), (3, 2), (7, 13), (24, 1)]:
        np.testing.assert_array_equal(whole[first : first + some], source.sequences(first, some))
    assert numbers(source.held_out(5)) == [200, 201, 202, 203, 204]
    assert len(source.held_out(10**6)) == 20


def test_repeated_data_is_counted_where_there_is_a_length(dataset, tiny_run):
    endless, sized = (open_source(tiny_run(data=dataset(items))) for items in (Batches(None), Sized(10, 4)))
    assert endless.unique_tokens(10**6) == 10**6
    assert sized.unique_tokens(10**6) == 10 * 4 * CONTEXT
    assert endless.sequences(10**9, 3).shape == (3, CONTEXT + 1)


def test_a_batch_is_read_once_for_its_sequences(dataset, tiny_run):
    items = Batches(None, 64)
    source = open_source(tiny_run(data=dataset(items)))
    for first in range(0, 128, 4):
        source.sequences(first, 4)
    assert items.read == 2


@pytest.mark.parametrize(
    "form, key",
    [
        (lambda array: {"tokens": array}, None),
        (lambda array: {"tokens": array, "weights": array * 0.5}, "tokens"),
        (list, None),
        (lambda array: array.astype(np.uint16), None),
    ],
)
def test_forms_of_an_item(dataset, tiny_run, form, key):
    source = open_source(tiny_run(data=dataset(Sized(10, 2, form=form), key=key)))
    assert numbers(source.sequences(0, 20)) == list(range(20))


def test_arguments_are_given(dataset, tiny_run):
    fields = {"arguments": {"length": 7}, "held_out_arguments": {"batch": 2}}
    one, other = (tiny_run(data=dataset(Sized, **f)) for f in (fields, fields | {"arguments": {"length": 9}}))
    assert open_source(one).unique_tokens(10**6) == 7 * CONTEXT
    assert len(open_source(one).held_out(10**6)) == 40
    assert one.run_id != other.run_id


def test_the_version_names_the_data(dataset, tiny_run):
    one, other = (tiny_run(data=dataset(Sized(9), fingerprint=version)) for version in ("v1", "v2"))
    assert one.run_id != other.run_id


@pytest.mark.slow
def test_it_trains_and_is_counted(dataset, tiny_run, run_directory):
    record = train(tiny_run(data=dataset(Sized(40, 2), bytes_per_token=2.0)), run_directory)
    assert (record["unique_tokens"], record["epochs"]) == (640, 2)
    assert record["bits_per_byte"] == pytest.approx(record["loss"] / np.log(2) / 2)


def test_it_can_be_part_of_a_mixture(dataset, tiny_run):
    parts = {"mine": {"weight": 1, "data": dataset(Sized(10))}, "known": {"weight": 1, "data": MARKOV}}
    source = open_source(tiny_run(data=resolve(MixtureData(source="mixture", sources=parts))))
    assert source.sequences(0, 512).shape == (512, CONTEXT + 1)
    assert source.epochs(512 * CONTEXT)["epochs_mine"] == 25.6
    assert len(source.held_out(10**3)) == 40


MARKOV = {"source": "markov", "vocab": VOCAB}


@pytest.mark.parametrize(
    "items, fields, says",
    [
        (Sized(0), {}, "data.factory: .* is empty"),
        (Sized(9, context=9), {}, r"data.factory: ds\[0\] has shape \(10,\); give 9 tokens"),
        (Sized(9, 2, context=7), {}, r"data.factory: ds\[0\] has shape \(2, 8\); give 9 tokens"),
        (Sized(9, form=lambda a: a[None, None]), {}, r"has shape \(1, 1, 9\)"),
        (Sized(9, form=lambda a: a * 1.0), {}, r"ds\[0\] holds float64; give whole numbers"),
        (Sized(9, form=lambda a: "text"), {}, r"ds\[0\] has shape \(\)"),
        (Sized(9, form=lambda a: a - 1), {}, r"data.vocab: is 16, but ds\[0\] of data.factory holds token -1"),
        (Sized(9, form=lambda a: a + 2**32), {}, r"data.vocab: is 16, but ds\[0\] of data.factory holds token 42949"),
        (Sized(9, form=lambda a: {"x": a, "y": a}), {}, r"data.key: ds\[0\] of data.factory has x, y; name that"),
        (Sized(9, form=lambda a: {"x": a}), {"key": "y"}, r"data.key: ds\[0\] of data.factory has no y; it has x"),
        (Sized(9, form=lambda a: 1 / 0), {}, r"data.factory: ds\[0\] cannot be read: ZeroDivisionError: division by"),
        (lambda: 3, {}, "data.factory: some_data:train returns int, which has no ds"),
        (lambda x: x, {}, "data.factory: some_data:train failed: TypeError: .*missing 1 required"),
    ],
)
def test_what_is_no_data_is_told_in_one_line(dataset, tiny_run, items, fields, says):
    with pytest.raises(InputError, match=says) as error:
        open_source(tiny_run(data=resolve(dataset(items, **fields))))
    assert "\n" not in str(error.value)


def test_an_incomplete_last_batch_is_found_at_once(dataset, tiny_run):
    class Ragged(Sized):
        def __getitem__(self, i):
            return super().__getitem__(i)[: 1 if i == 9 else None]

    with pytest.raises(InputError, match=r"ds\[9\] holds 1 sequences and ds\[0\] 4; drop an incomplete last batch"):
        open_source(tiny_run(data=dataset(Ragged(10, 4))))


@pytest.mark.parametrize(
    "name, says",
    [
        ("no_such_module:f", "data.held_out: .* cannot be imported: ModuleNotFoundError.*PYTHONPATH"),
        ("some_data:none", "data.held_out: .* cannot be imported: AttributeError"),
        ("some_data:__name__", "data.held_out: some_data:__name__ is no function, but str"),
    ],
)
def test_a_factory_that_is_not_there_is_told_when_the_sweep_is_planned(dataset, name, says):
    with pytest.raises(InputError, match=says):
        resolve(dataset(Sized(9), held_out=name))
