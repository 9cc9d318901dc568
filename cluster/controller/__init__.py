"""The controller: gets every run done once, within caps, with leases, accounts and retries. It knows no Ray."""
