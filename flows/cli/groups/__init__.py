"""The groups of commands, `siftline engine` and its like, one file each; they parse and call."""
