"""How the command talks: console, tables and shared options.

May import the warehouse only.
"""
