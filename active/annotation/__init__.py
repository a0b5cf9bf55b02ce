"""What passes between Siftline and an annotation service: tasks, answers, and the simulated annotator.

May import `features.readers` and the warehouse.
"""
