"""The network: a decoder-only Transformer, its parametrizations, and how it lies on many devices."""
