"""What compilers say of a run before it is trained, also those of devices that are not here."""
