"""Results as one HTML page that opens offline and needs nothing but a browser."""

from lowcurve.report.figures import draw, draw_gallery
from lowcurve.report.page import Group, Raised, Verdict, page
from lowcurve.report.palette import Style, styles
from lowcurve.report.plots import draw_curves, draw_scatter
from lowcurve.report.static import static_figure
from lowcurve.report.surfaces import draw_surface
from lowcurve.report.tables import draw_table

__all__ = [
    "page", "Group", "Verdict", "Raised", "draw", "draw_table", "draw_curves", "draw_scatter", "draw_surface",
    "draw_gallery", "static_figure", "styles", "Style",
]  # fmt: skip
