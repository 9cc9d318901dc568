"""How a sweep stands, from its files alone: `status`, the live page and its server."""
