"""To be filled: shapes."""
