"""Quality of labels: agreement of annotators, probable errors, and items to ask about again.

May import `active.queue` and what stands below it.
"""
