"""Where and when runs execute: hardware and prices, the controller, and the workers on Ray."""
