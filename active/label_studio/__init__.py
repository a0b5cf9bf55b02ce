"""The annotation service over a Label Studio server.

May import `active.annotation` and the warehouse.
"""
