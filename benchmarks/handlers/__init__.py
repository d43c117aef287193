"""The handler that cold starts are measured with: as people write it, and with six lines above it."""
