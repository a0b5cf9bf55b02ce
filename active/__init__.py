"""Value of a label, selection, the annotation queue and the services where annotators work."""
