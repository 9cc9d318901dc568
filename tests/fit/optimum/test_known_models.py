"""Published models: figures that are in the public record, each with where it was printed."""

import re

import pytest

from nextscale.fit import known_models


def test_compute_is_what_their_authors_print():
    """Hoffmann et al. 2022 (5.76e23, of which 6ND is within 13 %: see docs/public-record.md), Brown et al. 2020 (table
    D.1: 3.14e23) and Dubey et al. 2024 (3.8e25)."""
    flops = known_models().set_index("name")["flops"]
    assert flops["Chinchilla"] == pytest.approx(5.76e23, rel=0.03)
    assert flops["Gopher"] == pytest.approx(5.76e23, rel=0.13)
    assert flops["GPT-3"] == pytest.approx(3.14e23, rel=0.01)
    assert flops["PaLM"] == pytest.approx(2.56e24, rel=0.02)  # Chowdhery et al. 2022, table 21
    assert flops["Llama 3 405B"] == pytest.approx(3.8e25, rel=0.01)


def test_each_has_a_date_a_source_and_figures_that_can_be():
    models = known_models()
    assert models["name"].is_unique
    assert models["date"].is_monotonic_increasing
    for row in models.itertuples():
        assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", row.date)
        assert re.match(r"arXiv \d{4}\.\d{5} \(|model card of ", row.source)
        assert 1e9 < row.params < row.tokens
        assert 1 < row.tokens / row.params < 3000
