"""To be filled: matmul."""
