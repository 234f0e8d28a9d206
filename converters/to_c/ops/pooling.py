"""To be filled: pooling."""
