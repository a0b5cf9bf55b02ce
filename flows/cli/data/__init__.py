"""Commands on the warehouse: `sql`, `questions`, `snapshots`, `diff`, `export`, `maintain`, `verify`.

May import `flows.cli.terminal`, `flows.cli.status` and the other packages.
"""
