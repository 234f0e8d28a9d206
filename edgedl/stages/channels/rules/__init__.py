"""One function for each kind of layer or operation: how channels pass through it."""
