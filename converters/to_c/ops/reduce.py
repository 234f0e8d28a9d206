"""To be filled: reduce."""
