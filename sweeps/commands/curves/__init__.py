"""The commands `curve`: training curves under other schedules, on one another, and of rewards."""
