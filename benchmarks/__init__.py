"""One command per published figure; each prints JSON with commit, hardware, versions and seeds."""
