"""To be filled: depthwise."""
