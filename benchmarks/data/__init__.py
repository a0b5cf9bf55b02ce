"""What benchmarks read: the data folder's files, similarity pairs, texts that no training saw, labelled sets."""
