"""Ray: the cluster as the controller's backend, warm workers, gangs over slices, jobs. Nothing else imports Ray."""
