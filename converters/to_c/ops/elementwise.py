"""To be filled: elementwise."""
