"""Servers and processes on this machine: Prefect, Label Studio, ports, and what runs in the background.

May import the warehouse and `engine.client`.
"""
