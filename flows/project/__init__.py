"""An open project: its warehouse, encoder, functions and services; its interrupted runs; predictions.

May import `flows.settings`, `flows.servers` and the other packages.
"""
