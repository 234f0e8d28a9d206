"""To be filled: recurrent."""
