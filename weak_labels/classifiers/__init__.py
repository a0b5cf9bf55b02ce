"""Classifiers of the end model: linear and MLP, learned from weak labels and moved by gold labels.

May import `weak_labels.label_models`, `weak_labels.calibration`, `weak_labels.losses` and the warehouse.
"""
