"""What a device application imports: load an artifact, run it."""
