"""Results as one HTML page that opens offline and needs nothing but a browser."""

from lowcurve.report.figures import draw, draw_curves, draw_gallery, draw_numbers, draw_table
from lowcurve.report.page import page
from lowcurve.report.palette import Style, styles

__all__ = ["page", "draw", "draw_table", "draw_curves", "draw_numbers", "draw_gallery", "styles", "Style"]
