"""What a sweep will cost, where it would run, who must approve it, and when it will be done. No Ray, no devices."""
