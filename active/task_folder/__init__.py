"""The annotation service over a folder of JSON tasks, for projects without a server.

May import `active.annotation` and the warehouse.
"""
