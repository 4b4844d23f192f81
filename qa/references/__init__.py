"""Numbers of the original implementations, compared with the kit."""
