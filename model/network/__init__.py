"""The network: a decoder-only Transformer, its loss, and its sharding over many devices."""
