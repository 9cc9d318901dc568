"""Where and when runs execute: the only place that knows Ray."""
