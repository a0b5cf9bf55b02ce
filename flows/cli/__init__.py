"""The siftline command."""
