"""The best learning rate and batch size: at each scale, and how they move with it."""
