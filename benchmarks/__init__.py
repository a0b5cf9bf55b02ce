"""One command per published figure. `harness` times and keeps, `data` reads, `pages` writes, `peers` are others."""
