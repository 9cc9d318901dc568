"""The loop that gets every run done, once, within the caps; leases, accounts and retries. It knows no Ray."""
