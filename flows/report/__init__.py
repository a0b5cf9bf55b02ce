"""The report: one self-contained HTML page about a project, drawn from the warehouse alone.

`facts` reads, `plots` and `svg` draw, `layout` places the map's items, `page` puts it together. Nothing is imported
here: a run that says one sentence of `story` need not wait for what `layout` needs.
"""
