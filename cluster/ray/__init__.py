"""All that knows Ray: a cluster as the controller sees it, warm workers, gangs over slices, jobs."""
