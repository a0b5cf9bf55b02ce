"""`siftline answer`: label waiting tasks in the terminal.

May import `flows.cli.terminal`, `flows.cli.status` and the other packages.
"""
