"""The report: one self-contained HTML page about a project, drawn from the warehouse alone.

`facts` reads, `plots` and `svg` draw, `layout` places the map's items, `page` puts it together.
"""

from flows.report.page import write_report

__all__ = ["write_report"]
