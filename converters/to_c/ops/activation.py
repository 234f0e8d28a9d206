"""To be filled: activation."""
