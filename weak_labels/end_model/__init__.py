"""The end model: its training data, its stage, and predictions for new texts.

May import `weak_labels.classifiers`, `weak_labels.label_models` and what stands below them.
"""
